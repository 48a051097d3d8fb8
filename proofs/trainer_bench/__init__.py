"""How fast the trainer is, measured beside the published way to do the same work."""
