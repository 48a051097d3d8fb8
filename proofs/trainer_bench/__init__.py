"""Trainer bench: the speed of the trainer beside the published implementation of the same work."""
