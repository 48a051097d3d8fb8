"""The library of every program on a host: files, locks, processes, GPUs, digests, names. Standard library, Python 3.8.

A program of rdtops.on_host brings along the modules of it that it imports. The laptop and the trainer use the same."""
