"""Slot statistics: mean, spread and range of every slot over a dataset, keyed by the MD5 of its files and the codec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdtops.errors import DataError
from rdtops.hostlib import digests, files
from rdtops.hostlib.fields import loads, number, table, text, words
from rdtops.trainer.data import isolation, libero
from rdtops.trainer.data.actions import Codec
from rdtops.trainer.data.plausibility import Implausible, implausible

NAME = "statistics.json"
KINDS, NUMBERS = ("state", "action"), ("mean", "std", "min", "max")


def compute(dataset: libero.Dataset, using: Codec) -> dict[str, Any]:
    """Compute the statistics. State and action are lists of 128 values each, zero in slots that the codec does not use.
    The actions are those that an observation precedes, which are learnt."""
    actions = [using.encode_actions(e.actions_T7[e.lead:], e.pose_T6[:e.starts]) for e in dataset.episodes]
    states = [using.encode_state(e.joint_rad_T7, e.finger_m_T2, e.position_m_T3, e.axis_angle_rad_T3)
              for e in dataset.episodes]
    return {
        "files": dataset.md5,
        "codec": using.name,
        "codec_hash": using.hash,
        "episodes": len(dataset.episodes),
        "steps": sum(len(e.actions_T7) for e in dataset.episodes),
        "observed": sorted({e.observed for e in dataset.episodes}),
        "without": list(dataset.without),
        "state": _describe(np.concatenate(states)),
        "action": _describe(np.concatenate(actions)),
    }


def slot_weights(statistics: dict[str, Any], used: np.ndarray) -> np.ndarray:
    """Return the weight of each slot (A,) of an action in the normalised loss. A used slot has the inverse of its
    variance, so that a joint that moves little is learnt as well as one that moves much; together they weigh as much as
    all slots of the published loss. A slot that hardly moves is taken to move a tenth as much as the one that moves
    most. Unused slots keep the weight 1: the solver passes the model's values in them from step to step."""
    std = np.asarray(statistics["action"]["std"], np.float64)
    spread = np.maximum(std, 0.1 * std[used].max() or 1.0)
    return np.where(used, len(used) / used.sum() / spread ** 2, 1.0).astype(np.float32)


def load_fitting(path: str | Path, dataset: libero.Dataset, using: Codec) -> dict[str, Any] | None:
    """Return the statistics of a file, if it exists and belongs to exactly these data and this codec."""
    try:
        stored = _stored(path)
        fits = (stored["files"] == dataset.md5 and stored["codec_hash"] == using.hash
                and words(stored.get("without")) == list(dataset.without)
                and stored["observed"] == sorted({e.observed for e in dataset.episodes}))
    except (OSError, ValueError, KeyError):
        return None
    sound = fits and _is_complete(stored) and all(
        np.isfinite(stored[kind][what]).all() for kind in KINDS for what in NUMBERS)
    return stored if sound else None


def _stored(path: str | Path) -> dict[str, Any]:
    """Return the table of a statistics file. Raise OSError or ValueError."""
    found = loads(files.head_of(path, files.TABLE_BYTES))
    if not isinstance(found, dict):
        raise ValueError("it must hold a JSON object")  # of a file, not of an argument
    return found


def _is_complete(stored: dict[str, Any]) -> bool:
    """Tell whether all its numbers are present, finite or not."""
    rows = [table(stored.get(kind)).get(what) for kind in KINDS for what in NUMBERS]
    return all(isinstance(row, list) and len(row) == 128 and
               all(isinstance(value, float) or number(value) is not None for value in row) for row in rows)


def write(path: str | Path, statistics: dict[str, Any]) -> None:
    """Write the file atomically."""
    files.write_whole(path, json.dumps(statistics, indent=1) + "\n")


@dataclass(frozen=True)
class Verified:
    """The result of verifying a statistics file."""

    path: str
    why: str  # why it was recomputed; '' when it was not
    is_written: bool
    statistics: dict[str, Any]
    implausible: tuple[Implausible, ...]

    @property
    def is_sound(self) -> bool:
        return not any(one.is_wrong for one in self.implausible)

    def to_json(self) -> dict[str, Any]:
        kept = {key: self.statistics[key] for key in ("files", "codec", "codec_hash", "episodes", "steps", "observed")}
        return {"path": self.path, "why": self.why, "is_written": self.is_written, "is_sound": self.is_sound, **kept,
                "unsound": [asdict(one) for one in self.implausible]}


def verify(folder: str | Path, path: str | Path, using: Codec, declared: libero.Declared = libero.FOUND_OUT,
           anew: bool = False) -> Verified:
    """Keep statistics that belong to these files and this codec, which needs only their MD5 (cached while a file is
    unchanged); compute and write them otherwise. Raise DataError."""
    hdf5 = [] if anew else libero.hdf5_files(folder, declared)
    md5 = {p.relative_to(folder).as_posix(): md5 for p, md5 in digests.remembered(hdf5).items()}
    why = "asked for" if anew else _unfit(path, md5, using, declared)
    if not why:
        stored = _stored(path)
        return Verified(str(path), "", False, stored, tuple(implausible(stored, using)))
    found = compute(isolation.index(folder, declared=declared), using)
    return Verified(str(path), why, _is_written(path, found), found, tuple(implausible(found, using)))


@dataclass(frozen=True)
class Standing:
    """Whether a training can use the statistics beside the data; otherwise it computes its own."""

    why_not: str = ""
    wrong: str = ""  # the first implausible number in them
    odd: tuple[str, ...] = ()
    unread: int = 0  # files whose MD5 is not cached, so they may differ


def standing(folder: str | Path, using: Codec, declared: libero.Declared = libero.FOUND_OUT) -> Standing:
    """Check the statistics by the file and cached MD5 sums only."""
    path = Path(folder) / NAME
    try:
        hdf5 = libero.hdf5_files(folder, declared)
    except DataError as error:
        return Standing(error.message)
    known = digests.known(hdf5)
    why = _unfit(path, {p.relative_to(folder).as_posix(): known.get(p) for p in hdf5}, using, declared)
    try:
        found = [] if why else implausible(_stored(path), using)
    except (OSError, ValueError):
        return Standing("the data files have just been deleted")
    wrong = why.partition("they were implausible: ")[2]
    return Standing(why, wrong, tuple(f"{u.slot}: {u.says}" for u in found), len(hdf5) - len(known))


def _unfit(path: str | Path, md5: Mapping[str, str | None], using: Codec, declared: libero.Declared) -> str:
    """Return why the statistics of a file cannot be used; '' when they can. A file whose MD5 is None is not checked."""
    try:
        stored = _stored(path)
    except FileNotFoundError:
        return "there were none"
    except (OSError, ValueError) as error:
        return f"they could not be read ({type(error).__name__}: {error})"
    known, its_hash = table(stored.get("files")), text(stored.get("codec_hash"))
    needed = ("files", "codec", "episodes", "steps", "observed")
    if not _is_complete(stored) or any(key not in stored for key in needed):
        return "they were incomplete"
    if its_hash != using.hash:
        return f"they were of codec {stored['codec']} ({its_hash[:8]}), requested is {using.name} ({using.hash[:8]})"
    if wrong := [u for u in implausible(stored, using) if u.is_wrong]:
        return f"they were implausible: {wrong[0].kind}, {wrong[0].slot}: {wrong[0].says}"
    left_out = [name for name in declared.left_out if ":" in name]
    if words(stored.get("without")) != left_out:
        return f"they were computed without {', '.join(words(stored.get('without'))) or 'leaving out an episode'}"
    if declared.observed != libero.AUTO and stored["observed"] != [declared.observed]:
        return f"they were computed with observations {' and '.join(words(stored['observed']))} the action"
    others = {name for name in known.keys() & md5.keys() if md5[name] not in (None, known[name])}
    changed = sorted(known.keys() ^ md5.keys() | others)
    return f"the MD5 of {changed[0]}{' and others' if changed[1:] else ''} has changed" if changed else ""


def _is_written(path: str | Path, found: dict[str, Any]) -> bool:
    """Try to write, and tell whether it worked: the folder of a dataset may be read-only for this user."""
    try:
        write(path, found)
    except OSError:
        return False
    return True


def _describe(slots_TA: np.ndarray) -> dict[str, list[float]]:
    wide = slots_TA.astype(np.float64)
    return {"mean": wide.mean(0).tolist(), "std": wide.std(0).tolist(),
            "min": wide.min(0).tolist(), "max": wide.max(0).tolist()}

