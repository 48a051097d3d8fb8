"""The plugins that come with rdtops. Each takes the public road: `from rdtops.api import ...`, nothing else of ours."""
