"""Saving pause: the time that a checkpoint pauses a training: `python -m proofs.trainer_bench.saving_pause [FOLDER]`.

FOLDER is the folder for checkpoints (default: a temporary folder); its disk matters.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rdtops.contract.journal import Journal
from rdtops.contract.run import Retention
from rdtops.hostlib.fields import loads
from rdtops.trainer import libraries
from rdtops.trainer.distributed.ranks import Ranks
from rdtops.trainer.distributed.sharding import Shards
from rdtops.trainer.loop import checkpoint
from rdtops.trainer.loop.checkpoint import Contents, TrainingState
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.loop.progress import Telling
from rdtops.trainer.loop.saving import Saver
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy

HIDDEN, DEPTH, HEADS = 512, 8, 8  # 25 million parameters: 0.4 GB a checkpoint


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    pause_s, save_s = checkpoint_pause(Path(given[0]) if given else None)
    sys.stdout.write(f"a checkpoint pauses training for {pause_s:.3f} s; written in step with it, for {save_s:.3f} s "
                     f"({pause_s / save_s:.1%})\n")
    return 0


def checkpoint_pause(folder: Path | None = None, rounds: int = 3) -> tuple[float, float]:
    """Return (async_pause_s, sync_save_s): medians of the pause of the loop for a checkpoint, as the trainer saves it,
    and if it waited for the disk. Both take turns, so that a busy disk affects both. The memory of the copy was
    allocated before, as in a training, where the first step does it."""
    state = _state()
    pauses, saves = [], []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        checkpoints = Path(name)
        with Saver(checkpoints, Retention(last=1), Telling(Journal(checkpoints / "journal.jsonl"))) as saver:
            saver.reserve(state.tensors())
            for number in range(rounds):
                pauses.append(_seconds(lambda step=2 * number + 1: saver.save(step, _contents(state))))  # type: ignore[misc]
                saver.wait()
                saves.append(_seconds(lambda step=2 * number + 2: checkpoint.save(  # type: ignore[misc]
                    checkpoints, step, _contents(state).write)))
    return statistics.median(pauses), statistics.median(saves)


def _state(hidden: int = HIDDEN) -> TrainingState:
    """Return a model after its first update, so that Adam has its moments. On the GPU when there is one."""
    config = loads(json.dumps(ARCHITECTURES["tiny"]))
    config["rdt"].update(hidden_size=hidden, depth=DEPTH, num_heads=HEADS)
    policy = RDTPolicy(config).to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = torch.optim.AdamW(policy.parameters())
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    shards = Shards(Ranks(0, 1, next(policy.parameters()).device))
    scaler = libraries.gradient_scaler(torch.device("cpu"), enabled=False)
    return TrainingState(policy, Ema(policy), optimizer, scaler, shards)


def _contents(state: TrainingState) -> Contents:
    return Contents(state.tensors(), {checkpoint.CONFIG: state.policy.config, checkpoint.TRAINER: state.numbers()})


def _seconds(act: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began_s = time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the loop does not wait for the GPU's copies, but its next step comes after them
    return time.perf_counter() - began_s


if __name__ == "__main__":
    sys.exit(main())
