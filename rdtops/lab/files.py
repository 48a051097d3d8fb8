"""Files that others may read at any moment: replaced whole, and only when their content changes."""

from __future__ import annotations

from pathlib import Path


def place(path: Path, text: str, mode: int = 0o644) -> None:
    """Afterwards the file has this content; whoever reads it meanwhile sees all of the old or all of the new."""
    if path.exists() and path.read_text() == text:
        return
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)
