"""Model: RDT, its frozen encoders and its conditions."""
