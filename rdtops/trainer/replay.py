"""Replay of one step of a training: its samples, the loss of each, and the loss recorded in the Journal.

`python -m rdtops.trainer.replay RUN_DIR STEP [--checkpoint NAME] [--device cpu] [--json]`

Every draw is a function of (seed, step, sample), so the batch can be rebuilt at any time. With the weights before the
step, from the checkpoint of the previous step, its loss is the recorded one, bit for bit on the same kind of device.
With other weights the losses still show which samples are unusual. Nothing in the run folder is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Event, Journal
from rdtops.contract.run import Checkpoint, RunSpec
from rdtops.errors import DataError, RdtopsError, RunError
from rdtops.hostlib import provenance
from rdtops.hostlib.provenance import Provenance
from rdtops.trainer.data import isolation, slot_statistics
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.samples import Batch, Sample, Samples, Share, collate
from rdtops.trainer.loop import asset_changes, checkpoint, failures, inputs
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.precision import DTYPES, autocast, make_reproducible
from rdtops.trainer.model.rdt import RDTPolicy


@dataclass(frozen=True)
class Origin:
    """The source of the weights. `step`: their last training step, 0 for the first weights."""

    name: str  # step_002000, pretrained, or from scratch
    step: int
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Recorded:
    """A loss in the Journal: the mean over the steps `first_step` to `last_step`."""

    loss: float
    first_step: int
    last_step: int


@dataclass(frozen=True)
class ReplayedSample:
    number: int  # in the global batch
    rank: int  # the process that learnt from it
    file: str
    episode: str
    observation: int  # index of the observation in the episode
    timestep: int  # of the diffusion: how noisy the actions were
    loss: float  # mean over the actions of its chunk that lie within the episode


@dataclass(frozen=True)
class Replay:
    run_id: str
    step: int
    weights: str
    weights_step: int
    loss: float
    recorded: Recorded | None
    samples: tuple[ReplayedSample, ...]
    notes: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the weights are those before the step, so that `loss` should be the recorded one."""
        return self.weights_step == self.step - 1


def replay(run: Path, step: int, *, which: str = "", device: str = "") -> Replay:
    """Replay a step. `which`: the name of a checkpoint; default: the newest before the step. `device`: cpu or cuda;
    default: the run's.

    Raise RunError, DataError when the data are not those of the run, WeightsError.
    """
    spec = RunSpec.load(run / "config.json")
    config = spec.train
    if not 1 <= step <= config.max_steps:
        raise RunError(f"{spec.run_id} has the steps 1 to {config.max_steps}, not {step}")
    place = torch.device(device or config.device)
    make_reproducible()
    origin = _origin(run, spec, step, which)
    policy = inputs.policy(spec, origin.checkpoint, gradient_checkpointing=config.gradient_checkpointing is True)
    policy = policy.to(place)
    samples, conditions = _samples(run, spec, policy, place, origin)
    losses_RM, replayed = _losses(policy, samples, conditions, step)
    return Replay(spec.run_id, step, origin.name, origin.step, float(losses_RM.double().mean()),
                  recorded(Journal(run / "journal.jsonl").read(), step), tuple(replayed),
                  tuple(_notes(config, origin, place)))


def recorded(events: Iterable[Event], step: int) -> Recorded | None:
    """Return the last loss in the Journal for a step; a resumed run may have several."""
    found, first = None, 1
    for event in events:
        if event.kind == "started":
            first = int(event.data["resumed_from_step"]) + 1
        elif event.kind == "step":
            last = int(event.data["step"])
            if first <= step <= last:
                found = Recorded(float(event.data["loss"]), first, last)
            first = last + 1
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.replay",
                                     description="Show the samples of a step and the loss of each.")
    parser.add_argument("run", type=Path, help="a run folder: config.json, journal.jsonl, checkpoints/")
    parser.add_argument("step", type=int)
    parser.add_argument("--checkpoint", default="", help="step_002000; default: the newest before the step")
    parser.add_argument("--device", default="", choices=("", "cpu", "cuda"), help="default: the run's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # as in training, for equal bits
    try:
        found = replay(options.run, options.step, which=options.checkpoint, device=options.device)
    except (RdtopsError, OSError) as error:
        return failures.complain(error)
    shown = json.dumps({**asdict(found), "is_exact": found.is_exact}) if options.json else "\n".join(_lines(found))
    sys.stdout.write(shown + "\n")
    return 0


def _origin(run: Path, spec: RunSpec, step: int, which: str) -> Origin:
    valid = checkpoint.valid(run / "checkpoints")
    fitting = [c for c in valid if c.name == which] if which else [c for c in valid if c.step < step]
    if fitting:
        return Origin(fitting[-1].name, fitting[-1].step, fitting[-1])
    if which:
        raise RunError(f"{spec.run_id} has no valid checkpoint {which!r}; it has: "
                       f"{', '.join(c.name for c in valid) or 'none'}", remedy="inv checkpoints")
    return Origin("from scratch" if spec.train.from_scratch else "pretrained", 0)


def _samples(run: Path, spec: RunSpec, policy: RDTPolicy, device: torch.device,
             origin: Origin) -> tuple[Samples, Conditions]:
    """Return the samples as in the training: with its statistics, and data and encoders that have not changed."""
    using = codec(spec.train.codec)
    dataset = isolation.index(inputs.asset(spec, "dataset"), declared=inputs.declared(spec))
    found = slot_statistics.load_fitting(run / slot_statistics.NAME, dataset, using)
    if found is None:
        raise DataError(f"{spec.run_id} was not trained on the current files of {dataset.folder}: their MD5 or "
                        f"the codec differ from {run / slot_statistics.NAME}", remedy="inv deploy --only data")
    read = asset_changes.of_encoders(spec.assets)
    _check_encoders(run, origin, read, spec)
    conditions = Conditions(inputs.instructions(spec, dataset, device, read), inputs.asset(spec, "vision_encoder"),
                            using.control_hz, device, DTYPES[spec.train.mixed_precision])
    samples = Samples(dataset, using, found, conditions.texts, policy.config["pred_horizon"],
                      policy.config["noise_scheduler"]["num_train_timesteps"], spec.train)
    return samples, conditions


def _check_encoders(run: Path, origin: Origin, now: Provenance, spec: RunSpec) -> None:
    """Raise DataError for other encoders than those of the checkpoint; without a checkpoint, than those of the run."""
    folder = Path(origin.checkpoint.path) if origin.checkpoint else run
    then = asset_changes.recorded(folder)
    if then and (found := provenance.differences(then, now)):
        raise DataError(f"{origin.name if origin.checkpoint else spec.run_id} was trained with other encoders than "
                        f"those here: {provenance.words(found, spec.train)}",
                        remedy="put the files of the training back; a replay with others shows nothing")


def _losses(policy: RDTPolicy, samples: Samples, conditions: Conditions,
            step: int) -> tuple[torch.Tensor, list[ReplayedSample]]:
    """Return one loss per process and micro-batch, from batches of the same shape as in training, and each sample's."""
    config = samples.config
    shares = config.num_processes * config.gradient_accumulation_steps
    losses_RM = torch.zeros(config.num_processes, config.gradient_accumulation_steps)
    replayed = []
    for rank in range(config.num_processes):
        for micro in range(config.gradient_accumulation_steps):
            numbers = Share(config, rank, step).numbers(micro)
            drawn = [_read(samples, step, n) for n in numbers]
            # with a graph, though there is no backward pass: without one, attention may use another kernel
            losses_RM[rank, micro] = _loss(
                policy, conditions, samples, collate(drawn), samples.valid_steps(step) / shares).detach()
            with torch.no_grad():
                replayed += [_replayed(policy, conditions, samples, step, n, rank, one)
                             for n, one in zip(numbers, drawn, strict=True)]
    return losses_RM, sorted(replayed, key=lambda sample: sample.number)


def _read(samples: Samples, step: int, number: int) -> Sample:
    drawn = samples[step, number]
    if isinstance(drawn, DataError):
        raise drawn
    return drawn


def _loss(policy: RDTPolicy, conditions: Conditions, samples: Samples, batch: Batch,
          valid_steps: float) -> torch.Tensor:
    """As Training._loss."""
    device = conditions.lang_tokens.device
    batch = batch.to(device)
    with autocast(samples.config.mixed_precision, device):
        return policy.loss(**conditions.of(batch.observation), **batch.target.arguments(), valid_steps=valid_steps,
                           slot_weights=samples.slot_weights)


def _replayed(policy: RDTPolicy, conditions: Conditions, samples: Samples, step: int, number: int, rank: int,
              drawn: Sample) -> ReplayedSample:
    episode, observation = samples.dataset.locate(samples.at(step, number))
    loss = _loss(policy, conditions, samples, collate([drawn]), float(drawn.target.step_mask_H.sum()))
    return ReplayedSample(number, rank, episode.file, episode.name, observation, int(drawn.target.timesteps_R[0]),
                          float(loss))


def _notes(config: TrainConfig, origin: Origin, device: torch.device) -> Iterable[str]:
    if device.type != config.device:
        yield f"trained on {config.device}, replayed on {device.type}: the last digits may differ"
    if origin.checkpoint is None:
        return
    saved = checkpoint.read_trainer(Path(origin.checkpoint.path))["config"]
    changed = sorted(key for key, value in asdict(config).items() if saved.get(key) != value)
    if changed:
        yield (f"the settings of this run changed since {origin.name}: {', '.join(changed)}; replayed with those in "
               "its config.json")


def _lines(found: Replay) -> Iterable[str]:
    yield f"{found.run_id}, step {found.step}, with the weights of {found.weights}"
    yield "number  rank  loss        noise time  sample"
    for s in found.samples:
        yield f"{s.number:6}  {s.rank:4}  {s.loss:<10.6f}  {s.timestep:10}  {s.file}: {s.episode}, step {s.observation}"
    yield f"loss of the step  {found.loss!r}"
    yield f"in the Journal    {_recorded_words(found)}"
    yield from found.notes


def _recorded_words(found: Replay) -> str:
    if found.recorded is None:
        return "nothing about this step"
    steps = found.recorded
    words = repr(steps.loss)
    if steps.first_step != steps.last_step:
        words += f", the mean of the steps {steps.first_step} to {steps.last_step}"
    if not found.is_exact:
        words += f"; not comparable, these weights have learnt up to step {found.weights_step}"
    return words


if __name__ == "__main__":
    sys.exit(main())
