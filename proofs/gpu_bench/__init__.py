"""The GPU bench: the trainer's numbers, bits, speed and ends on a real GPU, beside what was derived without one."""
