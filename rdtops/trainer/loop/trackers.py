"""Where a training's curves go: metrics.jsonl in the run folder always; TensorBoard or Weights & Biases when asked for.

A resumed run goes on in the same place, from the step of its checkpoint; what is then trained again replaces what was
told of it before, where the tracker can do that. A tracker that fails is told once and left out: no training ends of
it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rdtops.contract.config import TrainConfig
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError
from rdtops.hostlib.fields import loads, table, whole
from rdtops.hostlib.files import append_line, lines_of, write_whole
from rdtops.trainer.loop.disk_space import Backlog

FINISH_S = 60.0  # a tracker whose server does not answer gets so long at the end
WANDB_PROJECT = "rdtops"


def check(config: TrainConfig) -> None:
    """Raises ConfigError when the package of the tracker is not installed."""
    if config.tracker != "off" and importlib.util.find_spec(config.tracker) is None:
        raise ConfigError(
            f"tracker = {config.tracker} needs the package {config.tracker}, which the trainer's Python does not have",
            remedy="python -m pip install '.[trackers]'   # in the host's environment; or --set tracker=off")


class Tracker(Protocol):
    """What we use of accelerate's trackers."""

    def log(self, values: dict[str, Any], step: int | None = None) -> object: ...

    def finish(self) -> object: ...


class Trackers:
    """All trackers of one run; `warn` tells what went wrong with one. Only rank 0 opens any."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._trackers: dict[str, Tracker] = {}

    def open(self, spec: RunSpec, steps_done: int) -> None:
        self._try("metrics.jsonl", lambda: MetricsFile(Path(spec.paths.metrics), steps_done))
        if spec.train.tracker == "tensorboard":
            self._try("tensorboard", lambda: _tensorboard(spec, steps_done))
        elif spec.train.tracker == "wandb":
            self._try("wandb", lambda: _wandb(spec))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the numbers of one step by their names, units in the names as in the Journal."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, lambda tracker=tracker: tracker.log(dict(values), step=step) and None)  # type: ignore[misc]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._trackers.items()):
            ending = threading.Thread(target=self._try, args=(name, lambda t=tracker: t.finish() and None), daemon=True)
            ending.start()
            ending.join(FINISH_S)
            if ending.is_alive():
                self._warn(f"{name} has not finished within {FINISH_S:.0f} s and was left behind")

    def _try(self, name: str, act: Callable[[], Tracker | None]) -> None:
        try:
            made = act()
        except Exception as error:  # whatever a tracker raises, the training is worth more
            self._trackers.pop(name, None)
            self._warn(f"{name} failed and is left out from here on: {type(error).__name__}: {error}")
        else:
            if made is not None:
                self._trackers[name] = made


class MetricsFile:
    """One JSON object a line: step, time_s (Unix), and what was measured. Each step stands there once, in order. On a
    full disk a line waits for the next one."""

    def __init__(self, path: Path, steps_done: int) -> None:
        self.path = path
        write_whole(path, b"".join(line for line, step in _lines(path) if step <= steps_done))
        self._backlog: Backlog[str] = Backlog(path, lambda line: append_line(self.path, line))

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self._backlog.add(json.dumps({"step": step, "time_s": round(time.time(), 3), **values}))

    def finish(self) -> None:
        self._backlog.clear()


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Return the complete ones with their steps: a killed run may have left a torn last line, a full disk a torn one
    anywhere."""
    with suppress(OSError):  # there is none yet
        for line in lines_of(path):
            try:
                step = whole(table(loads(line)).get("step"))
            except ValueError:
                continue
            if step is not None and line.endswith(b"\n"):
                yield line, step


def _tensorboard(spec: RunSpec, steps_done: int) -> Tracker:
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker

    PartialState()
    # TensorBoard shows nothing of later steps from the files before this one
    tracker = TensorBoardTracker("tensorboard", spec.paths.root, purge_step=steps_done + 1)
    tracker.start()
    if steps_done == 0:
        tracker.writer.add_text("config", f"```json\n{spec.to_json()}\n```")
    return tracker


def _wandb(spec: RunSpec) -> Tracker:
    import wandb
    from accelerate import PartialState
    from accelerate.tracking import WandBTracker

    PartialState()
    settings = wandb.Settings(console="off", quiet=True, finish_timeout=FINISH_S)
    tracker = _WandB(WandBTracker(
        os.environ.get("WANDB_PROJECT") or WANDB_PROJECT, id=spec.run_id, name=spec.run_id, resume="allow",
        dir=str(spec.paths.root), mode=os.environ.get("WANDB_MODE") or spec.train.wandb_mode, settings=settings))
    with _untagged():
        tracker.start(spec)
    return tracker


class _WandB:
    """W&B refuses steps that lie behind its own, as those after a resume do: the step is a value like others."""

    def __init__(self, wandb: Any) -> None:
        self._wandb = wandb

    def start(self, spec: RunSpec) -> None:
        self._wandb.start()
        self._wandb.run.define_metric("*", step_metric="step")
        self._wandb.store_init_configuration(spec.train.to_json())

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self._wandb.log({**values, "step": step})

    def finish(self) -> None:
        self._wandb.finish()


@contextmanager
def _untagged() -> Iterator[None]:
    """Hide the marks by which `inv stop` finds a run's processes from one that is started within. W&B's
    ends with ours by itself, and at a SIGTERM of its own it would drop what it has not yet written."""
    taken = {name: os.environ.pop(name) for name in ("RDTOPS_RUN", "LOCAL_RANK") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)
