"""LIBERO's demonstrations, what their numbers mean, and the batches that a training learns from."""
