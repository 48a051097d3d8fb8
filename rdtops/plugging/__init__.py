"""Plugins: found, loaded, called, written."""
