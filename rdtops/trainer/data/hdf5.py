"""HDF5: open files for reading, read attributes and filters, and say why something cannot be read.

Nothing here writes. A file is read without locks: nobody changes demonstrations, and some file systems have none.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rdtops.errors import DataError
from rdtops.hostlib import file_kinds
from rdtops.hostlib.names import quoted

DEPLOY = "inv deploy --only data   # if your own copy is whole"
_TRUNCATED = re.compile(r"truncated file: eof = (\d+), sblock->base_addr = (\d+), stored_eof = (\d+)")
_LOCK = re.compile(r"unable to lock file, errno = (\d+), error message = '([^']*)'")
_OURS = "an HDF5 file"  # by file_kinds
_CLEAR = "h5clear -s {path}   # of hdf5-tools, once no program writes to the file: it clears the mark"
_UNLOCKED = "HDF5_USE_FILE_LOCKING=FALSE in the host's env in hosts.toml"


def opened(path: Path, name: str) -> h5py.File:
    """Open a file for reading. Raise DataError, which names the file `name` and says what it is instead."""
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        message, remedy = _why(path, str(error), error.errno)
        raise DataError(f"{name} {message}", remedy=remedy) from error


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn errors into DataError with the place. libhdf5 and h5py raise almost any error for damaged bytes."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where} cannot be read: {str(error) or type(error).__name__}", remedy=DEPLOY) from error


def require_filters(found: h5py.Dataset, where: str) -> None:
    """Refuse a dataset that is compressed by a filter which this Python's HDF5 lacks. Where hdf5plugin is installed,
    which brings the common ones, import it."""
    pipeline = found.id.get_create_plist()
    for position in range(pipeline.get_nfilters()):
        number, _, _, label = pipeline.get_filter(position)
        if not h5py.h5z.filter_avail(number):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(number):
            stated = label.decode("utf-8", "replace").partition(";")[0] or _FILTERS.get(number, "unknown")
            raise DataError(f"{where} is compressed by the HDF5 filter {quoted(stated)} ({number}), which is not "
                            "installed", remedy='inv deploy --env   # with requirements = ["hdf5plugin"] in the '
                                                "host's environment in hosts.toml; or rewrite the file with h5repack "
                                                "-f NONE where the filter is installed")


def require_written(found: h5py.Dataset, where: str) -> None:
    """Refuse a dataset of which a part was never written, as after a crash of its writer: HDF5 reads zeros there."""
    if found.is_virtual or found.external or not found.size:
        return
    if found.chunks:
        whole = math.prod(-(-length // chunk) for length, chunk in zip(found.shape, found.chunks, strict=True))
        there = found.id.get_num_chunks()
        missing = f"{whole - there} of {whole} chunks were" if there < whole else ""
    else:
        missing = "" if found.id.get_storage_size() else "it was"
    if missing:
        raise DataError(f"{where}: {missing} never written, HDF5 reads zeros there",
                        remedy="record or copy the episode again, or leave it out")


def require_dataset(found: object, where: str) -> None:
    """Refuse what is no dataset with a shape."""
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise DataError(f"{where} is {'a group' if isinstance(found, h5py.Group) else 'empty'}, not a table of numbers")


def text_attribute(owner: h5py.Group | h5py.Dataset, name: str, where: str) -> str | None:
    """Return an attribute as text, None where there is none. Raise DataError for any other type."""
    value = _attribute(owner, name, where)
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            value = value.decode()
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    raise DataError(f"{where}: attribute {name} is no text: {quoted(str(value))}")


def whole_attribute(owner: h5py.Group | h5py.Dataset, name: str, where: str) -> int | None:
    """Return an attribute as a whole number, None where there is none. Raise DataError for anything else."""
    value = _attribute(owner, name, where)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        return int(value)
    if value is None:
        return None
    raise DataError(f"{where}: attribute {name} is no whole number: {quoted(str(value))}")


def _attribute(owner: h5py.Group | h5py.Dataset, name: str, where: str) -> Any:
    """Return an attribute; of an array with one value, that value."""
    try:
        value = owner.attrs.get(name)
    except Exception as error:  # as in `reading`
        raise DataError(f"{where}: attribute {name} cannot be read: {str(error) or type(error).__name__}",
                        remedy=DEPLOY) from error
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, (np.ndarray, np.generic)) and value.size == 1:
        return value.reshape(-1)[0].item() if value.dtype.kind != "O" else value.reshape(-1)[0]
    return value


def _why(path: Path, error: str, errno: int | None) -> tuple[str, str]:
    """Return what is wrong with a file that libhdf5 does not open, and the remedy."""
    if lock := _LOCK.search(error):
        return _locked(int(lock[1]), lock[2])
    if "already open for" in error:
        return ("is marked as open for writing: a program writes to it, or one that crashed has left the mark",
                _CLEAR.format(path=path))
    if cut := _TRUNCATED.search(error):
        has, base, stated = map(int, cut.groups())
        holds = f"{file_kinds.size_text(has)} of {file_kinds.size_text(base + stated)}"
        return f"is truncated: it holds {holds} ({has} of {base + stated} bytes)", DEPLOY
    if path.is_symlink() and not path.exists():
        return (f"is a link to {quoted(str(path.readlink()), 400)}, which is not there",
                f"ls -l {path}   # bring what it leads to (git annex get, hf download), or copy with cp -L")
    if errno:
        return f"cannot be opened: {os.strerror(errno)}", f"ls -l {path}"
    kind = file_kinds.kind_of(path)
    if "Git LFS" in kind:
        return f"is {kind}", "git lfs pull   # where it was cloned; then inv deploy --only data"
    if kind and kind != _OURS:
        return f"is {kind}, not an HDF5 file" if kind != "empty" else "is empty", DEPLOY
    return f"cannot be opened: damaged, or not an HDF5 file: {error}", DEPLOY


def _locked(errno: int, says: str) -> tuple[str, str]:
    """Return what a failed lock means: another program has one (11), or the file system has none (37 and others)."""
    if errno in (11, 13):
        return f"is locked by a program that has it open for writing (errno {errno}: {says})", _UNLOCKED
    return f"cannot be locked: its file system has no locks (errno {errno}: {says})", _UNLOCKED


_FILTERS = {  # registered numbers, for files that do not name their filter
    307: "bzip2", 4: "szip", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp",
    32015: "zstd", 32017: "sz", 32024: "sz3", 32026: "blosc2"}
