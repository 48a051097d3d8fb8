"""Simulation: LIBERO's simulator, and rollouts of a trained policy in it."""
