"""UI: the command line, the screen and the dashboard."""
