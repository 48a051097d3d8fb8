"""Transfer: the laptop's side of moving files."""
