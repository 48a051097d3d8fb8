"""The files of a lab. Others may read them at any moment: they are replaced whole, and only when they change."""

from __future__ import annotations

from pathlib import Path

from rdtops.hostlib import files


class LabFolder:
    """What every lab has for those who log in to it."""

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
    """Afterwards the file has this content; whoever reads it meanwhile sees all of the old or all of the new."""
    if path.exists() and path.read_text() == text:
        return
    files.write_whole(path, text, mode)
