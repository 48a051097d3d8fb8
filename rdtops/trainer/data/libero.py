"""LIBERO dataset: a folder of HDF5 files, indexed and checked once, then read frame by frame.

`episodes` reads one file, `frames` its images, `hdf5` opens it, `links` follows its links, `sentences` finds its
instruction, `declaration` holds what the user says of all of them.
"""

from __future__ import annotations

import bisect
import difflib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rdtops.errors import DataError
from rdtops.hostlib import dataset_files
from rdtops.hostlib.manifest import md5_of
from rdtops.trainer.data.declaration import AFTER, AUTO, BEFORE, FLIPS, FOUND_OUT, UPRIGHT, UPSIDE_DOWN, Declared
from rdtops.trainer.data.episodes import (
    CAMERAS,
    IMAGE_SIZES,
    LONGEST,
    Defect,
    Episode,
    FileContent,
    Place,
    read_file,
    spread,
)
from rdtops.trainer.data.frames import Frames
from rdtops.trainer.data.hdf5 import opened, reading
from rdtops.trainer.data.links import linked_files

__all__ = ["AFTER", "AUTO", "BEFORE", "CAMERAS", "FOUND_OUT", "IMAGE_SIZES", "UPRIGHT", "UPSIDE_DOWN", "Dataset",
           "Declared", "Defect", "Episode", "Frames", "Overview", "hdf5_files", "index", "look", "refusal", "sample",
           "spread", "to_leave_out"]
_NAMED = 5  # problems that a message names
_TO_TYPE = 50  # names that a remedy spells out


@dataclass(frozen=True)
class Dataset:
    folder: str
    md5: dict[str, str]  # of every file; empty when only a sample was read
    image_size: int
    images: dict[str, str]  # by file: how they are stored, one of FLIPS
    episodes: tuple[Episode, ...]
    read_as: tuple[str, ...] = ()  # for messages: how the files were read, and why
    without: tuple[str, ...] = ()  # episodes of these files that are left out, as NAME.hdf5:demo_3

    @property
    def instructions(self) -> tuple[str, ...]:
        """Distinct, sorted."""
        return tuple(sorted({e.instruction for e in self.episodes}))

    @property
    def upside_down(self) -> dict[str, bool]:
        """By file: whether images are stored with their bottom row first."""
        return {file: FLIPS[stored][0] for file, stored in self.images.items()}

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(e.starts for e in self.episodes))

    def __len__(self) -> int:
        """Return the number of samples: every observation that an action follows."""
        return self._ends[-1]

    def locate(self, sample: int) -> tuple[Episode, int]:
        """Return the episode of a sample and the index of its observation."""
        number = bisect.bisect_right(self._ends, sample)
        return self.episodes[number], sample - (self._ends[number - 1] if number else 0)


@dataclass(frozen=True)
class Overview:
    """What was seen of a dataset within a time, and everything that a training would refuse."""

    files: int
    looked_into: int
    episodes: int
    steps: int
    problems: tuple[Defect, ...]
    read_as: tuple[str, ...]


def index(folder: str | Path, announce: Callable[[str], None] = lambda _: None,
          declared: Declared = FOUND_OUT) -> Dataset:
    """Read and check every file below `folder`. Raise DataError naming file, episode, step and field, of all that is
    wrong.

    `announce` is called with the name of a file before each of its episodes is read. On damaged bytes libhdf5 may hang
    or crash: rdtops.trainer.data.isolation calls this in a child process."""
    paths = _paths(folder, declared)
    found = _Reading(Path(folder), paths, declared, announce)
    found.read(paths)
    dataset = found.dataset()
    digests = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        announce(name)
        digests[name] = md5_of(path)
    return replace(dataset, md5=digests)


def sample(folder: str | Path, episodes: int, declared: Declared = FOUND_OUT) -> Dataset:
    """Read so many episodes, spread evenly over the files and within each, and without MD5: the cost does not grow
    with the data. At least one of a file; if there are more files than episodes, some are skipped. Raise DataError."""
    every = _paths(folder, declared)
    paths = spread(every, episodes)
    found = _Reading(Path(folder), paths, declared, lambda _: None, max(1, episodes // len(paths)))
    found.read(paths)
    return found.dataset()


def look(folder: str | Path, limit_s: float, declared: Declared = FOUND_OUT) -> Overview:
    """Read every file, and one image of each, until the time is over. Raise DataError where there is none."""
    paths = _paths(folder, declared)
    found = _Reading(Path(folder), paths, declared, lambda _: None)
    until_s = time.monotonic() + limit_s
    looked_into = 0
    for path in paths:
        if time.monotonic() > until_s:
            break
        found.read([path], with_image=True)
        looked_into += 1
    episodes = [e for content in found.contents.values() for e in content.episodes]
    return Overview(len(paths), looked_into, len(episodes), sum(len(e.actions_T7) for e in episodes),
                tuple(found.all_problems()), found.read_as())


def hdf5_files(folder: str | Path, declared: Declared = FOUND_OUT) -> list[Path]:
    """Return the files of a dataset, in order, except those that are left out; none if the folder does not exist. Raise
    DataError for a name to leave out that is not there."""
    root = Path(folder)
    names = dataset_files.demonstration_files(str(root)) if root.is_dir() else []
    for left_out in declared.left_out:
        file = left_out if left_out in names else left_out.rpartition(":")[0]
        if names and file not in names:
            close = difflib.get_close_matches(left_out, names, 1)
            raise DataError(f"without= names {left_out}, which is not in {folder}",
                            remedy=f"--set without={(close or names)[0]}   # as `ls` shows it, below the folder")
    return [root / name for name in names if name not in declared.left_out]


def refusal(problems: Sequence[Defect], declared: Declared, *, is_rest: bool) -> DataError:
    """Return one error for all problems. `is_rest`: something remains to train on without what has them."""
    messages = list(dict.fromkeys(p.error.message for p in problems))
    more = f"; and {len(messages) - _NAMED} more" if len(messages) > _NAMED else ""
    remedy = problems[0].error.remedy
    if is_rest:
        without = f"--set without={','.join(to_leave_out(problems, declared))}"
        remedy = f"{remedy}; or leave out what is named: {without}" if remedy else without
    return DataError("; ".join(messages[:_NAMED]) + more, remedy=remedy)


def to_leave_out(problems: Sequence[Defect], declared: Declared) -> list[str]:
    """Return what `--set without=` has to name: what it does already, and what has the problems, some of very many."""
    return [*declared.left_out, *list(dict.fromkeys(p.name for p in problems))[:_TO_TYPE]]


class _Reading:
    """The files of a dataset as they are read one after the other."""

    def __init__(self, root: Path, paths: Sequence[Path], declared: Declared, announce: Callable[[str], None],
                 most: int = LONGEST) -> None:
        self.root, self.declared, self.announce, self.most = root, declared, announce, most
        self.contents: dict[str, FileContent] = {}
        self._order = [path.relative_to(root).as_posix() for path in paths]
        self._problems: dict[str, list[Defect]] = {}
        self._recordings: dict[Place, str] = {}
        self._linked: set[Path] = set()  # files that were reached through links

    def read(self, paths: Sequence[Path], *, with_image: bool = False) -> None:
        for path in paths:
            name = path.relative_to(self.root).as_posix()
            self.announce(name)
            try:
                self._read(path, name)
                if with_image:
                    self._read_an_image(name)
            except DataError as error:
                self._problems.setdefault(name, []).append(Defect(name, error))

    def all_problems(self) -> list[Defect]:
        """Return the problems in the order of the files. A file that others link to need not be complete by itself."""
        return [one for name in self._order for one in self._problems.get(name, ())
                if one.name != name or not self._is_part(name)]

    def read_as(self) -> tuple[str, ...]:
        by_text: dict[str, list[str]] = {}
        for name, content in sorted(self.contents.items(), key=lambda pair: self._order.index(pair[0])):
            by_text.setdefault(content.read_as, []).append(name)
        left_out = [f"left out as asked: {name}" for name in self.declared.left_out if ":" not in name]
        return (*(f"{_files(names)}: {what}" for what, names in by_text.items()), *left_out)

    def dataset(self) -> Dataset:
        """Return what was read. Raise DataError of all problems."""
        contents = {name: self.contents[name] for name in self._order if name in self.contents}
        episodes = tuple(e for content in contents.values() for e in content.episodes)
        if problems := self.all_problems():
            raise refusal(problems, self.declared, is_rest=bool(episodes))
        if not episodes:
            raise DataError(f"{self.root} has no episode to train on", remedy="--set without=   # names fewer")
        return Dataset(str(self.root), {}, next(c.image_size for c in contents.values() if c.episodes),
                       {name: content.images for name, content in contents.items()}, episodes, self.read_as(),
                       tuple(name for name in self.declared.left_out if ":" in name))

    def _read(self, path: Path, name: str) -> None:
        with opened(path, name) as file, reading(name):
            self._linked |= linked_files(file, name, self.root)
            content = read_file(file, path, name, self.declared, self.most, self.announce, self._recordings)
        problems = list(content.problems)
        first = next(((n, c) for n, c in self.contents.items() if c.episodes), None)
        if first and content.episodes and content.image_size != first[1].image_size:
            size, other = content.image_size, first[1].image_size
            raise DataError(f"{name}: images are {size} x {size}, those of {first[0]} {other} x {other}")
        if problems and not content.episodes:  # the whole file, by its first problem
            more = f", and {len(problems) - 1} more of its episodes" if problems[1:] else ""
            error = problems[0].error
            problems = [Defect(name, DataError(error.message + more, remedy=error.remedy))]
        self.contents[name] = content
        self._problems[name] = problems

    def _read_an_image(self, name: str) -> None:
        content = self.contents[name]
        if content.episodes:
            frames = Frames(Dataset(str(self.root), {}, content.image_size, {name: content.images}, content.episodes))
            try:
                frames.read(content.episodes[0], 0)
            except DataError as error:
                self._problems[name].append(Defect(f"{name}:{content.episodes[0].name}", error))
            finally:
                frames.close()

    def _is_part(self, name: str) -> bool:
        return (self.root / name).resolve() in self._linked


def _paths(folder: str | Path, declared: Declared) -> list[Path]:
    paths = hdf5_files(folder, declared)
    if not paths:
        kind = dataset_files.other_kind(str(folder)) if not declared.left_out else "all of its files are left out"
        raise DataError(f"{folder} has no *.hdf5 file{f': {kind}' if kind else ''}",
                        remedy="convert it: docs/training.md, Demonstrations, says to what" if kind
                        else "inv deploy --only data")
    return paths


def _files(found: list[str]) -> str:
    return found[0] if len(found) == 1 else f"{len(found)} files, {found[0]} first"
