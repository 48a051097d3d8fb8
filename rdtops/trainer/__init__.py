"""Trainer: RDT on LIBERO, run on the GPU host. It does not depend on SSH or plugins."""
