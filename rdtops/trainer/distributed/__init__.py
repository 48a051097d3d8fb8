"""Distributed training: the processes of one training, and what each of them holds."""
