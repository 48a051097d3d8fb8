"""The porter: the side of a transfer on the host, and what both sides call things. Standard library, Python 3.8."""
