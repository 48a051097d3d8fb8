"""Norm fit: find by the loss on demonstrations which of the two norms a model's weights belong to.

`python -m rdtops.trainer.normfit PRETRAINED_DIR DATASET_DIR --text-encoder DIR --vision-encoder DIR [--json]`

timm 1.0.3, with which RDT was published, divides by the square root of the variance and calls it RmsNorm; later ones
divide by the true root mean square. With each norm the same weights give another model, without any error. Weights fit
the norm that they were trained with better, so both are evaluated on the same samples with the same noise: `norm` of
config.json should name the better one. Use converged weights; early ones may fit either.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdtops.contract.config import preset
from rdtops.errors import RdtopsError
from rdtops.trainer.data import isolation, slot_statistics
from rdtops.trainer.data.actions import CODECS, codec
from rdtops.trainer.data.samples import Samples, collate
from rdtops.trainer.loop import failures
from rdtops.trainer.model import encoders
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.norm import NORMS
from rdtops.trainer.model.rdt import RDTPolicy

CERTAIN = 4.0  # standard errors: samples of one episode resemble each other, so the true error is larger than stated


@dataclass(frozen=True)
class NormFit:
    """Losses are means over the samples; `margin` is the loss under the other norm less that under the better one."""

    stated: str  # the norm of config.json
    loss: dict[str, float]  # by norm
    samples: int
    margin: float
    standard_error: float  # of the margin, from the differences sample by sample

    @property
    def better(self) -> str:
        return min(self.loss, key=lambda norm: self.loss[norm])

    @property
    def certainty(self) -> float:
        """Margin in standard errors."""
        return self.margin / self.standard_error if self.standard_error else math.inf if self.margin else 0.0

    @property
    def winner(self) -> str:
        """Norm that the weights belong to, or '' when these samples do not decide."""
        return self.better if self.certainty >= CERTAIN else ""


def compare(losses: Mapping[str, Sequence[float]], stated: str) -> NormFit:
    """Compare the norms. `losses`: for each norm those of the same samples, in the same order; at least two samples."""
    means = {norm: float(np.mean(values)) for norm, values in losses.items()}
    better, other = sorted(means, key=lambda norm: means[norm])
    differences = np.asarray(losses[other], float) - np.asarray(losses[better], float)
    error = float(differences.std(ddof=1) / math.sqrt(len(differences)))
    return NormFit(stated, means, len(differences), float(differences.mean()), error)


def under_each_norm(policy: RDTPolicy) -> dict[str, RDTPolicy]:
    """Return a model of each norm with the same weights, not copied."""
    policies = {}
    for norm in NORMS:
        with torch.device("meta"):
            policies[norm] = RDTPolicy({**policy.config, "norm": norm})
        policies[norm].load_state_dict(policy.state_dict(), assign=True)
    return policies


def fit(pretrained: Path, dataset: Path, text_encoder: Path, vision_encoder: Path, *, samples: int = 256, seed: int = 0,
        codec_name: str = "delta_velocity", device: str = "cpu", cache: Path) -> NormFit:
    """Evaluate both norms. `cache`: folder of encoded instructions. Raise DataError or WeightsError."""
    place = torch.device(device)
    policy = RDTPolicy.from_pretrained(pretrained).to(place).eval()
    using, data = codec(codec_name), isolation.index(dataset)
    instructions = encoders.encode_instructions(text_encoder, data.instructions, cache, place)
    conditions = Conditions(instructions, vision_encoder, using.control_hz, place, torch.float32)
    conditions.check(policy.config)
    times = policy.config["noise_scheduler"]["num_train_timesteps"]
    drawn = Samples(data, using, slot_statistics.compute(data, using), conditions.texts, policy.config["pred_horizon"],
                    times, preset("tiny"))  # its settings concern draws that are not made here
    policies = under_each_norm(policy)
    losses: dict[str, list[float]] = {norm: [] for norm in NORMS}
    for number in range(samples):
        given = _given(drawn, conditions, number * len(data) // samples, seed + number, times)
        for norm, candidate in policies.items():
            losses[norm].append(_loss(candidate, given))
    return compare(losses, policy.config["norm"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.normfit",
                                     description="Which of the two norms fits these weights and data better?")
    parser.add_argument("pretrained", type=Path, help="folder with config.json and weights: a download or a checkpoint")
    parser.add_argument("dataset", type=Path, help="folder with *.hdf5 files, any depth")
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--vision-encoder", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=256, help="samples, spread evenly over the dataset, at least 2")
    parser.add_argument("--seed", type=int, default=0, help="seed of noise and diffusion times")
    parser.add_argument("--codec", default="delta_velocity", choices=sorted(CODECS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cache", type=Path, help="folder for encoded instructions; default: none")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.samples < 2:
        parser.error("--samples must be at least 2, otherwise there is no standard error")
    try:
        with tempfile.TemporaryDirectory() as nowhere:
            found = fit(options.pretrained, options.dataset, options.text_encoder, options.vision_encoder,
                        samples=options.samples, seed=options.seed, codec_name=options.codec, device=options.device,
                        cache=options.cache or Path(nowhere))
    except RdtopsError as error:
        return failures.complain(error)
    sys.stdout.write(json.dumps(to_json(found)) + "\n" if options.json else words(found))
    return 0


def to_json(found: NormFit) -> dict[str, Any]:
    return {**asdict(found), "better": found.better, "certainty": found.certainty, "winner": found.winner}


def words(found: NormFit) -> str:
    losses = "".join(f"{norm:12} loss {loss:.6f}\n" for norm, loss in found.loss.items())
    margin = (f"{found.better} is better by {found.margin:.6f} +- {found.standard_error:.6f} "
              f"({100 * found.margin / found.loss[found.better]:.2f} %, {found.certainty:.1f} standard errors, "
              f"{found.samples} samples)\n")
    if not found.winner:
        return losses + margin + f"undecided (less than {CERTAIN:g} standard errors): use more samples\n"
    if found.winner == found.stated:
        return losses + margin + f"config.json says {found.stated}, which is correct\n"
    return losses + margin + f'config.json says {found.stated}: set "norm": "{found.winner}" in it\n'


def _given(samples: Samples, conditions: Conditions, sample: int, seed: int, times: int) -> dict[str, Any]:
    """Return one sample as recorded, with noise and a diffusion time drawn from the seed."""
    timestep = int(np.random.default_rng((seed, sample)).integers(times))
    clean = samples.clean(sample, seed)
    batch = collate([clean.with_draw(clean.target.noise_RHA[0], timestep)]).to(conditions.lang_tokens.device)
    return {**conditions.of(batch.observation), **batch.target.arguments()}


@torch.no_grad()
def _loss(policy: RDTPolicy, given: dict[str, Any]) -> float:
    return float(policy.loss(**given))


if __name__ == "__main__":
    sys.exit(main())
