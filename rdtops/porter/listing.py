"""Listing: the files of a source, of a target, and the parts beside them."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from rdtops.hostlib import hub_cache
from rdtops.hostlib.files import OURS
from rdtops.porter.entries import (
    BLOCK,
    Entry,
    Message,
    Problem,
    file_entry,
    link_entry,
    place,
    raw,
    refuse_leaving,
    text,
)
from rdtops.porter.file_digests import Digests
from rdtops.porter.parts import begun
from rdtops.porter.wire import WORK


def scan(root: str, files: Sequence[str] | None = None, *, links: bool = True,
         leave_out: Callable[[str], bool] = lambda _: False) -> Iterator[Entry]:
    """Yield the files and links at or below `root`, or of those names only, without digests. Skip empty folders, and
    the files and folders that `leave_out` names by their paths. Without `links`, follow a name of `files` that is a
    link, and refuse any other link.

    With `links`, follow those of a snapshot of the hub's cache to its own blobs, which are its files. Raise Problem for
    any other link that leads out of the tree, and for what is neither file, folder nor link.
    """
    top = raw(root)
    status = _stat(top)
    if not stat.S_ISDIR(status.st_mode):
        yield _entry(_Tree(top, links), "", status)
        return
    tree = _Tree(top, links, raw(hub_cache.blobs(root)) if links else b"", leave_out)
    if files is None:
        yield from _walk(tree, "")
    else:
        for name in files:
            status = _stat_at(place(root, name), follow=not links)
            yield from _walk(tree, name) if stat.S_ISDIR(status.st_mode) else [_entry(tree, name, status)]


def digested(root: str, entry: Entry, digests: Digests) -> Entry:
    """Return the entry with its MD5, from the cache where that is trusted. Links have theirs already."""
    return entry if entry.md5 else entry._replace(md5=digests.of(place(root, entry.path), entry.size))


def known(root: str, entry: Entry, digests: Digests) -> Entry:
    """Return the entry, with its MD5 where the cache has it."""
    return entry if entry.md5 else entry._replace(md5=digests.known(place(root, entry.path), entry.size))


def all_digested(root: str, entries: Iterable[Entry], digests: Digests) -> Iterator[Entry]:
    """Yield every entry with its MD5; read large files in parallel."""
    every = list(entries)
    with ThreadPoolExecutor(4) as pool:
        large = pool.map(lambda entry: digested(root, entry, digests), [e for e in every if e.size >= BLOCK])
        for entry in every:
            yield next(large) if entry.size >= BLOCK else digested(root, entry, digests)


def survey(root: str, wanted: Sequence[tuple[str, int]], digests: Digests, basis: str = "") -> Iterator[Message]:
    """Yield what a target has of the wanted (path, size): first {"alike": paths} whose MD5 is needed, then
    {"there": entry}, digested only where the size is equal, {"part": path, "size": n} for parts, and {"basis":
    entry} for files of another folder that may be copied."""
    sizes = dict(wanted)
    there = {entry.path: entry for entry in (_there(root, path) for path in sizes) if entry is not None}
    alike = {path for path, entry in there.items() if entry.kind == "file" and entry.size == sizes[path]}
    lacking = {size for path, size in sizes.items() if path not in alike and size}
    origins = [e for e in scan_leniently(basis) if e.size in lacking] if basis and os.path.isdir(raw(basis)) else []
    offered = {entry.size for entry in origins}
    yield {"alike": [path for path, size in sizes.items() if path in alike or size in offered]}
    for path in there.keys() - alike:
        yield {"there": there[path]._asdict()}
    for entry in all_digested(root, [there[path] for path in there if path in alike], digests):
        yield {"there": entry._asdict()}
    folders = {path.rpartition("/")[0] for path in sizes}
    for folder in folders:
        for name, size in begun(_folder_of(root, folder)):
            yield {"part": text(name), "folder": folder, "size": size}
    for entry in all_digested(basis, origins, digests):
        yield {"basis": entry._asdict()}


def scan_leniently(root: str) -> Iterator[Entry]:
    """Yield the regular files only: other files of a basis do not matter."""
    for folder, _, names in os.walk(raw(root)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            status = _stat_at(path)
            if stat.S_ISREG(status.st_mode) and not name.startswith(raw(OURS)):
                yield file_entry(text(os.path.relpath(path, raw(root))), status)


class _Tree(NamedTuple):
    """A folder, or a file, that is scanned."""

    top: bytes
    links: bool
    blobs: bytes = b""  # of the hub's cache, when it is one of its snapshots
    leave_out: Callable[[str], bool] = lambda _: False

    def place(self, path: str) -> bytes:
        return os.path.join(self.top, raw(path)) if path else self.top


def _walk(tree: _Tree, path: str) -> Iterator[Entry]:
    with os.scandir(tree.place(path)) as found:
        children = sorted(found, key=lambda child: child.name)
    for child in children:
        name = text(child.name)
        below = f"{path}/{name}" if path else name
        if name.startswith(OURS) or tree.leave_out(below):
            continue
        if child.is_dir(follow_symlinks=False):
            yield from _walk(tree, below)
        else:
            yield _entry(tree, below, _stat_at(child.path))


def _entry(tree: _Tree, path: str, status: os.stat_result) -> Entry:
    where = tree.place(path)
    if stat.S_ISLNK(status.st_mode):
        link = text(os.readlink(where))
        if not tree.links:
            raise Problem("link", path, f"it is a link to {link}, and a download does not copy links")
        if not tree.blobs or os.path.dirname(os.path.realpath(where)) != tree.blobs:
            refuse_leaving(path, link)
            return link_entry(path, link, status)
        if not os.path.exists(where):
            raise Problem("snapshot", path, f"it is a link to {link}, which is missing: its download is incomplete")
        status = _stat_at(where, follow=True)
    if not stat.S_ISREG(status.st_mode):
        raise Problem("kind", path, "it is neither a file, nor a folder, nor a link")
    return file_entry(path, status, _holes(where, status))


def _holes(path: bytes, status: os.stat_result) -> int:
    """Return the bytes of a sparse file that take no disk. A file system that compresses has few blocks and no
    holes."""
    size = status.st_size
    at = holes = 0
    if status.st_blocks * 512 >= size:
        return 0
    with open(path, "rb") as file:
        while at < size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # the file system does not support it
                    return holes
                data = size
            holes += data - at
            at = os.lseek(file.fileno(), data, os.SEEK_HOLE) if data < size else size
    return holes


def _there(root: str, path: str) -> Entry | None:
    try:
        status = _stat_at(place(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        return link_entry(path, text(os.readlink(place(root, path))), status)
    if stat.S_ISREG(status.st_mode):
        return file_entry(path, status)
    return Entry(path, "folder", 0, "", 0, False)


def _folder_of(root: str, folder: str) -> bytes:
    """Return the folder of the parts of a folder's files; those of a root that is a file lie beside it."""
    if folder:
        return place(root, folder)
    top = raw(root)
    return top if os.path.isdir(top) else os.path.dirname(os.path.abspath(top))


def _stat_at(path: bytes, *, follow: bool = False) -> os.stat_result:
    """Return the status of a path, and record progress: a cold file system takes long for many."""
    status = os.stat(path, follow_symlinks=follow)
    WORK.last_s = time.monotonic()
    return status


def _stat(path: bytes) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise Problem("missing", text(path), "no such file or folder") from None
