"""Training data: LIBERO's demonstrations, the codecs of their numbers, and the batches of a training."""

import os

# before libhdf5 is loaded, which reads it once: an account's TRUE would overrule h5py's locking=False
os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"
