"""Runs and evaluations as the laptop sees them."""
