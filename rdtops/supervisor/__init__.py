"""Supervisor: starts a run's training on the host, watches it, and restarts it when that can help.

Standard library and rdtops.contract only: it must not depend on anything that may be broken for the training.
"""
