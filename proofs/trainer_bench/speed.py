"""Speed of `inv bench trainer`: every promise of speed, measured beside another implementation of the same work.

    python -m proofs.trainer_bench.speed DATASET [--quick] [--only WORDS]

prints a JSON row for each: name, value (a ratio, never a time: machines differ), goal, holds, how. Both sides take
turns in one process with one thread, and medians are compared; where both should give equal numbers, that is checked
first. The model is small (hidden 256, 8 blocks, for predictions 28), but sees as many tokens as rdt-1b: 2 frames of 3
cameras of 729.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import torch

from proofs.trainer_bench import published, saving_pause, step_cost
from rdtops.contract.config import preset
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.observation import HISTORY, NO_INSTRUCTION, ObservationBatch
from rdtops.trainer.data.samples import Batch, Samples, collate
from rdtops.trainer.data.slot_statistics import compute
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.model.conditions import CAMERAS
from rdtops.trainer.model.encoders import normalised, relit, resized
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy

EDGE, PATCHES, HORIZON, SLOTS = 384, 729, 64, 128  # of rdt-1b and its SigLIP
BATCH = 4
SMALL = {**ARCHITECTURES["rdt-1b"], "rdt": {**ARCHITECTURES["rdt-1b"]["rdt"], "hidden_size": 256, "depth": 8,
                                            "num_heads": 4}}
TOLERANCE = 1e-5
Work = Callable[[], object]


@dataclass(frozen=True)
class SpeedRow:
    name: str
    value: float
    goal: str
    holds: bool
    how: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proofs.trainer_bench.speed", description="Measures the trainer.")
    parser.add_argument("dataset", help="folder with LIBERO's demonstrations")
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--only", default="", help="rows whose name has these words")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for row in rows(Path(options.dataset), quick=options.quick, only=options.only):
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
        sys.stdout.flush()
    return 0


def rows(dataset: Path, *, quick: bool, only: str = "") -> Iterator[SpeedRow]:
    rounds = 3 if quick else 9
    with tempfile.TemporaryDirectory() as folder:
        as_libero_stores(dataset, Path(folder))
        measurements: dict[str, Callable[[str], SpeedRow]] = {
            "samples/s, bytes to the encoder's device, resized there":
                lambda name: loading(name, folder, 4 * rounds, goal=20, augment=False),
            "the same, augmented":
                lambda name: loading(name, folder, 4 * rounds, goal=10, augment=True),
            "samples/s, the same float32 batch":
                lambda name: float_batches(name, folder, 4 * rounds),
            "bytes from worker to trainer a sample":
                lambda name: bytes_per_sample(name, folder),
            "predict_action, keys and values reused":
                lambda name: prediction(name, rounds // 2),
            "training step, batch 4":
                lambda name: training_step(name, rounds),
            "memory kept for the backward pass, batch 4":
                lambda name: activations(name, goal=1.3, checkpointing=False),
            "the same, with gradient checkpointing":
                lambda name: activations(name, goal=4, checkpointing=True),
            "kernels a step of rdt-1b, batch 4":
                lambda name: counted(name, lambda cost: cost.kernels, step_cost.MOST_KERNELS),
            "GB moved a step of rdt-1b, batch 4":
                lambda name: counted(name, lambda cost: cost.bytes_moved / 1e9, step_cost.MOST_GB),
            "GB kept a sample of rdt-1b, batch 4":
                lambda name: counted(name, lambda cost: cost.kept_bytes_per_sample / 1e9,
                                     step_cost.MOST_KEPT_GB_A_SAMPLE),
            "noise draws/s, 4 of one sample":
                lambda name: noise_draws(name, rounds, goal=2.5, plain=True),
            "the same, beside 4 samples with a shared background":
                lambda name: noise_draws(name, rounds, goal=1, plain=False),
            "EMA update, tiny":
                lambda name: ema_update(name, ARCHITECTURES["tiny"], 10 * rounds),
            "EMA update, hidden 256":
                lambda name: ema_update(name, SMALL, 5 * rounds),
            "optimiser step, hidden 256":
                lambda name: optimiser_step(name, 3 * rounds),
            "training pause for a checkpoint": checkpoint_pause,
        }
        for name, measure in measurements.items():
            if only in name:
                yield measure(name)


def race(theirs: Work, ours: Work, rounds: int) -> tuple[float, float]:
    """Return the median seconds of each, in turn, after a warm-up round."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(rounds + 1):
        for work, taken in zip((theirs, ours), times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def compared(name: str, theirs: Work, ours: Work, rounds: int, goal: float, against: str) -> SpeedRow:
    slow, fast = race(theirs, ours, rounds)
    return SpeedRow(name, round(slow / fast, 2), f"at least {goal:g} x", slow / fast >= goal,
                    f"{fast * 1e3:.2f} ms; {against}: {slow * 1e3:.2f} ms; medians of {rounds}")


# from the file to the encoder -----------------------------------------------------------------------------------------

def as_libero_stores(source: Path, target: Path) -> None:
    """Copy the files with images uncompressed and contiguous, as LIBERO's exporter writes them."""
    for path in source.rglob("*.hdf5"):
        with h5py.File(path, "r") as old, h5py.File(target / path.name, "w") as new:
            old.copy("data", new)
            for demo, camera in itertools.product(old["data"], libero.CAMERAS):
                name = f"data/{demo}/obs/{camera}"
                del new[name]
                new.create_dataset(name, data=old[name][()])


class Loading:
    """Both loaders of the same samples, in batches of 4."""

    def __init__(self, folder: str, *, augment: bool) -> None:
        self.config = replace(preset("libero_single_task"), num_processes=1, batch_size_per_process=BATCH,
                              image_augmentation=augment)
        dataset, actions = libero.index(folder), codec(self.config.codec)
        texts = sorted({NO_INSTRUCTION, *dataset.instructions})
        self._ours = Samples(dataset, actions, compute(dataset, actions), texts, HORIZON, 1000, self.config)
        self._theirs = published.FloatSamples(dataset, EDGE, augment=augment)
        self._step = itertools.count(1)

    def theirs(self) -> dict[str, torch.Tensor]:
        step = next(self._step)
        return published.collate([self._theirs[self._ours.order.at(step, n)] for n in range(BATCH)])

    def ours(self) -> Batch:
        step = next(self._step)
        return collate([self._ours[step, n] for n in range(BATCH)])  # type: ignore[misc]

    def both(self, samples: list[int]) -> tuple[dict[str, torch.Tensor], Batch]:
        """Return the same samples, undisturbed."""
        return (published.collate([self._theirs[sample] for sample in samples]),
                collate([self._ours.clean(sample, 0) for sample in samples]))


def loading(name: str, folder: str, rounds: int, *, goal: float, augment: bool) -> SpeedRow:
    load = Loading(folder, augment=augment)

    def ours() -> torch.Tensor:
        told = load.ours().observation
        frames = told.frames_BVCSS3.flatten(0, 2)
        if augment:
            frames = relit(frames, told.jitter_B3.repeat_interleave(HISTORY * len(libero.CAMERAS), 0))
        return resized(frames, EDGE)

    return compared(name, load.theirs, ours, rounds, goal, "file opened a sample, PIL, SigLIP's processor, float32")


def float_batches(name: str, folder: str, rounds: int) -> SpeedRow:
    load = Loading(folder, augment=False)
    theirs, ours = load.both([5, 40, 60, 90])
    images = FloatImages(BATCH)
    apart = (theirs["images"] - images.of(ours.observation)).abs().max().item()
    assert apart < 1e-6, apart
    return compared(name, load.theirs, lambda: images.of(load.ours().observation), rounds, 4,
                    f"the published way, whose numbers differ by {apart:.0e}")


class FloatImages:
    """Return the published loader's batch. Always in the same memory: the first touch of 42 MB of new memory costs more
    than all the work on it, and a step no longer needs its images when the next one comes."""

    def __init__(self, samples: int) -> None:
        self._images = torch.empty(samples, HISTORY, CAMERAS, 3, EDGE, EDGE)
        self._background = normalised(torch.full((3, EDGE, EDGE), 127, dtype=torch.uint8))

    def of(self, told: ObservationBatch) -> torch.Tensor:
        """Return the images (B, V x CAMERAS, 3, R, R), background where no frame was kept."""
        frames = iter(resized(told.frames_BVCSS3.flatten(0, 2)[told.encoded_E], EDGE))
        kept = told.frames_kept_BVC.tolist()
        for sample, history, camera in itertools.product(*map(range, self._images.shape[:3])):
            image = self._images[sample, history, camera]
            if camera < len(libero.CAMERAS) and kept[sample][history][camera]:
                image.copy_(next(frames)).mul_(2 / 255).sub_(1)  # while it is in the cache
            else:
                image.copy_(self._background)
        return self._images.flatten(1, 2)


def bytes_per_sample(name: str, folder: str) -> SpeedRow:
    theirs, ours = Loading(folder, augment=False).both([5, 40, 60, 90])
    large = sum(tensor.nbytes for tensor in theirs.values())
    small = sum(getattr(part, f.name).nbytes for part in (ours.observation, ours.target) for f in fields(part))
    return SpeedRow(name, round(large / small, 1), "at least 40 x", large >= 40 * small,
                    f"{small / BATCH / 1e6:.3f} MB; the published way: {large / BATCH / 1e6:.2f} MB")


# the model ------------------------------------------------------------------------------------------------------------

def small_policy(depth: int = SMALL["rdt"]["depth"]) -> RDTPolicy:
    """Return always the same model. A new one predicts zero, and would have gradients in its last layer only."""
    torch.manual_seed(0)
    policy = RDTPolicy({**SMALL, "rdt": {**SMALL["rdt"], "depth": depth}})
    torch.nn.init.normal_(policy.model.final_layer.ffn_final.fc2.weight, std=0.02)
    return policy.train()


def conditions(samples: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(samples)
    tokens = torch.randn(samples, HISTORY, len(libero.CAMERAS), PATCHES, SMALL["img_token_dim"], generator=random)
    return {"lang_tokens": torch.randn(samples, 20, SMALL["lang_token_dim"], generator=random),
            "lang_attn_mask": torch.ones(samples, 20, dtype=torch.bool), "img_tokens": tokens,
            "background_tokens": torch.randn(PATCHES, SMALL["img_token_dim"], generator=random),
            "state_tokens": torch.randn(samples, 1, SLOTS, generator=random),
            "action_mask": torch.ones(samples, 1, SLOTS), "ctrl_freqs": torch.full((samples,), 20)}


def targets(samples: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(100 + samples)
    return {"action_gt": torch.randn(samples, HORIZON, SLOTS, generator=random),
            "noise": torch.randn(samples, HORIZON, SLOTS, generator=random),
            "timesteps": torch.randint(1000, (samples,), generator=random)}


def without_sharing(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the same conditions with the background among the tokens of every sample."""
    rest = {name: tensor for name, tensor in given.items() if name != "background_tokens"}
    whole = published.whole_image_tokens(given["img_tokens"], given["background_tokens"])
    return {**rest, "img_tokens": whole}


def prediction(name: str, rounds: int) -> SpeedRow:
    ours, given = small_policy(depth=28).eval(), conditions(1)  # as deep as rdt-1b: the adaptors count once
    noise = targets(1)["noise"]
    theirs = copy.deepcopy(ours)
    theirs.model.keys_values = lambda conditions: conditions  # type: ignore  # made anew by every block in every step
    assert torch.equal(theirs.predict_action(**given, noise=noise), ours.predict_action(**given, noise=noise))
    return compared(name, lambda: theirs.predict_action(**given, noise=noise),
                    lambda: ours.predict_action(**given, noise=noise), rounds, 1.8,
                    "recomputed at each of 5 solver steps, the same bits")


class Step:
    """A complete training step without the encoder."""

    def __init__(self, *, ours: bool) -> None:
        given = conditions(BATCH)
        self.policy = small_policy() if ours else published.plain(small_policy())
        self.given = {**(given if ours else without_sharing(given)), **targets(BATCH)}
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-5, fused=ours, foreach=False)
        self.ema = Ema(self.policy)
        self.average = self.ema.step if ours else lambda policy: published.average(self.ema.policy, policy, 0.99)

    def loss(self) -> torch.Tensor:
        return self.policy.loss(**self.given)

    def __call__(self) -> None:
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average(self.policy)


def training_step(name: str, rounds: int) -> SpeedRow:
    theirs, ours = Step(ours=False), Step(ours=True)
    apart = gradients_apart(theirs, ours)
    row = compared(name, theirs, ours, rounds, 1.3, "background in every sample, plain norms, loops over parameters")
    return replace(row, holds=row.holds and apart < TOLERANCE, goal=f"{row.goal}, gradients to {TOLERANCE:.0e}",
                   how=f"{row.how}; gradients differ by {apart:.1e}")


def gradients_apart(one: Step, other: Step) -> float:
    """Return the largest relative difference of a parameter's gradient, by norms."""
    gradients = [torch.autograd.grad(step.loss(), list(step.policy.parameters())) for step in (one, other)]
    return max(((a - b).norm() / a.norm()).item() for a, b in zip(*gradients, strict=True))


def activations(name: str, goal: float, *, checkpointing: bool) -> SpeedRow:
    theirs, ours = Step(ours=False), Step(ours=True)
    ours.policy.model.gradient_checkpointing = checkpointing
    large, small = (kept_bytes(step.policy, step.given) for step in (theirs, ours))
    return SpeedRow(name, round(large / small, 2), f"at least {goal:g} x less", large >= goal * small,
                    f"{small / 1e6:.0f} MB, bf16 as the presets have it; the plain step: {large / 1e6:.0f} MB")


def kept_bytes(policy: RDTPolicy, given: dict[str, torch.Tensor]) -> int:
    """Return the bytes that the forward pass saves for the backward pass, without weights and inputs."""
    with step_cost.Kept(policy, given) as kept, torch.autocast("cpu", torch.bfloat16):
        policy.loss(**given)
    return kept.bytes


@functools.cache
def large_step() -> step_cost.StepCost:
    return step_cost.step_cost("rdt-1b", BATCH)


def counted(name: str, value: Callable[[step_cost.StepCost], float], most: float) -> SpeedRow:
    count = value(large_step())
    return SpeedRow(name, round(count, 3), f"at most {most:,}", count <= most,
                    "python -m proofs.trainer_bench.step_cost   # counted, not measured")


def noise_draws(name: str, rounds: int, *, goal: float, plain: bool, draws: int = 4) -> SpeedRow:
    """Compare with the sample repeated for each draw: in a plain batch, or in one that shares its background as
    ours."""
    one, drawn = conditions(1), targets(draws)
    action = drawn["action_gt"][:1]
    repeated = {key: t if key == "background_tokens" else t.repeat_interleave(draws, 0) for key, t in one.items()}
    theirs = {**(without_sharing(repeated) if plain else repeated), **drawn,
              "action_gt": action.repeat_interleave(draws, 0)}
    ours = {**one, "action_gt": action, "noise": drawn["noise"][None], "timesteps": drawn["timesteps"][None]}
    policy, other = small_policy(), published.plain(small_policy()) if plain else small_policy()
    apart = (other.loss(**theirs) - policy.loss(**ours)).abs().item()
    assert apart < TOLERANCE, apart
    return compared(name, lambda: other.loss(**theirs).backward(), lambda: policy.loss(**ours).backward(), rounds, goal,
                    f"the sample 4 times; losses differ by {apart:.0e}")


def ema_update(name: str, architecture: dict[str, Any], rounds: int) -> SpeedRow:
    policy = RDTPolicy(architecture)
    theirs, ours = Ema(policy), Ema(policy)
    return compared(name, lambda: published.average(theirs.policy, policy, 0.99), lambda: ours.step(policy), rounds, 3,
                    "a loop over parameters, two passes each")


def optimiser_step(name: str, rounds: int) -> SpeedRow:
    loop, fused = (torch.optim.AdamW(small_policy().parameters(), lr=1e-5, fused=fused, foreach=False)
                   for fused in (False, True))
    for optimizer in (loop, fused):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.full_like(parameter, 1e-3)
    return compared(name, loop.step, fused.step, rounds, 2, "a loop over parameters")


def checkpoint_pause(name: str) -> SpeedRow:
    pause_s, save_s = saving_pause.checkpoint_pause()
    return SpeedRow(name, round(pause_s / save_s, 3), "at most 0.2", pause_s <= 0.2 * save_s,
                    f"{pause_s * 1e3:.0f} ms; written in step with the training: {save_s * 1e3:.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
