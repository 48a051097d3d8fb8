"""Machines over SSH; nothing about training."""
