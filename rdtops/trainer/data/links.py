"""Links of a file of the dataset: to its other files they are followed, out of them they are refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import h5py

from rdtops.errors import DataError
from rdtops.hostlib.dataset_files import SUFFIXES
from rdtops.hostlib.names import quoted
from rdtops.trainer.data.hdf5 import opened

_COPY = "write a self-contained file, with h5py's copy(expand_external=True)"
_REPACK = "h5repack -l CONTI IN.hdf5 OUT.hdf5   # of hdf5-tools: writes a self-contained file"
_NO_MEMBER = "which is not one of the dataset's *.hdf5 files: data outside of them are not read"
_ZEROS = "another file: where it is not found, HDF5 reads zeros without an error"


def linked_files(file: h5py.File, name: str, root: Path, seen: set[Path] | None = None) -> set[Path]:
    """Return the other files of the dataset to which links of a file lead, also through further links.

    The dataset is what its *.hdf5 files hold, which are identified by MD5. A link to any other file, a raw file, or a
    virtual dataset of other files raises DataError."""
    seen = set() if seen is None else seen
    external: list[str] = []
    elsewhere: list[tuple[str, str, str, str, str]] = []  # path, how, where, why not, remedy

    def look_at_link(path: bytes, link: Any) -> None:
        if link.type == h5py.h5l.TYPE_EXTERNAL:
            external.append(path.decode("utf-8", "replace"))

    def look_at_object(path: str, found: h5py.Group | h5py.Dataset) -> None:
        if isinstance(found, h5py.Dataset):
            elsewhere.extend((path, "has its values in the raw file", raw, _NO_MEMBER, _REPACK)
                             for raw, _, _ in found.external or ())
            sources = found.virtual_sources() if found.is_virtual else ()
            elsewhere.extend((path, "has its values, as a virtual dataset, in", s.file_name, _ZEROS, _REPACK)
                             for s in sources if s.file_name != ".")

    file.id.links.visit(look_at_link, info=True)
    file.visititems(look_at_object)
    for path in external:
        link = file.get(path, getlink=True)
        target = _sibling(file, link.filename, root)
        if target is None:
            elsewhere.append((path, f"is an external link to {quoted(link.path)} of", link.filename, _NO_MEMBER,
                              _COPY))
        elif target not in seen:
            seen.add(target)
            with opened(target, name) as other:
                linked_files(other, target.relative_to(root.resolve()).as_posix(), root, seen)
    for path, how, where, why, remedy in elsewhere:
        raise DataError(f"{name}: {quoted(path)} {how} {quoted(where, 400)}, {why}", remedy=remedy)
    return seen


def _sibling(file: h5py.File, linked: str, root: Path) -> Path | None:
    """Return the *.hdf5 file of the dataset to which a link points, searched where HDF5 searches."""
    with contextlib.suppress(OSError, ValueError):
        target = (Path(file.filename).resolve().parent / linked).resolve(strict=True)
        if target.name.lower().endswith(SUFFIXES) and target.is_file() and target.is_relative_to(root.resolve()):
            return target
    return None
