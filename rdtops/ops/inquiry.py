"""Inquiries: programs of the trainer that answer a question about a run or about weights, asked on the host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rdtops.contract.run import RunSpec
from rdtops.errors import RunError, UsageError
from rdtops.ops import runs
from rdtops.ops.runs import RunView
from rdtops.remote import environment
from rdtops.remote.command import Command, quoted
from rdtops.remote.connection import Connection

TIMEOUT_S = 1800.0  # T5-XXL is 45 GB to read where the instructions are not in the cache


@dataclass(frozen=True)
class Replayed:
    """A step of a run, as rdtops.trainer.replay tells it."""

    host: str
    values: dict[str, Any]


@dataclass(frozen=True)
class NormFitted:
    """Which norm the pretrained weights fit, as rdtops.trainer.normfit tells it."""

    host: str
    pretrained: str
    values: dict[str, Any]


def replay(connection: Connection, run: RunView, step: int, checkpoint: str = "", device: str = "") -> Replayed:
    """With the code that the run was launched with."""
    if run.spec is None:
        raise RunError(f"{run.host}: the config.json of {run.run_id} cannot be read, so it cannot be replayed")
    options = [*(["--checkpoint", checkpoint] if checkpoint else []), *(["--device", device] if device else [])]
    root = str(runs.paths(connection, run).root)
    return Replayed(run.host, ask(connection, run.spec.release, "replay", [root, str(step), *options, "--json"]))


def normfit(connection: Connection, spec: RunSpec, samples: int) -> NormFitted:
    """Of the weights and data that a training with this spec would use."""
    if "pretrained" not in spec.assets:
        raise RunError("a training from scratch has no weights yet, so no norm fits them better",
                       remedy=f"inv normfit --host {spec.host}   # without --from-scratch")
    assets = spec.assets
    arguments = [assets["pretrained"], assets["dataset"], "--text-encoder", assets["text_encoder"], "--vision-encoder",
                 assets["vision_encoder"], "--samples", str(samples), "--codec", spec.train.codec, "--device",
                 spec.train.device, "--cache", f"{spec.workspace}/cache/instructions", "--json"]
    return NormFitted(spec.host, assets["pretrained"], ask(connection, spec.release, "normfit", arguments))


def ask(connection: Connection, release: str, program: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The program's JSON. Raises RunError with what it said when it cannot answer, UsageError where the question was
    wrong."""
    host = connection.host
    variables = {"PYTHONPATH": release, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                 **host.env}
    command = Command("env", *(f"{name}={value}" for name, value in variables.items()), environment.python(host), "-m",
                      f"rdtops.trainer.{program}", *arguments)
    line = f"cd {quoted(release)} && {environment.activation(host)}{command.shell()}"
    result = connection.run_shell(line, timeout_s=TIMEOUT_S, check=False)
    if not result.ok:
        said, _, remedy = result.err.strip().rpartition("\nnext: ")
        if result.code == UsageError.exit_code:  # it lists what would be right, which may be long
            raise UsageError(f"{host.name}: {said or remedy}", remedy=remedy if said else "")
        raise RunError(f"{host.name}: {program} has no answer, exit {result.code}: {(said or remedy)[-1500:]}",
                       remedy=remedy if said else f"inv deploy --only code --host {host.name}   # is {release} there?")
    try:
        answer: dict[str, Any] = json.loads(result.out.strip().rpartition("\n")[2])
    except ValueError:
        raise RunError(f"{host.name}: {program} answered no JSON: {result.out[-600:]}") from None
    return answer
