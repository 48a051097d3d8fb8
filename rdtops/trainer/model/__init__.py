"""RDT, its frozen encoders, and what conditions it."""
