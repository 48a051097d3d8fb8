"""Files of a lab. Others may read them at any time: they are replaced atomically, and only when they change."""

from __future__ import annotations

from pathlib import Path

from rdtops.hostlib import files


class LabFolder:
    """The files of every lab for its SSH clients."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    @property
    def ssh_config(self) -> Path:
        return self.root / "ssh_config"

    @property
    def identity_file(self) -> Path:
        return self.root / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"


def place(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically: a reader sees either the whole old or the whole new content."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    files.write_whole(path, text, mode)
