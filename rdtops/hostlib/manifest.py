"""Manifest: the files below a folder, each with its size and MD5. A checkpoint without a valid one does not exist.
Standard library, Python 3.8: sent with host programs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rdtops.hostlib import fields, files, names

NAME: Final = "manifest.json"


@dataclass(frozen=True)
class FileDigest:
    path: names.RelativePath  # with forward slashes
    size_bytes: int
    md5: str  # MD5, because people compare MD5 sums by hand


@dataclass(frozen=True)
class Manifest:
    files: tuple[FileDigest, ...]

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)

    @property
    def digest(self) -> str:
        """MD5 over names and digests: equal exactly when the folders are equal."""
        lines = "".join(f"{f.md5}  {f.path}\n" for f in sorted(self.files, key=lambda f: f.path))
        return hashlib.md5(lines.encode("utf-8", "surrogateescape")).hexdigest()

    def to_json(self) -> str:
        rows = [{"path": f.path, "size_bytes": f.size_bytes, "md5": f.md5} for f in self.files]
        return json.dumps({"digest": self.digest, "files": rows}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse a manifest. Raise ValueError when the text is not a manifest, when a row is not a file below the
        folder, or when its own digest does not match."""
        try:
            values = fields.loads(text)
        except ValueError as error:
            raise ValueError(f"not a manifest: {error}") from error
        rows = fields.table(values).get("files")
        if not isinstance(rows, list):
            raise ValueError("not a manifest: it has no list of files")
        manifest = cls(tuple(_row(row) for row in rows))
        if len({f.path for f in manifest.files}) < len(rows):
            raise ValueError("not a manifest: it lists a file twice")
        if values.get("digest") != manifest.digest:
            raise ValueError("the manifest's own digest does not match its files")
        return manifest


def _row(row: object) -> FileDigest:
    values = fields.table(row)
    size_bytes = fields.whole(values.get("size_bytes"))
    if size_bytes is None or size_bytes < 0:
        raise ValueError(f"not a manifest: {names.quoted(row)} has no size")
    try:
        return FileDigest(names.relative_path(values.get("path")), size_bytes, names.digest(values.get("md5")))
    except names.BadName as error:
        raise ValueError(f"not a manifest: {error}") from error


def md5_of(path: str | Path) -> str:
    with os.fdopen(files.opened(path), "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() if hasattr(hashlib, "file_digest") else _md5(file)


def scan(folder: str | Path) -> Manifest:
    """Digest every file below `folder` except its own manifest, in the order of their names."""
    root = Path(folder)
    paths = sorted(p for p in root.rglob("*") if p.is_file() and p != root / NAME)
    return Manifest(tuple(FileDigest(names.RelativePath(p.relative_to(root).as_posix()), p.stat().st_size, md5_of(p))
                          for p in paths))


def seal(folder: str | Path) -> Manifest:
    """Scan `folder`, write its manifest into it, and flush every file and the folder to the disk."""
    root = Path(folder)
    manifest = scan(root)
    files.write_whole(root / NAME, manifest.to_json())
    files.flush_below(root)
    return manifest


def read(folder: str | Path) -> Manifest | None:
    """Return the manifest of a folder whose files have the stated sizes, else None. Do not read the files."""
    root = Path(folder)
    try:
        manifest = stated(root)
        sizes_fit = all((root / f.path).stat().st_size == f.size_bytes for f in manifest.files)
    except (OSError, ValueError):
        return None
    return manifest if sizes_fit else None


def stated(folder: str | Path) -> Manifest:
    """Read the manifest of a folder. Raise OSError when it cannot be read, ValueError when it is invalid."""
    return Manifest.from_json(files.head_of(Path(folder) / NAME, files.TABLE_BYTES).decode("utf-8", "replace"))


def differences(folder: str | Path, manifest: Manifest) -> list[str]:
    """Return what differs from the manifest: missing, resized, altered or unreadable files. Read every byte."""
    return [wrong for file in manifest.files for wrong in [difference(folder, file)] if wrong]


def difference(folder: str | Path, file: FileDigest, md5_of: Callable[[Path], str] = md5_of) -> str | None:
    """Return what is wrong with a file, for people; '' when nothing is, None where `md5_of` returns '' (unknown)."""
    path = Path(folder) / file.path
    try:
        size_bytes = path.stat().st_size
        md5 = md5_of(path) if size_bytes == file.size_bytes else ""
    except FileNotFoundError:
        return f"{file.path}: missing"
    except OSError as error:  # a broken disk, a folder of that name
        return f"{file.path}: {error.strerror or error}"
    if size_bytes != file.size_bytes:
        return f"{file.path}: {size_bytes} bytes instead of {file.size_bytes}"
    return None if not md5 else "" if md5 == file.md5 else f"{file.path}: MD5 differs"


def _md5(file) -> str:  # type: ignore[no-untyped-def]  # Python 3.10 on the host has no hashlib.file_digest
    digest = hashlib.md5()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
