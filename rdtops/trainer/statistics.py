"""Mean, spread and range of every slot over a dataset, keyed by the MD5 of its files and by the codec.

`python -m rdtops.trainer.statistics DATASET_DIR --out statistics.json`
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rdtops.errors import RdtopsError
from rdtops.trainer import failures, libero, quarantine
from rdtops.trainer.actions import CODECS, Codec, codec

NAME = "statistics.json"


def compute(dataset: libero.Dataset, using: Codec) -> dict[str, Any]:
    """State and action are lists of 128 values each, zero in slots that the codec does not use. The actions are those
    that are learnt: the ones that an observation precedes."""
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
        "state": _describe(np.concatenate(states)),
        "action": _describe(np.concatenate(actions)),
    }


def slot_weights(statistics: dict[str, Any], used: np.ndarray) -> np.ndarray:
    """What an error in each slot (A,) of an action counts in the normalised loss: in a used one its share of the slot's
    variance, so that a joint that moves little is learnt as well as one that moves much, and together as much as all
    slots of the published loss. A slot that hardly moves is taken to move a tenth as much as the one that moves most.
    Slots that are not used keep the weight 1: the solver hands on from step to step what the model makes of them."""
    std = np.asarray(statistics["action"]["std"], np.float64)
    spread = np.maximum(std, 0.1 * std[used].max() or 1.0)
    return np.where(used, len(used) / used.sum() / spread ** 2, 1.0).astype(np.float32)


def load_fitting(path: str | Path, dataset: libero.Dataset, using: Codec) -> dict[str, Any] | None:
    """The statistics of a file, if they are there and belong to exactly these data and this codec."""
    try:
        stored = json.loads(Path(path).read_text())
        fits = stored["files"] == dataset.md5 and stored["codec_hash"] == using.hash
        complete = all(len(stored[kind][what]) == 128 and np.isfinite(stored[kind][what]).all()
                       for kind in ("state", "action") for what in ("mean", "std", "min", "max"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stored if fits and complete else None


def write(path: str | Path, statistics: dict[str, Any]) -> None:
    """Appears whole or not at all."""
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(statistics, indent=1) + "\n")
    partial.replace(target)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.statistics", description=__doc__)
    parser.add_argument("dataset", help="folder with *.hdf5 files, any depth")
    parser.add_argument("--out", required=True, help="where statistics.json is written")
    parser.add_argument("--codec", default="delta_velocity", choices=sorted(CODECS))
    options = parser.parse_args(arguments)
    try:
        dataset = quarantine.index(options.dataset)
        write(options.out, compute(dataset, codec(options.codec)))
    except RdtopsError as error:
        return failures.complain(error)
    sys.stdout.write(f"{len(dataset.md5)} files, {len(dataset.episodes)} episodes -> {options.out}\n")
    return 0


def _describe(slots_TA: np.ndarray) -> dict[str, list[float]]:
    wide = slots_TA.astype(np.float64)
    return {"mean": wide.mean(0).tolist(), "std": wide.std(0).tolist(),
            "min": wide.min(0).tolist(), "max": wide.max(0).tolist()}


if __name__ == "__main__":
    sys.exit(main())
