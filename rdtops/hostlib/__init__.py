"""Library of the host programs: files, locks, processes, GPUs, digests, names. Standard library, Python 3.8.

The modules that a program of rdtops.on_host imports are sent with it. The laptop and the trainer use the same."""
