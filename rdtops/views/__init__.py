"""Views: one class for each result that a workflow yields, in a module for its noun."""
