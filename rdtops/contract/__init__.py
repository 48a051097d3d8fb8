"""What the laptop and the GPU host agree on. Standard library only, Python 3.10."""
