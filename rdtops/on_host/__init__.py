"""Host programs: each is one file of standard library (Python 3.8), sent over stdin at every call, so that nothing
must be installed on a host and the two sides always have the same version."""
