"""Contract: data formats that laptop and GPU host share. Standard library only, Python 3.10."""
