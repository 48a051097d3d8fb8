"""Plugins that come with rdtops. Each imports from the public `rdtops.api` only."""
