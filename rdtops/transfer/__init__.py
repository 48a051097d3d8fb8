"""The laptop's side of moving files."""
