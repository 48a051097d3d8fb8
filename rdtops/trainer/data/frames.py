"""Frames: read the images of a dataset, upright.

LIBERO's own files hold a camera's images uncompressed and contiguous. Those are read directly from their offset in the
file, without HDF5, which would take ten times as long. Of compressed images, HDF5 unpacks a whole chunk to read one;
some files hold an episode in one chunk. So chunks stay unpacked in memory, up to KEPT_BYTES.

Shapes: C cameras, S pixels of an edge.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from rdtops.errors import DataError
from rdtops.trainer.data.declaration import FLIPS
from rdtops.trainer.data.episodes import Episode
from rdtops.trainer.data.hdf5 import DEPLOY, opened, reading

KEPT_BYTES = 256 << 20  # of unpacked chunks, in each process that reads images
_HANDLE_BYTES = 1 << 16  # that an open dataset counts at least
_DEFAULT_CACHE, _SLOTS = 1 << 20, 521  # of libhdf5


class Stored(Protocol):
    """What Frames needs to know of a dataset."""

    @property
    def folder(self) -> str: ...

    @property
    def image_size(self) -> int: ...

    @property
    def images(self) -> dict[str, str]: ...


class Frames:
    """A reader of images. It opens every file once in each process, and never shares it across a fork."""

    def __init__(self, dataset: Stored) -> None:
        self.dataset = dataset
        self._reset()

    def read(self, episode: Episode, step: int, wanted_C: np.ndarray | None = None) -> np.ndarray:
        """Return the upright images of all cameras at one step: (C, S, S, 3) uint8, zero where not wanted."""
        size = self.dataset.image_size
        frames = np.zeros((len(episode.cameras), size, size, 3), np.uint8)
        rows, columns = (slice(None, None, -1 if is_reversed else 1)
                         for is_reversed in FLIPS[self.dataset.images[episode.file]])
        for number, camera in enumerate(episode.cameras):
            if wanted_C is None or wanted_C[number]:
                frames[number] = self._image(episode, camera, step)[rows, columns]
        return frames

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._files: dict[Path, h5py.File] = {}
        self._places: dict[tuple[str, str, str], tuple[Path, int] | None] = {}
        self._kept: OrderedDict[tuple[str, str, str], tuple[h5py.Dataset, int]] = OrderedDict()  # with its bytes
        self._kept_bytes = 0

    def _image(self, episode: Episode, camera: str, step: int) -> np.ndarray:
        if self._pid != os.getpid():
            self._reset()
        place = self._place(episode, camera, step)
        return self._unpacked(episode, camera, step) if place is None else self._direct(episode, camera, step, *place)

    def _place(self, episode: Episode, camera: str, step: int) -> tuple[Path, int] | None:
        """Return the file and the offset of the camera's images in it, if they are uncompressed and contiguous. It is
        checked here against one read by HDF5: a wrong offset would train on noise."""
        key = (episode.file, episode.name, camera)
        if key not in self._places:
            with reading(f"{episode.file}: {episode.name}, obs/{camera}"):
                images = self._file(self._path(episode))["data"][episode.name]["obs"][camera]
                offset, home = images.id.get_offset(), Path(images.file.filename)  # another file, through a link
            self._places[key] = None if offset is None else (home, offset)
            if offset is not None and not np.array_equal(self._direct(episode, camera, step, home, offset),
                                                         self._unpacked(episode, camera, step)):
                self._places[key] = None
        return self._places[key]

    def _direct(self, episode: Episode, camera: str, step: int, home: Path, offset: int) -> np.ndarray:
        size = self.dataset.image_size
        return _frame_at(self._file(home), offset + step * size * size * 3, size,
                         f"{episode.file}: {episode.name}, step {step}, obs/{camera}")

    def _unpacked(self, episode: Episode, camera: str, step: int) -> np.ndarray:
        with reading(f"{episode.file}: {episode.name}, step {step}, obs/{camera}"):
            return np.asarray(self._images(episode, camera)[step])

    def _images(self, episode: Episode, camera: str) -> h5py.Dataset:
        """Return the open dataset of a camera. It is kept open with its unpacked chunks; the one that was used longest
        ago is closed where they take more than KEPT_BYTES."""
        key = (episode.file, episode.name, camera)
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = _cached(self._file(self._path(episode)), f"data/{episode.name}/obs/{camera}")
            self._kept_bytes += self._kept[key][1]
            while len(self._kept) > 1 and self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1][1]
        return self._kept[key][0]

    def _path(self, episode: Episode) -> Path:
        return Path(self.dataset.folder) / episode.file

    def _file(self, path: Path) -> h5py.File:
        if path not in self._files:
            self._files[path] = opened(path, os.path.relpath(path, self.dataset.folder))
        return self._files[path]

    def __getstate__(self) -> dict[str, Stored]:
        return {"dataset": self.dataset}

    def __setstate__(self, state: dict[str, Stored]) -> None:
        self.__init__(state["dataset"])  # type: ignore[misc]


def _cached(file: h5py.File, path: str) -> tuple[h5py.Dataset, int]:
    """Open a dataset with a cache that holds a whole chunk, and return the bytes that it takes."""
    images = file[path]
    chunk_bytes = int(np.prod(images.chunks, dtype=np.int64)) * images.dtype.itemsize if images.chunks else 0
    if not _DEFAULT_CACHE < chunk_bytes <= KEPT_BYTES:
        return images, max(min(chunk_bytes, _DEFAULT_CACHE), _HANDLE_BYTES)
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(_SLOTS, chunk_bytes, 0.0)
    return h5py.Dataset(h5py.h5d.open(file.id, path.encode(), access)), chunk_bytes


def _frame_at(file: h5py.File, place: int, size: int, what: str) -> np.ndarray:
    try:
        content = os.pread(file.id.get_vfd_handle(), size * size * 3, place)
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error}", remedy=DEPLOY) from error
    if len(content) < size * size * 3:
        raise DataError(f"{what} cannot be read: the file is too short", remedy=DEPLOY)
    return np.frombuffer(content, np.uint8).reshape(size, size, 3)
