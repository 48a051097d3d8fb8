"""LIBERO dataset: HDF5 files, indexed and checked once, then read frame by frame.

A file holds `data/demo_N` with `actions` (T, 7), `states` (T, simulator) and `obs/...`. Its images are stored as the
simulator renders them, upside down; they are turned upright here, once. LIBERO's own exporter stores the observation
AFTER the action of the same index; files that others regenerated store the one before it. The file shows which:
`states[t]` is the simulator before action t, and holds the joint angles.

Shapes: T steps of an episode, C cameras, S pixels of an edge.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rdtops.errors import DataError
from rdtops.hostlib import files
from rdtops.hostlib.fields import loads
from rdtops.hostlib.manifest import md5_of
from rdtops.hostlib.names import quoted

CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
IMAGE_SIZES = (128, 256)  # LIBERO's own files, and those regenerated for other models
FIELDS = {  # width of each row; None: any sufficient width
    "actions": 7,
    "states": None,
    "obs/joint_states": 7,
    "obs/gripper_states": 2,
    "obs/ee_pos": 3,
    "obs/ee_ori": 3,
}
JOINTS_IN_STATE = slice(1, 8)  # the simulator's time comes first
AUTO, AFTER, BEFORE = "auto", "after", "before"
UPSIDE_DOWN, UPRIGHT = "upside_down", "upright"
LONGEST = 100_000  # steps of an episode; LIBERO's simulator ends at 1000. A damaged header may state any number
_PLAYBACK_DRIFT = 0.3  # the better of the two explanations must leave at most this share of the other's error


@dataclass(frozen=True)
class Episode:
    """One demonstration without its images. Arrays are float32, units as in LIBERO (rad, m)."""

    file: str  # relative to the dataset's folder
    name: str  # demo_3
    instruction: str
    observed: str  # AFTER or BEFORE: when obs[t] was taken, relative to action t
    actions_T7: np.ndarray = field(repr=False)
    joint_rad_T7: np.ndarray = field(repr=False)
    finger_m_T2: np.ndarray = field(repr=False)
    position_m_T3: np.ndarray = field(repr=False)
    axis_angle_rad_T3: np.ndarray = field(repr=False)

    @property
    def lead(self) -> int:
        """Offset of the next action: obs[t] is followed by actions[t + lead:]."""
        return 1 if self.observed == AFTER else 0

    @property
    def starts(self) -> int:
        """Number of observations that an action follows: one training sample each."""
        return len(self.actions_T7) - self.lead

    @property
    def pose_T6(self) -> np.ndarray:
        """Position (m) and axis-angle (rad) of every observation; row t is the pose just before actions[t + lead]."""
        return np.concatenate([self.position_m_T3, self.axis_angle_rad_T3], axis=1)


@dataclass(frozen=True)
class Declared:
    """Properties of the files that the user declares, instead of detection for each file."""

    observed: str = AUTO  # AFTER or BEFORE
    images: str = AUTO  # UPSIDE_DOWN or UPRIGHT, as stored


FOUND_OUT = Declared()


@dataclass(frozen=True)
class Dataset:
    folder: str
    md5: dict[str, str]  # of every file; empty when only a sample was read
    image_size: int
    upside_down: dict[str, bool]  # by file
    episodes: tuple[Episode, ...]
    read_as: tuple[str, ...] = ()  # for messages: how the files were read, and why

    @property
    def instructions(self) -> tuple[str, ...]:
        """Distinct, sorted."""
        return tuple(sorted({e.instruction for e in self.episodes}))

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


def index(folder: str | Path, announce: Callable[[str], None] = lambda _: None,
          declared: Declared = FOUND_OUT) -> Dataset:
    """Read and check every file below `folder`. Raise DataError naming file, episode, step and field.

    `announce` is called with the name of every file before it is read. On damaged bytes libhdf5 may hang or crash:
    rdtops.trainer.data.isolation calls this in a child process."""
    dataset = _read(folder, _paths(folder), announce, declared)
    digests = {}
    for name in dataset.upside_down:
        announce(name)
        digests[name] = md5_of(Path(folder) / name)
    return replace(dataset, md5=digests)


def sample(folder: str | Path, episodes: int, declared: Declared = FOUND_OUT) -> Dataset:
    """Read so many episodes, spread evenly over the files and within each, and without MD5: the cost does not grow
    with the data. At least one of a file; if there are more files than episodes, some are skipped. Raise DataError."""
    paths = spread(_paths(folder), episodes)
    return _read(folder, paths, lambda _: None, declared, max(1, episodes // len(paths)))


def hdf5_files(folder: str | Path) -> list[Path]:
    """Return the files of a dataset, in order; none if the folder does not exist."""
    root = Path(folder)
    return [root / path for path in files.below(str(root), ".hdf5")] if root.is_dir() else []


def _paths(folder: str | Path) -> list[Path]:
    paths = hdf5_files(folder)
    if not paths:
        raise DataError(f"{folder} has no *.hdf5 file", remedy="inv deploy --only data")
    return paths


def spread(things: Sequence[Any], most: int) -> Sequence[Any]:
    """Return all, or `most` of them at even distances, including the first and the last."""
    return things if len(things) <= most else [things[i] for i in np.linspace(0, len(things) - 1, most).astype(int)]


def _read(folder: str | Path, paths: Sequence[Path], announce: Callable[[str], None], declared: Declared,
          episodes_per_file: int = LONGEST) -> Dataset:
    root = Path(folder)
    episodes: list[Episode] = []
    sizes: dict[str, int] = {}
    upside_down: dict[str, bool] = {}
    read_as: dict[str, list[str]] = {}
    for path in paths:
        name = path.relative_to(root).as_posix()
        announce(name)
        with _open(path, name) as file, _reading(name):
            _refuse_outside(file, name, root)
            read, sizes[name], moment = _read_file(file, name, declared.observed, episodes_per_file)
            episodes += read
            upside_down[name], orientation = _upside_down(file, declared.images)
        read_as.setdefault(f"{moment}; {orientation}", []).append(name)
    first = next(iter(sizes))
    for name, size in sizes.items():
        if size != sizes[first]:
            raise DataError(f"{name}: images are {size} x {size}, those of {first} {sizes[first]} x {sizes[first]}")
    return Dataset(str(folder), {}, sizes[first], upside_down, tuple(episodes),
                   tuple(f"{_files(names)}: {what}" for what, names in read_as.items()))


def episodes_of(path: Path, name: str, observed: str = AUTO) -> list[Episode]:
    """Return the episodes of one file, checked; of the images, check the shapes only. Raise DataError, which names the
    file `name`."""
    with _open(path, name) as file, _reading(name):
        _refuse_outside(file, name, path.parents[name.count("/")])
        return _read_file(file, name, observed, LONGEST)[0]


class Frames:
    """A reader of images. It opens every file once in each process, and never shares it across a fork.

    LIBERO's own files hold a camera's images uncompressed and contiguous. Those are read directly from their offset in
    the file, without HDF5, which would take ten times as long.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._pid = 0
        self._files: dict[str, h5py.File] = {}
        self._places: dict[tuple[str, str, str], int | None] = {}

    def read(self, episode: Episode, step: int) -> np.ndarray:
        """Return the upright images of all cameras at one step: (C, S, S, 3) uint8."""
        size = self.dataset.image_size
        frames = np.empty((len(CAMERAS), size, size, 3), np.uint8)
        rows = slice(None, None, -1 if self.dataset.upside_down[episode.file] else 1)
        for number, camera in enumerate(CAMERAS):
            frames[number] = self._image(episode, camera, step)[rows]
        return frames

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files, self._places = {}, {}

    def _image(self, episode: Episode, camera: str, step: int) -> np.ndarray:
        place = self._place(episode, camera, step)
        if place is None:
            return _frame(self._file(episode.file), episode, camera, step)
        size = self.dataset.image_size
        return _frame_at(self._file(episode.file), place + step * size * size * 3, size, f"{episode.file}: "
                         f"{episode.name}, step {step}, obs/{camera}")

    def _place(self, episode: Episode, camera: str, step: int) -> int | None:
        """Return the offset of the camera's images in the file, if they are uncompressed and contiguous. It is checked
        here against one read by HDF5: a wrong offset would train on noise."""
        file, key = self._file(episode.file), (episode.file, episode.name, camera)
        if key not in self._places:
            with _reading(f"{episode.file}: {episode.name}, obs/{camera}"):
                images = file["data"][episode.name]["obs"][camera]
                place = images.id.get_offset() if images.file.filename == file.filename else None
            self._places[key] = place
            if place is not None and not np.array_equal(
                    self._image(episode, camera, step), _frame(file, episode, camera, step)):
                self._places[key] = None
        return self._places[key]

    def _file(self, name: str) -> h5py.File:
        if self._pid != os.getpid():
            self._pid, self._files, self._places = os.getpid(), {}, {}
        if name not in self._files:
            self._files[name] = _open(Path(self.dataset.folder) / name, name)
        return self._files[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "_pid": 0, "_files": {}, "_places": {}}


def _frame(file: h5py.File, episode: Episode, camera: str, step: int) -> np.ndarray:
    with _reading(f"{episode.file}: {episode.name}, step {step}, obs/{camera}"):
        return file["data"][episode.name]["obs"][camera][step]


def _frame_at(file: h5py.File, place: int, size: int, what: str) -> np.ndarray:
    try:
        content = os.pread(file.id.get_vfd_handle(), size * size * 3, place)
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error}", remedy="inv deploy --only data") from error
    if len(content) < size * size * 3:
        raise DataError(f"{what} cannot be read: the file is too short", remedy="inv deploy --only data")
    return np.frombuffer(content, np.uint8).reshape(size, size, 3)


def _open(path: Path, name: str) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)  # nobody writes to it, and some file systems have no locks
    except OSError as error:
        raise DataError(f"{name} cannot be opened: truncated, or not an HDF5 file: {error}",
                        remedy="inv deploy --only data") from error


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn errors into DataError with the place. libhdf5 and h5py raise almost any error for damaged bytes."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where} cannot be read: {str(error) or type(error).__name__}",
                        remedy="inv deploy --only data") from error


def _refuse_outside(file: h5py.File, name: str, root: Path, seen: set[Path] | None = None) -> None:
    """Refuse data outside the dataset. It is what its *.hdf5 files hold, which are identified by MD5. A link to another
    of them is followed; a link, raw file or virtual source in any other file raises DataError."""
    seen = set() if seen is None else seen
    external: list[str] = []
    elsewhere: list[tuple[str, str, str]] = []

    def look_at_link(path: bytes, link: Any) -> None:
        if link.type == h5py.h5l.TYPE_EXTERNAL:
            external.append(path.decode("utf-8", "replace"))

    def look_at_object(path: str, found: h5py.Group | h5py.Dataset) -> None:
        if isinstance(found, h5py.Dataset):
            elsewhere.extend((path, "has its values in the raw file", raw) for raw, _, _ in found.external or ())
            sources = found.virtual_sources() if found.is_virtual else ()
            elsewhere.extend((path, "has its values in", s.file_name) for s in sources if s.file_name != ".")

    file.id.links.visit(look_at_link, info=True)
    file.visititems(look_at_object)
    for path in external:
        link = file.get(path, getlink=True)
        target = _sibling(file, link.filename, root)
        if target is None:
            elsewhere.append((path, f"is an external link to {quoted(link.path)} of", link.filename))
        elif target not in seen:
            seen.add(target)
            with _open(target, name) as other:
                _refuse_outside(other, target.relative_to(root.resolve()).as_posix(), root, seen)
    for path, how, where in elsewhere:
        raise DataError(f"{name}: {quoted(path)} {how} {quoted(where, 400)}, which is not one of the dataset's "
                        "*.hdf5 files: data outside of them are not read",
                        remedy="write a self-contained file, for example with h5py's copy(expand_external=True)")


def _sibling(file: h5py.File, linked: str, root: Path) -> Path | None:
    """Return the *.hdf5 file of the dataset to which a link points, searched where HDF5 searches."""
    with contextlib.suppress(OSError, ValueError):
        target = (Path(file.filename).resolve().parent / linked).resolve(strict=True)
        if target.suffix == ".hdf5" and target.is_file() and target.is_relative_to(root.resolve()):
            return target
    return None


def _files(found: list[str]) -> str:
    return found[0] if len(found) == 1 else f"{len(found)} files, {found[0]} first"


def _read_file(file: h5py.File, name: str, declared: str, most: int) -> tuple[list[Episode], int, str]:
    """Return its episodes, the edge of its images, and a description of the moment of its observations."""
    if "data" not in file:
        raise DataError(f"{name}: no group 'data'")
    data = file["data"]
    names = sorted((n for n in data if re.fullmatch(r"demo_\d+", n)), key=lambda n: int(n[5:]))
    if not names:
        raise DataError(f"{name}: no episodes (data/demo_0, ...)")
    stated = data.attrs.get("num_demos")
    if stated is not None and int(stated) != len(names):
        raise DataError(f"{name}: {len(names)} episodes, but num_demos is {int(stated)}")
    instruction = _instruction(data, name)
    size = _image_size(data[names[0]], f"{name}: {names[0]}")
    arrays = {}
    for n in spread(names, most):
        with _reading(f"{name}: {n}"):
            arrays[n] = _arrays(data[n], f"{name}: {n}", size)
    observed, why = _observed(arrays, name, declared)
    moment = f"observations {observed} the action of their index ({why})"
    return [_episode(name, n, instruction, observed, a) for n, a in arrays.items()], size, moment


def _episode(file: str, name: str, instruction: str, observed: str, arrays: dict[str, np.ndarray]) -> Episode:
    episode = Episode(file, name, instruction, observed, *(
        arrays[f].astype(np.float32)
        for f in ("actions", "obs/joint_states", "obs/gripper_states", "obs/ee_pos", "obs/ee_ori")))
    if episode.starts < 1:
        raise DataError(f"{file}: {name} has {len(episode.actions_T7)} steps: no action follows an observation")
    return episode


def _instruction(data: h5py.Group, name: str) -> str:
    """Return the instruction from problem_info: a string, or a list of words."""
    try:
        stated = loads(data.attrs["problem_info"])["language_instruction"]
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{name}: attribute problem_info has no language_instruction") from error
    words = stated if isinstance(stated, list) else [stated]
    if not all(isinstance(word, str) for word in words):
        raise DataError(f"{name}: language_instruction must be a string or a list of words: {stated!r:.80}")
    text = " ".join(" ".join(words).split())
    if not text:
        raise DataError(f"{name}: language_instruction is empty")
    return text


def _upside_down(file: h5py.File, declared: str) -> tuple[bool, str]:
    """Return whether images are stored upside down, and why. OpenGL's and LIBERO's images start at the bottom row;
    a file without the attribute is taken to be LIBERO's."""
    said = file["data"].attrs.get("macros_image_convention")
    stored_so = declared == UPSIDE_DOWN if declared != AUTO else said in (None, "opengl")
    why = "declared" if declared != AUTO else f"the file says {said}" if said else "not stated, LIBERO's are"
    return stored_so, f"images stored {'upside down, turned upright' if stored_so else 'upright'} ({why})"


def _arrays(demo: h5py.Group, where: str, size: int) -> dict[str, np.ndarray]:
    """Return the episode's numbers, checked against each other and against its images' shapes."""
    arrays = {f: _numbers(demo, f, where) for f in FIELDS}
    length = len(arrays["actions"])
    if length == 0:
        raise DataError(f"{where}: actions has no steps")
    stated = demo.attrs.get("num_samples")
    if stated is not None and int(stated) != length:
        raise DataError(f"{where}: actions has {length} steps, but num_samples is {int(stated)}")
    for f, values in arrays.items():
        _check_numbers(f, values, length, where)
    for camera in CAMERAS:
        _check_images(demo, camera, (length, size, size, 3), where)
    return arrays


def _numbers(demo: h5py.Group, name: str, where: str) -> np.ndarray:
    with _reading(f"{where}: {name}"):
        if name not in demo:
            raise DataError(f"{where}: {name} is missing")
        found = demo[name]
        width = FIELDS[name]
        fits = len(found.shape) == 2 and (found.shape[1] == width if width else
                                          JOINTS_IN_STATE.stop <= found.shape[1] <= LONGEST)
        if not fits or found.shape[0] > LONGEST or found.dtype.kind not in "fiu":
            raise DataError(f"{where}: {name} has shape {found.shape} of {found.dtype}, expected (steps, "
                            f"{width or '8 or more'}) of numbers")
        return np.asarray(found[()], np.float64)


def _check_numbers(name: str, values: np.ndarray, length: int, where: str) -> None:
    if len(values) != length:
        raise DataError(f"{where}: {name} has {len(values)} steps, but actions has {length}")
    bad = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max).all(axis=1))  # NaN included: NaN <= x is False
    if len(bad):
        raise DataError(f"{where}, step {bad[0]}: {name} is not finite")
    if name == "actions":
        bad = np.flatnonzero((np.abs(values) > 1.001).any(axis=1))
        if len(bad):
            raise DataError(f"{where}, step {bad[0]}: actions is outside [-1, 1]: "
                            f"{np.round(values[bad[0]], 3).tolist()}; LIBERO's deltas are within")


def _image_size(demo: h5py.Group, where: str) -> int:
    images = _images(demo, CAMERAS[0], where)
    size = images.shape[1] if images.ndim == 4 else 0
    if size not in IMAGE_SIZES:
        raise DataError(f"{where}: obs/{CAMERAS[0]} has shape {images.shape}, expected (steps, edge, edge, 3) with an "
                        f"edge of {' or '.join(map(str, IMAGE_SIZES))}")
    return int(size)


def _check_images(demo: h5py.Group, camera: str, shape: tuple[int, ...], where: str) -> None:
    images = _images(demo, camera, where)
    if images.shape != shape or images.dtype != np.uint8:
        raise DataError(f"{where}: obs/{camera} has shape {images.shape} of {images.dtype}, expected {shape} of uint8")


def _images(demo: h5py.Group, camera: str, where: str) -> h5py.Dataset:
    with _reading(f"{where}: obs/{camera}"):
        if f"obs/{camera}" not in demo:
            raise DataError(f"{where}: obs/{camera} is missing")
        return demo[f"obs/{camera}"]


def _observed(arrays: dict[str, dict[str, np.ndarray]], name: str, declared: str) -> tuple[str, str]:
    """Return AFTER or BEFORE, whichever explains the joint angles of a whole file, and why. A declaration decides only
    where the file does not; one that contradicts the file raises DataError."""
    error = {AFTER: 0.0, BEFORE: 0.0}
    for a in arrays.values():
        joints, simulated = a["obs/joint_states"], a["states"][:, JOINTS_IN_STATE]
        error[AFTER] += float(np.abs(joints[:-1] - simulated[1:]).sum())
        error[BEFORE] += float(np.abs(joints[:-1] - simulated[:-1]).sum())
    better, worse = sorted(error, key=lambda which: error[which])
    seen = (f"the joint angles differ from states[t] by {error[BEFORE]:.3g} rad in sum, from states[t+1] by "
            f"{error[AFTER]:.3g} rad")
    if not error[better] < _PLAYBACK_DRIFT * error[worse]:
        if declared != AUTO:
            return declared, "declared"
        raise DataError(f"{name}: cannot tell whether obs were recorded before or after the action: {seen}",
                        remedy="ask whoever recorded it, then: --set observed=after   # or before")
    if declared not in (AUTO, better):
        raise DataError(f"{name}: obs were declared as recorded {declared} the action, but the file shows {better}: "
                        f"{seen}", remedy=f"--set observed={better}   # or auto")
    return better, "found in states" + (" and declared" if declared == better else "")
