"""Plugging: find, load, call and write plugins."""
