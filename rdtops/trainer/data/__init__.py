"""Training data: LIBERO's demonstrations, the codecs of their numbers, and the batches of a training."""
