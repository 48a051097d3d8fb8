"""Whole runs: trainings in processes of their own, as a launch starts them: killed, resumed, too large, and of several
GPUs."""

from __future__ import annotations

import hashlib
import json
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
from rdtops.contract.run import RunSpec

LEARNT = ("model.safetensors", "ema/model.safetensors", "optimizer.safetensors")
STEPS, EVERY, KILLED_AT = 9, 3, 5
LIMIT_S = 150.0
SHARDINGS = ("none", "zero1", "fsdp2")
TOO_LARGE = 512  # samples: rdt-1b would keep 460 GB for the backward pass
ROOM_BYTES = 30 << 30  # for a checkpoint of rdt-1b, which has 20 GB


def resumes(card: Card) -> None:
    """Kill a training in the middle and resume it: the same bits as one that was left alone? At rdt-170m's size, whose
    matrices are those of the real thing and whose checkpoints are not 20 GB."""
    card.clear()
    model = "rdt-170m" if card.is_gpu else card.model
    small = replace(card, model=model)
    assets = stand_ins.make(small)
    settings = (f"max_steps={STEPS}", f"checkpoint_every_steps={EVERY}", "checkpoints_total_limit=1",
                "heldout_share=0", "loader_workers=2", "learning_rate=1e-3")
    whole = stand_ins.run_of(small, assets, "whole", *settings)
    killed = stand_ins.run_of(small, assets, "killed", *settings)
    ends = [_trained(whole), _trained(killed, until=KILLED_AT), _trained(killed)]
    if ends[0].code or ends[2].code:
        card.tell(CardRow("runs", f"kill and resume of {model}", "failed", "", "the same bits", False,
                          (ends[0].words or ends[2].words)[-300:]))
        return
    same = [name for name in LEARNT if _digest(whole, name) == _digest(killed, name)]
    card.tell(CardRow("runs", f"kill and resume of {model}", f"{len(same)} of {len(LEARNT)} files equal", "",
                      f"{len(LEARNT)} of {len(LEARNT)}", len(same) == len(LEARNT),
                      f"killed after step {KILLED_AT} of {STEPS}; weights, EMA weights, both moments"))


def as_a_user(card: Card) -> None:
    """Train as the preset says: workers, validations, sampled actions, a save in the end; what the Journal tells. Where
    there is no room for a checkpoint of rdt-1b it is rdt-170m."""
    card.clear()
    if card.is_gpu and shutil.disk_usage(card.room).free < ROOM_BYTES:
        card = replace(card, model="rdt-170m")
    steps = 40 if card.is_gpu else 4
    run = stand_ins.run_of(card, stand_ins.make(card), "preset", f"max_steps={steps}",
                           f"checkpoint_every_steps={steps}", f"heldout_every_steps={steps // 2}",
                           f"sample_every_steps={steps // 2}")
    began_s = time.monotonic()
    end = _trained(run)
    told = _events(run)
    stepped = [event for event in told if event["kind"] == "step"]
    saves = sum(event["kind"] == "checkpoint" for event in told)
    how = end.words[-300:] if end.code else f"{time.monotonic() - began_s:.0f} s with start, {saves} saved"
    card.tell(CardRow("runs", f"the preset, {card.model}, {steps} steps", f"exit {end.code}", "", "exit 0",
                      end.code == 0, how))
    for name in ("save_s", "evaluation_s", "data_s"):
        if stepped:
            longest = max(event[name] for event in stepped)
            card.tell(CardRow("runs", f"the longest {name.removesuffix('_s')} of a step", round(longest, 2), "s"))


def too_large(card: Card) -> None:
    """Ask for a batch that no card holds: the end must be told by its name."""
    if not card.is_gpu:
        return
    card.clear()
    run = stand_ins.run_of(card, stand_ins.make(card), "too-large", f"batch_size_per_process={TOO_LARGE}",
                           "gradient_checkpointing=false", "max_steps=2", "loader_workers=2", "heldout_share=0")
    end = _trained(run)
    last: dict[str, Any] = next((event for event in reversed(_events(run)) if event["kind"] == "failed"), {})
    kind = str(last.get("type", "no word"))
    card.tell(CardRow("runs", f"a batch of {TOO_LARGE:,}", kind, "", "OutOfMemoryError",
                      end.code == 1 and kind == "OutOfMemoryError", str(last.get("error", end.words))[:300]))


def several(card: Card) -> None:
    """Train on two GPUs by each sharding: the same digests, and how long a step takes beside one GPU's."""
    if torch.cuda.device_count() < 2:
        card.tell(CardRow("several", "two GPUs", "not measured", how=f"{torch.cuda.device_count()} GPU here"))
        return
    card.clear()
    model = "rdt-170m"
    small = replace(card, model=model)
    assets = stand_ins.make(small)
    digests: dict[str, list[str]] = {}
    for sharding in SHARDINGS:
        if card.left_s < 60:
            card.tell(CardRow("several", sharding, "not measured", how="no time was left"))
            continue
        run = stand_ins.run_of(small, assets, f"two-{sharding}", "num_processes=2", "max_steps=20",
                               "checkpoint_every_steps=20", "heldout_share=0", f"sharding={sharding}")
        end = _trained(run, processes=2)
        steps = [event["step_s"] for event in _events(run) if event["kind"] == "step"][5:-1]
        digests[sharding] = [_digest(run, name) for name in LEARNT] if end.code == 0 else []
        card.tell(CardRow("several", f"two GPUs, {sharding}", round(1e3 * sorted(steps)[len(steps) // 2], 1) if steps
                          else "failed", "ms a step", "the same bits as none",
                          bool(digests[sharding]) and digests[sharding] == digests["none"], end.words[-300:]
                          if end.code else f"{model}; the gradients' average lies within the backward pass"))


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
        while process.poll() is None and time.monotonic() < ends_s and not (until and _steps(run) >= until):
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return ProcessEnd(process.returncode, (Path(run.paths.root) / "train.log").read_text(errors="replace")[-2000:])


def _events(run: RunSpec) -> list[dict[str, Any]]:
    path = Path(run.paths.journal)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _steps(run: RunSpec) -> int:
    path = Path(run.paths.journal)
    return path.read_text().count('"kind": "step"') if path.exists() else 0


def _digest(run: RunSpec, name: str) -> str:
    newest = max(Path(run.paths.checkpoints).glob("step_*"))
    return hashlib.md5((newest / name).read_bytes()).hexdigest()
