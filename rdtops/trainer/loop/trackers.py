"""Trackers of a training's curves: always metrics.jsonl in the run folder; TensorBoard or Weights & Biases on request.

A resumed run continues in the same place, from the step of its checkpoint; repeated steps replace their earlier values
where the tracker supports that. A tracker that fails is reported once and disabled: it never ends a training.
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
from rdtops.trainer import child_processes, libraries
from rdtops.trainer.loop.disk_space import Backlog

FINISH_S = 60.0  # time limit at the end for a tracker whose server does not answer
FAILED_S = 5.0  # the same after an error: others wait for this process to end
WANDB_PROJECT = "rdtops"


def check(config: TrainConfig) -> None:
    """Raise ConfigError when the package of the tracker is not installed."""
    if config.tracker != "off" and importlib.util.find_spec(config.tracker) is None:
        raise ConfigError(
            f"tracker = {config.tracker} needs the package {config.tracker}, not installed in the trainer's Python",
            remedy=f"inv deploy --env --set tracker={config.tracker}   # or --set tracker=off")


class Tracker(Protocol):
    """The methods of accelerate's trackers that we use."""

    def log(self, values: dict[str, Any], step: int | None = None) -> object: ...

    def finish(self) -> object: ...


class Trackers:
    """All trackers of one run; `warn` is called with the error of one. Only rank 0 opens any."""

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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        limit_s = FAILED_S if kind else FINISH_S
        until_s = time.monotonic() + limit_s
        ending = {name: threading.Thread(target=self._finish, args=(name, tracker), daemon=True)
                  for name, tracker in self._trackers.items()}
        for thread in ending.values():
            thread.start()
        for name, thread in ending.items():
            thread.join(max(0.0, until_s - time.monotonic()))
            if thread.is_alive():
                self._warn(f"{name} has not finished within {limit_s:.0f} s and was abandoned")

    def _finish(self, name: str, tracker: Tracker) -> None:
        def finish() -> None:
            tracker.finish()

        self._try(name, finish)

    def _try(self, name: str, act: Callable[[], Tracker | None]) -> None:
        try:
            made = act()
        except Exception as error:  # no error of a tracker may end the training
            self._trackers.pop(name, None)
            self._warn(f"{name} failed and is disabled: {type(error).__name__}: {error}")
        else:
            if made is not None:
                self._trackers[name] = made


class MetricsFile:
    """metrics.jsonl, one JSON object a line: step, time_s (Unix), and the measured values. Each step appears once, in
    order. On a full disk a line waits for the next one."""

    def __init__(self, path: Path, steps_done: int) -> None:
        self.path = path
        write_whole(path, b"".join(line for line, step in _lines(path) if step <= steps_done))
        self._backlog: Backlog[str] = Backlog(path, lambda line: append_line(self.path, line))

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self._backlog.add(json.dumps({"step": step, "time_s": round(time.time(), 3), **values}))

    def finish(self) -> None:
        self._backlog.clear()


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the complete lines with their steps: a killed run may have left an incomplete last line, a full disk one
    anywhere."""
    with suppress(OSError):  # the file does not exist yet
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
    # TensorBoard hides later steps of the files before this one
    tracker = TensorBoardTracker("tensorboard", spec.paths.root, purge_step=steps_done + 1)
    libraries.begin(tracker)
    if steps_done == 0:
        tracker.writer.add_text("config", f"```json\n{spec.to_json()}\n```")
    return tracker


def _wandb(spec: RunSpec) -> Tracker:
    import wandb
    from accelerate import PartialState
    from accelerate.tracking import WandBTracker

    PartialState()
    settings = wandb.Settings(console="off", quiet=True, finish_timeout=FINISH_S)
    with _untagged():
        tracker = _WandB(WandBTracker(
            os.environ.get("WANDB_PROJECT") or WANDB_PROJECT, id=spec.run_id, name=spec.run_id, resume="allow",
            dir=str(spec.paths.root), mode=os.environ.get("WANDB_MODE") or spec.train.wandb_mode, settings=settings))
        tracker.start(spec)
    return tracker


class _WandB:
    """A W&B tracker. W&B refuses steps before its own, which come after a resume: so the step is logged as a value."""

    def __init__(self, wandb: Any) -> None:
        self._wandb = wandb

    def start(self, spec: RunSpec) -> None:
        libraries.begin(self._wandb)
        self._wandb.run.define_metric("*", step_metric="step")
        self._wandb.store_init_configuration(spec.train.to_json())

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self._wandb.log({**values, "step": step})

    def finish(self) -> None:
        self._wandb.finish()


@contextmanager
def _untagged() -> Iterator[None]:
    """Hide the environment variables by which `inv stop` finds a run's processes from a process started within, and
    spare it when ours ends. W&B's process ends with ours by itself; at a SIGTERM it would drop unwritten data."""
    taken = {name: os.environ.pop(name) for name in ("RDTOPS_RUN", "LOCAL_RANK") if name in os.environ}
    os.environ[child_processes.OUTLIVES] = "1"
    try:
        yield
    finally:
        del os.environ[child_processes.OUTLIVES]
        os.environ.update(taken)
