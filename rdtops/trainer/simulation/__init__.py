"""LIBERO's simulator, and a trained policy that drives it."""
