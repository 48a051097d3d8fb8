"""How things look: one class for each thing that a workflow yields, in a module for its noun."""
