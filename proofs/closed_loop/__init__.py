"""Closed-loop proof: record demonstrations, train small policies, evaluate them in LIBERO's simulator."""
