"""Porter: the side of a transfer on the host, and the modules that both sides share. Standard library, Python 3.8."""
