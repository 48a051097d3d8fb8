"""Report: one HTML page about a run, or about several, made from fetched folders; it needs no network, JavaScript or
host."""

from collections.abc import Sequence
from pathlib import Path

from rdtops.report import comparison, page, readme
from rdtops.report.folder import RunFolder

__all__ = ["compare", "describe"]


def compare(folders: Sequence[Path]) -> Path:
    """Write a page that compares fetched runs into the folder of the first, and return it. Raises UsageError."""
    return comparison.write([RunFolder.read(folder) for folder in folders])


def describe(folder: Path) -> Path:
    """Write report.html and README.md of a fetched folder, and return the page. Raises UsageError."""
    run = RunFolder.read(folder)
    written = page.write(run)
    readme.write(run)  # it lists the page
    return written
