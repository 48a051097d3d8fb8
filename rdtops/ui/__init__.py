"""Workflows, plugins and the command line."""
