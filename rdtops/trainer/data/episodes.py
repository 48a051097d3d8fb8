"""Episodes: read and check the numbers of one file of demonstrations; of its images, the shapes.

A file holds `data/demo_N` with `actions` (T, 7), `states` (T, simulator) and `obs/...`, by the names of LIBERO or of
robomimic. LIBERO's own exporter stores the observation AFTER the action of the same index; files that others
regenerated store the one before it. The file shows which: `states[t]` is the simulator before action t, and holds the
joint angles.

Shapes: T steps of an episode, S pixels of an edge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rdtops.errors import DataError
from rdtops.hostlib.names import quoted
from rdtops.trainer.data import rotations
from rdtops.trainer.data.declaration import (
    AFTER,
    AUTO,
    BEFORE,
    FLIPS,
    UPRIGHT,
    UPSIDE_DOWN,
    Declared,
)
from rdtops.trainer.data.hdf5 import reading, require_filters, text_attribute, whole_attribute
from rdtops.trainer.data.sentences import sentence_of

CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
IMAGE_SIZES = (128, 256)  # LIBERO's own files, and those regenerated for other models
JOINTS_IN_STATE = slice(1, 8)  # the simulator's time comes first
LONGEST = 100_000  # steps of an episode; LIBERO's simulator ends at 1000. A damaged header may state any number
CONVENTION = "macros_image_convention"
_PLAYBACK_DRIFT = 0.3  # the better of the two explanations must leave at most this share of the other's error
_SLOW_CHUNK = 16  # images that are unpacked to read one


@dataclass(frozen=True)
class Names:
    """The names of an exporter's fields, in the order of _WIDTHS, and of the cameras' images."""

    exporter: str
    fields: tuple[str, ...]
    cameras: tuple[str, str]
    is_quaternion: bool  # x, y, z, w; else an axis-angle
    images: str  # how they are stored where the file does not say; AUTO: exporters differ


LIBERO = Names("LIBERO", ("obs/joint_states", "obs/gripper_states", "obs/ee_pos", "obs/ee_ori"), CAMERAS, False,
               UPSIDE_DOWN)
ROBOMIMIC = Names("robomimic", ("obs/robot0_joint_pos", "obs/robot0_gripper_qpos", "obs/robot0_eef_pos",
                                "obs/robot0_eef_quat"), ("agentview_image", "robot0_eye_in_hand_image"), True, AUTO)


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
    cameras: tuple[str, str] = CAMERAS  # the names of their images in the file

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
class Defect:
    """Why a file, or an episode of it, cannot be trained on."""

    name: str  # a.hdf5 or a.hdf5:demo_3, as `--set without=` takes it
    error: DataError


@dataclass(frozen=True)
class FileContent:
    """What one file holds."""

    episodes: tuple[Episode, ...]
    image_size: int
    images: str  # how they are stored, one of FLIPS
    read_as: str  # how the file was read, and why
    problems: tuple[Defect, ...]


Place = tuple[Path, int]  # of a recording: its file, and its address there


def read_file(file: h5py.File, path: Path, name: str, declared: Declared, most: int = LONGEST,
              announce: Callable[[str], None] = lambda _: None, known: dict[Place, str] | None = None) -> FileContent:
    """Read a file, or `most` of its episodes, spread evenly. Raise DataError for what concerns the whole file; what
    concerns an episode is a problem of the result. Call `announce` with `name` before each episode. `known`: the
    recordings that were read before, with their names; they are not read again, and this file's are added."""
    data = _data(file, name)
    known = {} if known is None else known
    chosen, notes = _chosen(data, name, declared, known)
    images, why_images = _images_stored(data, name, declared.images, _names(data, chosen))
    sentences, where = _sentences(file, path, name, chosen, declared)
    size, arrays, problems = _checked(data, name, spread(chosen, most), declared, announce)
    observed, why = _observed(arrays, name, declared.observed) if arrays else (declared.observed, "no episode")
    episodes = [_episode(name, n, sentences[n], observed, values, _names(data, [n])) for n, values in arrays.items()]
    problems += [Defect(f"{name}:{e.name}", DataError(f"{name}: {e.name} has {len(e.actions_T7)} steps: no action "
                                                       "follows an observation")) for e in episodes if e.starts < 1]
    episodes = [e for e in episodes if e.starts >= 1]
    known.update((_place(data[n]), f"{name}:{n}") for n in chosen)
    read_as = [f"observations {observed} the action of their index ({why})", _stored_text(images, why_images),
               *filter(None, [where]), *notes, *_slow(data, episodes)]
    return FileContent(tuple(episodes), size, images, "; ".join(read_as), tuple(problems))


def spread(things: Sequence[Any], most: int) -> Sequence[Any]:
    """Return all, or `most` of them at even distances, including the first and the last."""
    return things if len(things) <= most else [things[i] for i in np.linspace(0, len(things) - 1, most).astype(int)]


def _data(file: h5py.File, name: str) -> h5py.Group:
    with reading(f"{name}: data"):
        if "data" in file and isinstance(file["data"], h5py.Group):
            return file["data"]
        raise DataError(f"{name}: no group 'data'{_other_layout(file)}")


def _sentences(file: h5py.File, path: Path, name: str, demos: Sequence[str],
               declared: Declared) -> tuple[dict[str, str], str]:
    """Return the instruction of each episode, and where that of the file was found."""
    own = {n: text_attribute(file["data"][n], "language_instruction", f"{name}: {n}") for n in demos}
    if all(own.values()) and own:
        return {n: " ".join(str(text).split()) for n, text in own.items()}, ""
    sentence, where = sentence_of(file, path, name, declared.instruction)
    return {n: " ".join((text or sentence).split()) for n, text in own.items()}, where


def _checked(data: h5py.Group, name: str, demos: Sequence[str], declared: Declared, announce: Callable[[str], None]
             ) -> tuple[int, dict[str, dict[str, np.ndarray]], list[Defect]]:
    """Return the edge of the images, the numbers of each good episode, and what is wrong with the others."""
    size, arrays, problems = 0, {}, []
    for n in demos:
        announce(name)
        try:
            with reading(f"{name}: {n}"):
                names = _names(data, [n])
                size = size or _image_size(data[n], names, f"{name}: {n}")
                arrays[n] = _arrays(data[n], names, f"{name}: {n}", size, needs_states=declared.observed == AUTO)
        except DataError as error:
            problems.append(Defect(f"{name}:{n}", error))
    return size, arrays, problems


def _chosen(data: h5py.Group, name: str, declared: Declared, known: Mapping[Place, str]) -> tuple[list[str], list[str]]:
    """Return the names of the episodes to read, in order, and notes about the others."""
    there = sorted((n for n in data if re.fullmatch(r"demo_\d+", n)), key=_number)
    if not there:
        raise DataError(f"{name}: no episodes (data/demo_0, ...){_other_layout(data)}")
    left_out = declared.episodes_left_out(name)
    if unknown := sorted(left_out - set(there)):
        raise DataError(f"{name}: without= names {unknown[0]}, which is not in it; it has {there[0]} to {there[-1]}")
    again, here = [], dict(known)
    for n in there:
        with reading(f"{name}: {n}"):
            first = here.setdefault(_place(data[n]), f"{name}:{n}") if n not in left_out else f"{name}:{n}"
        again += [(n, first)] if first != f"{name}:{n}" else []
    notes = [f"left out as asked: {', '.join(sorted(left_out, key=_number))}"] if left_out else []
    if again:
        notes.append(f"{again[0][0]} is the same recording as {again[0][1]} and read once" +
                     (f", and {len(again) - 1} more like it" if again[1:] else ""))
    skipped = left_out | {n for n, _ in again}
    return [n for n in there if n not in skipped], [*notes, *_remarks(data, name, len(there))]


def _place(demo: h5py.Group) -> Place:
    return Path(demo.file.filename).resolve(), int(h5py.h5o.get_info(demo.id).addr)


def _number(demo: str) -> int:
    return int(demo.partition("_")[2])


def _remarks(data: h5py.Group, name: str, there: int) -> Iterator[str]:
    """Yield what a file says of itself that does not decide how it is read."""
    with reading(f"{name}: attribute num_demos"):
        stated = str(data.attrs.get("num_demos", there))
    if stated != str(there):
        yield f"{there} episodes are there, although num_demos is {quoted(stated)}"
    if "mask" in data.file:
        yield "its filter keys (mask/train and others) are not used: --set without= leaves out episodes"


def _other_layout(group: h5py.Group) -> str:
    """Return what a file of another layout is, for the end of a message."""
    has = list(group)[:8]
    if "action" in group and "observations" in group:
        return ": it is an ALOHA episode (action, observations/qpos), of two arms: not LIBERO's data"
    if {"observations", "actions", "rewards"} <= set(has):
        return ": it is a D4RL dataset (observations, actions, rewards)"
    if "observation" in group and "action" in group:
        return ": it is a DROID trajectory (observation, action): not LIBERO's data"
    return f": it has {', '.join(map(quoted, has))}" if has else ""


def _names(data: h5py.Group, demos: Sequence[str]) -> Names:
    """Return whose names the first of these episodes uses."""
    for demo in demos[:1]:
        obs = data[demo].get("obs") if isinstance(data[demo], h5py.Group) else None
        if isinstance(obs, h5py.Group) and ROBOMIMIC.cameras[0] in obs and CAMERAS[0] not in obs:
            return ROBOMIMIC
    return LIBERO


def _images_stored(data: h5py.Group, name: str, declared: str, names: Names) -> tuple[str, str]:
    """Return how images are stored, one of FLIPS, and why. OpenGL's and LIBERO's images start at the bottom row; a file
    without the attribute is taken to be LIBERO's."""
    if declared != AUTO:
        return declared, "declared"
    stated = text_attribute(data, CONVENTION, name)
    known = {"opengl": UPSIDE_DOWN, "opencv": UPRIGHT}
    if stated is not None:
        if stated.strip().lower() not in known:
            raise DataError(f"{name}: attribute {CONVENTION} is {quoted(stated)}, neither opengl nor opencv",
                            remedy="look at an image, then: --set images=upright   # or upside_down")
        return known[stated.strip().lower()], f"the file says {stated.strip()}"
    if names.images == AUTO:
        raise DataError(f"{name}: images by {names.exporter}'s names do not say how they are stored: robomimic's own "
                        "exporter turns them upright, the simulator's are upside down",
                        remedy="look at an image, then: --set images=upright   # or upside_down")
    return names.images, "not stated, LIBERO's are"


def _stored_text(images: str, why: str) -> str:
    return f"images stored {images.replace('_', ' ')}{', turned upright' if any(FLIPS[images]) else ''} ({why})"


def _arrays(demo: h5py.Group, names: Names, where: str, size: int, *, needs_states: bool) -> dict[str, np.ndarray]:
    """Return the episode's numbers by LIBERO's names, checked against each other and against its images' shapes."""
    widths: Mapping[str, int | None] = {"actions": 7, **({"states": None} if needs_states or "states" in demo else {}),
                                        **dict(zip(names.fields, (7, 2, 3, 4 if names.is_quaternion else 3),
                                                   strict=True))}
    arrays = {f: _numbers(demo, f, width, where) for f, width in widths.items()}
    length = len(arrays["actions"])
    if length == 0:
        raise DataError(f"{where}: actions has no steps")
    stated = whole_attribute(demo, "num_samples", where)
    if stated is not None and stated != length:
        raise DataError(f"{where}: actions has {length} steps, but num_samples is {stated}")
    for f, values in arrays.items():
        _check_numbers(f, values, length, where)
    for camera in names.cameras:
        _check_images(demo, camera, (length, size, size, 3), where)
    for theirs, ours in zip(names.fields, LIBERO.fields, strict=True):
        arrays[ours] = arrays.pop(theirs)
    if names.is_quaternion:
        arrays["obs/ee_ori"] = _axis_angle(arrays["obs/ee_ori"], f"{where}: {names.fields[3]}")
    return arrays


def _axis_angle(quaternion_T4: np.ndarray, where: str) -> np.ndarray:
    """Return axis-angles (rad) of quaternions in the order x, y, z, w."""
    norm_T = np.linalg.norm(quaternion_T4, axis=1)
    if bad := np.flatnonzero(np.abs(norm_T - 1) > 0.01).tolist():
        raise DataError(f"{where} is no unit quaternion at step {bad[0]}: its norm is {norm_T[bad[0]]:.3g}")
    return np.asarray(rotations.from_quaternion(quaternion_T4), np.float64)


def _numbers(demo: h5py.Group, name: str, width: int | None, where: str) -> np.ndarray:
    """Return a table of numbers; `width` of each row, None: any sufficient one."""
    with reading(f"{where}: {name}"):
        if name not in demo:
            raise _missing(demo, name, where)
        found = demo[name]
        fits = len(found.shape) == 2 and (found.shape[1] == width if width else
                                          JOINTS_IN_STATE.stop <= found.shape[1] <= LONGEST)
        if not fits or found.shape[0] > LONGEST or found.dtype.kind not in "fiu":
            raise DataError(f"{where}: {name} has shape {found.shape} of {found.dtype}, expected (steps, "
                            f"{width or '8 or more'}) of numbers")
        require_filters(found, f"{where}: {name}")
        return np.asarray(found[()], np.float64)


def _missing(demo: h5py.Group, name: str, where: str) -> DataError:
    if name == "states":
        return DataError(f"{where}: states is missing: it shows whether obs were recorded before or after the action",
                         remedy="ask whoever recorded it, then: --set observed=after   # or before")
    if "obs" not in demo and "states" in demo:
        return DataError(f"{where}: {name} is missing: the file has states and actions alone, as robosuite records "
                         "them", remedy="LIBERO's scripts/create_dataset.py makes observations of them")
    return DataError(f"{where}: {name} is missing")


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


def _image_size(demo: h5py.Group, names: Names, where: str) -> int:
    images = _images(demo, names.cameras[0], where)
    size = images.shape[1] if len(images.shape) == 4 else 0
    if size not in IMAGE_SIZES:
        raise DataError(f"{where}: obs/{names.cameras[0]} has shape {images.shape}, expected (steps, edge, edge, 3) "
                        f"with an edge of {' or '.join(map(str, IMAGE_SIZES))}")
    return int(size)


def _check_images(demo: h5py.Group, camera: str, shape: tuple[int, ...], where: str) -> None:
    images = _images(demo, camera, where)
    if images.shape != shape or images.dtype != np.uint8:
        raise DataError(f"{where}: obs/{camera} has shape {images.shape} of {images.dtype}, expected {shape} of uint8")
    require_filters(images, f"{where}: obs/{camera}")


def _images(demo: h5py.Group, camera: str, where: str) -> h5py.Dataset:
    with reading(f"{where}: obs/{camera}"):
        if f"obs/{camera}" not in demo:
            raise _missing(demo, f"obs/{camera}", where)
        return demo[f"obs/{camera}"]


def _episode(file: str, name: str, instruction: str, observed: str, arrays: dict[str, np.ndarray],
             names: Names) -> Episode:
    actions, joints, fingers, position, rotation = (arrays[f].astype(np.float32) for f in ("actions", *LIBERO.fields))
    return Episode(file, name, instruction, observed, actions, joints, fingers, position, rotation, names.cameras)


def _slow(data: h5py.Group, episodes: Sequence[Episode]) -> Iterator[str]:
    """Yield a remark where one image is read by unpacking many."""
    for episode in episodes[:1]:
        with reading(f"{episode.file}: {episode.name}"):
            images = data[episode.name]["obs"][episode.cameras[0]]
            if images.chunks and images.chunks[0] > _SLOW_CHUNK and images.compression:
                size_mb = np.prod(images.chunks, dtype=np.int64) / 1e6
                yield (f"slow: {images.chunks[0]} images are one {images.compression} chunk, so that a sample may "
                       f"unpack {size_mb:.1f} MB a camera; rewrite with: h5repack -l CONTI, or chunks of one image")


def _observed(arrays: dict[str, dict[str, np.ndarray]], name: str, declared: str) -> tuple[str, str]:
    """Return AFTER or BEFORE, whichever explains the joint angles of a whole file, and why. A declaration decides only
    where the file does not; one that contradicts the file raises DataError."""
    error = {AFTER: 0.0, BEFORE: 0.0}
    for a in (a for a in arrays.values() if "states" in a):
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
