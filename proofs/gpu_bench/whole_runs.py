"""Whole runs: trainings in processes of their own, as a launch starts them: killed, resumed, too large, and of several
GPUs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from proofs.gpu_bench import stand_ins
from proofs.gpu_bench.card import Card, CardRow
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec, checkpoint_name
from rdtops.hostlib import manifest

LEARNT = ("model.safetensors", "ema/model.safetensors", "optimizer.safetensors")
STEPS, EVERY, KILLED_AT = 9, 3, 5
LIMIT_S = 150.0
SHARDINGS = ("none", "zero1", "fsdp2")
TOO_LARGE = 512  # samples: rdt-1b would keep 460 GB for the backward pass
ROOM_BYTES = 30 << 30  # for a checkpoint of rdt-1b, which has 20 GB


def resumes(card: Card) -> None:
    """Kill a training in the middle and resume it: the same bits as one that was left alone? At rdt-170m's size, whose
    matrices are those of the real thing and whose checkpoints are not 20 GB."""
    small = replace(card, model="rdt-170m") if card.is_gpu else card
    assets = stand_ins.make(small)
    settings = (f"max_steps={STEPS}", f"checkpoint_every_steps={EVERY}", "checkpoints_total_limit=1",
                "heldout_share=0", "loader_workers=2", "learning_rate=1e-3")
    whole = stand_ins.run_of(small, assets, "whole", *settings)
    killed = stand_ins.run_of(small, assets, "killed", *settings)
    ends = [_trained(whole), _trained(killed, until=KILLED_AT), _trained(killed)]
    if ends[0].code or ends[2].code:
        card.tell(CardRow("runs", f"kill and resume of {small.model}", "failed", "", "the same bits", False,
                          (ends[0].words or ends[2].words)[-300:]))
        return
    digests = zip(_digests(whole), _digests(killed), strict=True)
    same = sum(left_alone == resumed for left_alone, resumed in digests)
    card.tell(CardRow("runs", f"kill and resume of {small.model}", f"{same} of {len(LEARNT)} files equal", "",
                      f"{len(LEARNT)} of {len(LEARNT)}", same == len(LEARNT),
                      f"killed after step {KILLED_AT} of {STEPS}; weights, EMA weights, both moments"))


def as_a_user(card: Card) -> None:
    """Train as the preset says: workers, validations, sampled actions, a save in the end; what the Journal tells. Where
    there is no room for a checkpoint of rdt-1b it is rdt-170m."""
    if card.is_gpu and shutil.disk_usage(card.room).free < ROOM_BYTES:
        card = replace(card, model="rdt-170m")
    steps = 40 if card.is_gpu else 4
    run = stand_ins.run_of(card, stand_ins.make(card), "preset", f"max_steps={steps}",
                           f"checkpoint_every_steps={steps}", f"heldout_every_steps={steps // 2}",
                           f"sample_every_steps={steps // 2}")
    began_s = time.monotonic()
    end = _trained(run)
    steps_told, saves = _told(run, "step"), len(_told(run, "checkpoint"))
    how = end.words[-300:] if end.code else f"{time.monotonic() - began_s:.0f} s with start, {saves} saved"
    card.tell(CardRow("runs", f"the preset, {card.model}, {steps} steps", f"exit {end.code}", "", "exit 0",
                      end.code == 0, how))
    for name in ("save_s", "evaluation_s", "data_s"):
        if steps_told:
            longest = max(data[name] for data in steps_told)
            card.tell(CardRow("runs", f"the longest {name.removesuffix('_s')} of a step", round(longest, 2), "s"))


def too_large(card: Card) -> None:
    """Ask for a batch that no card holds: the end must be told by its name."""
    if not card.is_gpu:
        return
    run = stand_ins.run_of(card, stand_ins.make(card), "too-large", f"batch_size_per_process={TOO_LARGE}",
                           "gradient_checkpointing=false", "max_steps=2", "loader_workers=2", "heldout_share=0")
    end = _trained(run)
    last = [{}, *_told(run, "failed")][-1]
    kind = str(last.get("type", "no word"))
    card.tell(CardRow("runs", f"a batch of {TOO_LARGE:,}", kind, "", "OutOfMemoryError",
                      end.code == 1 and kind == "OutOfMemoryError", str(last.get("error", end.words))[:300]))


def several(card: Card) -> None:
    """Train on two GPUs by each sharding: the same digests, and how long a step takes."""
    if torch.cuda.device_count() < 2:
        card.tell(CardRow("several", "two GPUs", "not measured", how=f"{torch.cuda.device_count()} GPU here"))
        return
    small = replace(card, model="rdt-170m")
    assets = stand_ins.make(small)
    digests: dict[str, list[str]] = {}
    for sharding in SHARDINGS:
        if card.left_s < 60:
            card.tell(CardRow("several", sharding, "not measured", how="no time was left"))
            continue
        run = stand_ins.run_of(small, assets, f"two-{sharding}", "num_processes=2", "max_steps=20",
                               "checkpoint_every_steps=20", "heldout_share=0", f"sharding={sharding}")
        end = _trained(run, processes=2)
        steps = [data["step_s"] for data in _told(run, "step")][5:-1]
        digests[sharding] = _digests(run) if end.code == 0 else []
        card.tell(CardRow("several", f"two GPUs, {sharding}", round(1e3 * sorted(steps)[len(steps) // 2], 1) if steps
                          else "failed", "ms a step", "the same bits as none",
                          bool(digests[sharding]) and digests[sharding] == digests["none"], end.words[-300:]
                          if end.code else f"{small.model}; the gradients' average lies within the backward pass"))


class ProcessEnd:
    """How a process ended: its exit code and the end of what it said."""

    def __init__(self, code: int, words: str) -> None:
        self.code, self.words = code, words.strip()


def _trained(run: RunSpec, *, until: int = 0, processes: int = 1) -> ProcessEnd:
    """Train in a process group of its own. `until`: kill it after so many steps."""
    command = [sys.executable, "-m", "rdtops.trainer.process_group", "--num_processes", str(processes), "-m",
               "rdtops.trainer.train", str(run.paths.config)]
    with (Path(run.paths.root) / "train.log").open("wb") as log, subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        ends_s = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < ends_s and not (until and len(_told(run, "step")) >= until):
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return ProcessEnd(process.returncode, (Path(run.paths.root) / "train.log").read_text(errors="replace")[-2000:])


def _told(run: RunSpec, kind: str) -> list[dict[str, Any]]:
    """Return the data of the Journal's events of a kind."""
    return [event.data for event in Journal(Path(run.paths.journal)).read() if event.kind == kind]


def _digests(run: RunSpec) -> list[str]:
    """Return the MD5 of what was learnt until the last step, as the checkpoint's manifest has them."""
    sealed = manifest.stated(Path(run.paths.checkpoints) / checkpoint_name(run.train.max_steps))
    found: dict[str, str] = {file.path: file.md5 for file in sealed.files}
    return [found[name] for name in LEARNT]
