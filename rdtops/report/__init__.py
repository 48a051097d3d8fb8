"""The report of a run: one HTML page that needs no network, no JavaScript and no host, made from a fetched folder."""

from pathlib import Path

from rdtops.report import page, readme
from rdtops.report.folder import RunFolder

__all__ = ["describe"]


def describe(folder: Path) -> Path:
    """Write report.html and README.md of what lies in a fetched folder. Returns the page. Raises UsageError."""
    run = RunFolder.read(folder)
    written = page.write(run)
    readme.write(run)  # it lists the page
    return written
