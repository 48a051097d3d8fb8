"""Report: one HTML page about a run, made from a fetched folder; it needs no network, JavaScript or host."""

from pathlib import Path

from rdtops.report import page, readme
from rdtops.report.folder import RunFolder

__all__ = ["describe"]


def describe(folder: Path) -> Path:
    """Write report.html and README.md of a fetched folder, and return the page. Raises UsageError."""
    run = RunFolder.read(folder)
    written = page.write(run)
    readme.write(run)  # it lists the page
    return written
