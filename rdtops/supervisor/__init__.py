"""The supervisor: starts a run's training on the host, watches it, and starts it again when that can help.

Standard library and rdtops.contract only: it must not need anything that the training may find broken.
"""
