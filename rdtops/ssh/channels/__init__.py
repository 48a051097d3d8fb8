"""The channels of a connection: what a login shell prints before it runs a command, and how many run at a time."""
