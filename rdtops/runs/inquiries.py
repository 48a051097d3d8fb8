"""Inquiries: programs of the trainer that answer a question about a run or about weights, asked on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rdtops
from rdtops.contract import exit_codes, variables
from rdtops.contract.config import TrainConfig, data_options
from rdtops.contract.diagnosis.causes import with_host
from rdtops.contract.run import RunSpec
from rdtops.delivery import secrets
from rdtops.errors import RdtopsError, RunError, UsageError
from rdtops.hostlib.fields import loads
from rdtops.runs import launch, overview
from rdtops.runs.overview import RunView
from rdtops.ssh import environment
from rdtops.ssh.command import Command, quoted
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host

TIMEOUT_S = 1800.0  # T5-XXL is 45 GB to read where the instructions are not in the cache


@dataclass(frozen=True)
class Replayed:
    """A step of a run, as rdtops.trainer.replay prints it."""

    host: str
    values: dict[str, Any]


@dataclass(frozen=True)
class NormFitted:
    """Which norm the pretrained weights fit, as rdtops.trainer.normfit prints it."""

    host: str
    pretrained: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Stats:
    """The statistics of a dataset, as rdtops.trainer.statistics prints them."""

    host: str
    values: dict[str, Any]

    @property
    def passed(self) -> bool:
        return bool(self.values["is_sound"])


def replay(connection: Connection, run: RunView, step: int, checkpoint: str = "", device: str = "") -> Replayed:
    """Compute a step of a run again, with the code that it was launched with."""
    if run.spec is None:
        raise RunError(f"{run.host}: the config.json of {run.run_id} cannot be read, so its steps cannot be replayed")
    options = [*(["--checkpoint", checkpoint] if checkpoint else []), *(["--device", device] if device else [])]
    root = str(overview.paths(connection, run).root)
    return Replayed(run.host, ask(connection, run.spec.release, "replay", [root, str(step), *options, "--json"]))


def normfit(connection: Connection, spec: RunSpec, samples: int) -> NormFitted:
    """Try both norms on the weights and data that a training with this spec would use."""
    if "pretrained" not in spec.assets:
        raise RunError("a training from scratch has no pretrained weights to test",
                       remedy=f"inv normfit --host {spec.host}   # without --from-scratch")
    assets = spec.assets
    arguments = [assets["pretrained"], assets["dataset"], "--text-encoder", assets["text_encoder"], "--vision-encoder",
                 assets["vision_encoder"], "--samples", str(samples), "--codec", spec.train.codec, "--device",
                 spec.train.device, "--cache", f"{spec.workspace}/cache/instructions", "--json"]
    return NormFitted(spec.host, assets["pretrained"], ask(connection, spec.release, "normfit", arguments))


def stats(connection: Connection, spec: RunSpec, recompute: bool) -> Stats:
    """Read the statistics of the dataset that a training with this spec would use, with the deployed code."""
    return Stats(spec.host, ask(connection, spec.release, "statistics",
                                _stats_arguments(spec.assets["dataset"], spec.train, recompute)))


def stats_here(folder: Path, train: TrainConfig, recompute: bool) -> Stats:
    """Read the statistics of a dataset on this laptop, in a separate process: the control side does not import the
    trainer."""
    root = Path(rdtops.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "rdtops.trainer.statistics", *_stats_arguments(str(folder), train, recompute)],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, encoding="utf-8",
        errors="replace", timeout=TIMEOUT_S, check=False)
    return Stats("this laptop", _answer("this laptop", "statistics", done.returncode, done.stdout, done.stderr,
                                        f"{sys.executable} -m pip install numpy h5py   # they are needed"))


def ask(connection: Connection, release: str, program: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a program of the trainer on the host and return its JSON. Raises RunError with its message when it fails,
    UsageError where its arguments are wrong."""
    host = connection.host
    line, given = module_line(host, release, f"rdtops.trainer.{program}", arguments)
    result = connection.run_shell(line, timeout_s=TIMEOUT_S, check=False, stdin=given)
    try:
        return _answer(host.name, program, result.code, result.out, result.err,
                       f"inv deploy --only code   # it sends {release}")
    except RdtopsError as error:
        error.remedy = with_host(error.remedy, host.name)
        raise


def module_line(host: Host, release: str, module: str, arguments: Sequence[str],
                packages: str = "") -> tuple[str, bytes]:
    """Return the line of sh that runs a module with the release's code in the host's environment, and its stdin.
    `packages`: a folder that Python searches after the release."""
    command = Command(environment.python(host), "-m", module, *arguments)
    line = (f'cd {quoted(release)} 2>/dev/null || {{ echo "its code is not deployed" >&2; exit 1; }}; '
            f'unset {" ".join(variables.to_unset())} && {environment.activation(host)}'
            f'eval "$(cat)" && {command.shell()}')
    exported = launch.exported(host, release)
    if packages:
        exported["PYTHONPATH"] = f"{release}:{packages}"
    # over stdin, since every user of the host sees command lines: a URL in env may hold a password
    return line, secrets.exports(exported).encode()


def _stats_arguments(folder: str, train: TrainConfig, recompute: bool) -> list[str]:
    return [folder, "--codec", train.codec, *data_options(train), *(["--recompute"] if recompute else []), "--json"]


def _answer(where: str, name: str, code: int, out: str, err: str, else_do: str) -> dict[str, Any]:
    if code:
        message, _, remedy = err.strip().rpartition("\nnext: ")
        if code == UsageError.exit_code:  # it lists the valid values, which may be long
            raise UsageError(f"{where}: {message or remedy}", remedy=remedy if message else "")
        raise RunError(f"{where}: {name} failed with {exit_codes.words(code)}: {(message or remedy)[-1500:]}",
                       remedy=remedy if message else else_do)
    try:
        answer: dict[str, Any] = loads(out.strip().rpartition("\n")[2])
    except ValueError:
        raise RunError(f"{where}: {name} did not print JSON: {out[-600:]}") from None
    return answer
