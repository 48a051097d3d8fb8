"""The plugins that come with rdtops. Each takes the public road: `from rdtops.api import ...` and nothing else of ours."""
