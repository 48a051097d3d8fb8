"""Runs on the GPU host: RDT on LIBERO. Knows nothing of SSH or plugins."""
