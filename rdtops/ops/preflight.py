"""The checks that need no plugin: code, workspace, Python and its packages, configuration, dataset, weights.

All probes travel in one round trip. Parsers are pure, and an answer they cannot read is a finding that quotes it.
"""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import rdtops
from rdtops.checks import CheckResult
from rdtops.contract.models import MODELS
from rdtops.contract.run import RunSpec
from rdtops.remote import environment
from rdtops.remote.command import Command, quoted
from rdtops.remote.connection import Connection
from rdtops.remote.probe import Answer, Output, Probe, ask

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "mp_rank_00_model_states.pt",
           "pytorch_model/mp_rank_00_model_states.pt")  # the order in which the trainer tries them
CLOCK_SKEW_S = 60.0
SHM_MIB_PER_WORKER = 64
_VERSIONS = (
    "import importlib.metadata as m, json, sys\n"
    "def version(name):\n"
    "    try: return m.version(name)\n"
    "    except m.PackageNotFoundError: return None\n"
    "print(json.dumps({'python': list(sys.version_info[:3]), 'path': sys.executable,"
    " 'packages': {n: version(n) for n in sys.argv[1:]}}))\n")
_CUDA = "import torch; print(torch.cuda.is_available(), torch.cuda.device_count(), torch.version.cuda)"


@dataclass(frozen=True)
class PythonFacts:
    """The interpreter of the host's environment. A package that is not installed has the version None."""

    version: tuple[int, ...]
    path: str
    packages: Mapping[str, str | None]


@dataclass(frozen=True)
class FolderFacts:
    """File names and sizes of a folder, and its config.json where it has one."""

    sizes: Mapping[str, int]
    config: str


def core_checks(connection: Connection, spec: RunSpec) -> list[CheckResult]:
    """Every finding about what `spec` needs on the host, in one round trip."""
    begun_s = time.time()
    answers = ask(connection, probes(connection, spec))
    asked_s = (begun_s, time.time())
    deploy = f"inv deploy --host {spec.host}"
    return [
        _release(answers["release"], spec, deploy),
        _workspace(answers["workspace"], spec),
        *_python(answers["python"], connection, spec),
        *_cuda(answers.get("cuda"), spec),
        _launcher(answers["launcher"], connection.host.launcher),
        configuration(spec),
        _dataset(answers["dataset"], spec, deploy),
        *_pretrained(answers.get("pretrained"), spec, deploy),
        *_clock(answers["clock"], asked_s),
        *_shared_memory(answers["shm"], spec),
    ]


def probes(connection: Connection, spec: RunSpec) -> list[Probe[Any]]:
    host = connection.host
    packages_of = Command(environment.python(host), "-c", _VERSIONS, *requirements(spec.train.tracker))
    python = environment.activation(host) + packages_of.shell()
    found: list[Probe[Any]] = [
        Probe("release", f"[ -e {quoted(spec.release + '/snapshot.json')} ] && echo there || echo missing", _words),
        Probe("python", python, parse_python, timeout_s=30),
        Probe("launcher", "for p in tmux setsid; do command -v $p; done; :", _words),
        Probe("workspace", _nearest(spec.workspace), parse_nearest),
        Probe("dataset", _listing(spec.assets["dataset"], "*.hdf5"), parse_folder),
        Probe("clock", "date +%s", parse_clock),
        Probe("shm", "LC_ALL=C df -mP /dev/shm", parse_shm),
    ]
    if "pretrained" in spec.assets:
        found.append(Probe("pretrained", _listing(spec.assets["pretrained"]), parse_folder))
    if spec.train.device == "cuda":
        variables = {n: v for n, v in host.env.items() if n.startswith("CUDA_")}  # those decide what torch sees
        line = environment.activation(host) + Command(environment.python(host), "-c", _CUDA, env=variables).shell()
        found.append(Probe("cuda", line, parse_cuda, timeout_s=60))
    return found


# --- parsers ---

def parse_python(output: Output) -> PythonFacts:
    if output.code != 0:
        raise ValueError(output.err.strip()[-300:] or "python failed")
    try:
        facts = json.loads(output.out.strip().splitlines()[-1])  # start-up files may print before it
        return PythonFacts(tuple(int(n) for n in facts["python"]), str(facts["path"]), dict(facts["packages"]))
    except TypeError as error:
        raise ValueError(f"not the facts we asked for: {error}") from error


def parse_cuda(output: Output) -> tuple[bool, int, str]:
    if output.code != 0:
        raise ValueError(output.err.strip()[-300:] or "torch cannot be imported")
    available, count, version = output.out.split()[-3:]
    return available == "True", int(count), version


def parse_folder(output: Output) -> FolderFacts:
    """Lines of `size name`, a line `---`, the text of config.json."""
    listing, mark, config = output.out.partition("---\n")
    if not mark:
        raise ValueError("unexpected answer")
    rows = (line.partition(" ") for line in listing.splitlines() if line.strip())
    return FolderFacts({name: int(size) for size, _, name in rows}, config)


def parse_nearest(output: Output) -> tuple[str, bool]:
    """The nearest place that is there, and whether it is a folder this user may write to."""
    word, _, place = output.out.rstrip("\n").partition(" ")
    if word not in ("writable", "refused") or not place.startswith("/"):
        raise ValueError("unexpected answer")
    return place, word == "writable"


def parse_clock(output: Output) -> int:
    """Seconds since 1970, as the host has it."""
    return int(output.out.strip())


def parse_shm(output: Output) -> int:
    """MiB that are free in /dev/shm."""
    fields = output.out.strip().splitlines()[-1].split() if output.out.strip() else []
    if output.code != 0 or len(fields) < 4:
        raise ValueError("df says nothing readable")
    return int(fields[3])


def _words(output: Output) -> list[str]:
    return output.out.split()


def _nearest(folder: str) -> str:
    return (f'd={quoted(folder)}; while [ ! -e "$d" ] && [ ! -h "$d" ]; do d=$(dirname "$d"); done; '
            'if [ -d "$d" ] && [ -w "$d" ] && [ -x "$d" ]; then echo "writable $d"; else echo "refused $d"; fi')


def _listing(folder: str, names: str = "*") -> str:
    """Sizes and names below a folder, one level deep and deeper; find is POSIX, stat differs between systems. -L: a
    folder of the Hugging Face cache holds links to its files."""
    place = quoted(folder)
    return (f"cd {place} 2>/dev/null && find -L . -type f -name {quoted(names)} ! -name '.rdtops-*' -exec sh -c "
            "'for f; do printf \"%s %s\\n\" \"$(wc -c < \"$f\")\" \"${f#./}\"; done' sh {} +; "
            f"echo ---; cat {place}/config.json 2>/dev/null || :")


# --- findings ---

def _release(answer: Answer[list[str]], spec: RunSpec, deploy: str) -> CheckResult:
    if answer.value == ["there"]:
        return CheckResult.ok("code", f"this tree is deployed as {spec.snapshot}")
    return CheckResult.fail("code", f"this tree ({spec.snapshot}) is not deployed", spec.release, deploy)


def _workspace(answer: Answer[tuple[str, bool]], spec: RunSpec) -> CheckResult:
    if answer.value is None:
        return CheckResult.warn("workspace", "cannot tell whether it can be written", answer.problem,
                                f"ls -ld {spec.workspace}   # on {spec.host}")
    place, is_writable = answer.value
    if not is_writable:
        return CheckResult.fail("workspace", f"{spec.workspace} cannot be written by this user",
                                f"{place} is no folder that this user may write to",
                                f"edit workspace of [hosts.{spec.host}] in hosts.toml: a folder of yours")
    return CheckResult.ok("workspace", f"{spec.workspace} can be written")


def _python(answer: Answer[PythonFacts], connection: Connection, spec: RunSpec) -> Iterator[CheckResult]:
    facts = answer.value
    if facts is None:
        yield CheckResult.fail("python", "the trainer's Python does not start", answer.problem,
                               f"set environment or python of hosts.{spec.host} in hosts.toml")
        return
    version = ".".join(map(str, facts.version))
    if facts.version < (3, 10):
        yield CheckResult.fail("python", f"Python {version}; the trainer needs 3.10", facts.path,
                               f"set environment of hosts.{spec.host} in hosts.toml")
    else:
        yield CheckResult.ok("python", f"{version}, {facts.path}")
    yield packages(facts, connection.host.python, spec.train.tracker)


def packages(facts: PythonFacts, python: str, tracker: str = "off") -> CheckResult:
    """Installed versions against the minimum that pyproject.toml names for the trainer and its tracker."""
    wanted = requirements(tracker)
    missing = [n for n in wanted if not facts.packages.get(n)]
    old = [f"{n} {facts.packages[n]} (needs {wanted[n]})" for n in wanted
           if facts.packages.get(n) and _numbers(str(facts.packages[n])) < _numbers(wanted[n])]
    install = f"{facts.path or python} -m pip install " + " ".join(f"'{n}>={v}'" for n, v in wanted.items())
    if missing:
        return CheckResult.fail("packages", f"missing: {', '.join(missing)}", facts.path, install)
    if old:
        return CheckResult.warn("packages", f"older than tested: {', '.join(old)}", facts.path, install)
    return CheckResult.ok("packages", ", ".join(f"{n} {facts.packages[n]}" for n in wanted))


def requirements(tracker: str = "off") -> dict[str, str]:
    """Name -> lowest version, from the extras trainer and trackers of pyproject.toml. Torch is pinned to the tested
    version there; a host has the build that fits its driver, so its major and minor number are what counts."""
    project = tomllib.loads((Path(rdtops.__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    found = {}
    extras = project["optional-dependencies"]
    for line in extras["trainer"] + [line for line in extras["trackers"] if line.startswith(tracker)]:
        name, version = re.split(r"[<>=]+", line, maxsplit=1)
        found[name] = "2.1" if name == "torch" else version.split(",")[0]
    return found


def _cuda(answer: Answer[tuple[bool, int, str]] | None, spec: RunSpec) -> Iterator[CheckResult]:
    if answer is None:
        return
    if answer.value is None:
        yield CheckResult.fail("cuda", "torch does not start", answer.problem,
                               f"inv gpu --host {spec.host}   # a hanging or broken driver shows there too")
        return
    available, count, version = answer.value
    if not available or count < spec.train.gpus_required:
        yield CheckResult.fail("cuda", f"torch sees {count} GPUs, {spec.train.gpus_required} are asked for",
                               f"torch.version.cuda is {version}",
                               "install a torch build for the driver that `nvidia-smi` shows")
    else:
        yield CheckResult.ok("cuda", f"torch sees {count} GPUs, CUDA {version}")


def _launcher(answer: Answer[list[str]], wanted: str) -> CheckResult:
    there = {PurePosixPath(w).name for w in answer.value or []}
    if wanted != "auto" and wanted not in there:
        return CheckResult.fail("launcher", f"hosts.toml wants {wanted}, which is not there",
                                remedy=f'install {wanted} there, or launcher = "auto"')
    if not there:
        return CheckResult.fail("launcher", "neither tmux nor setsid is there", answer.problem, "install tmux there")
    used = wanted if wanted != "auto" else "tmux" if "tmux" in there else "setsid"
    return CheckResult.ok("launcher", f"{used}; the training outlives the connection")


def configuration(spec: RunSpec) -> CheckResult:
    train = spec.train
    summary = (f"{train.preset}: {train.num_processes} x {train.device} x batch {train.batch_size_per_process} x "
               f"accumulation {train.gradient_accumulation_steps} = {train.global_batch_size} samples a step, "
               f"{train.max_steps} steps, a checkpoint every {train.checkpoint_every_steps}")
    odd = []
    if train.warmup_steps >= train.max_steps:
        odd.append(f"warm-up ({train.warmup_steps}) lasts for all of the {train.max_steps} steps")
    if train.checkpoint_every_steps > train.max_steps:
        odd.append("only the last step is saved")
    if train.checkpoints_keep_every_steps % train.checkpoint_every_steps:
        odd.append(f"checkpoints_keep_every_steps = {train.checkpoints_keep_every_steps} keeps common multiples of "
                   f"itself and checkpoint_every_steps = {train.checkpoint_every_steps} only")
    if odd:
        return CheckResult.warn("configuration", "; ".join(odd), summary)
    return CheckResult.ok("configuration", summary)


def _dataset(answer: Answer[FolderFacts], spec: RunSpec, deploy: str) -> CheckResult:
    folder = spec.assets["dataset"]
    if answer.value is None:
        return CheckResult.fail("dataset", "cannot be looked at", answer.problem, f"ls -lR {folder}   # on {spec.host}")
    files = answer.value.sizes
    if not files:
        return CheckResult.fail("dataset", f"no *.hdf5 in {folder}", "", deploy)
    empty = [n for n, s in files.items() if not s]
    if empty:
        return CheckResult.fail("dataset", f"empty: {', '.join(empty)}", folder, deploy)
    return CheckResult.ok("dataset", f"{len(files)} HDF5, {sum(files.values()) / 1e6:.1f} MB", folder)


def _pretrained(answer: Answer[FolderFacts] | None, spec: RunSpec, deploy: str) -> Iterator[CheckResult]:
    if answer is None:
        yield CheckResult.ok("pretrained", f"none: random weights of {spec.train.model} (--from-scratch)")
    elif answer.value is None:
        yield CheckResult.fail("pretrained", "cannot be looked at", answer.problem,
                               f"ls -lR {spec.assets['pretrained']}   # on {spec.host}")
    else:
        yield pretrained(answer.value, spec, deploy)


def pretrained(facts: FolderFacts, spec: RunSpec, deploy: str) -> CheckResult:
    """config.json fits the model, one of the weight files is there, and its size is what the parameters come to."""
    folder = spec.assets["pretrained"]
    name = next((w for w in WEIGHTS if w in facts.sizes), "")
    if "config.json" not in facts.sizes or not name:
        lacks = [x for x, there in (("config.json", "config.json" in facts.sizes), (" or ".join(WEIGHTS[:2]), name))
                 if not there]
        return CheckResult.fail("pretrained", f"{' and '.join(lacks)} missing in {folder}", "", deploy)
    differs = architecture_differences(facts.config, spec)
    if differs:
        return CheckResult.fail("pretrained", f"config.json is not one of {spec.train.model}: {differs}", folder,
                                deploy)
    per_parameter = facts.sizes[name] / MODELS[spec.train.model].parameters
    size = f"{name}, {facts.sizes[name] / 1e6:.1f} MB"
    kinds = {2: "16-bit", 4: "fp32"}
    fits = next((k for b, k in kinds.items() if b * 0.98 <= per_parameter <= b * 1.05), "")
    if not fits and spec.train.model == "tiny" and per_parameter > 4:
        fits = "fp32"  # names and headers outweigh so few parameters
    if not fits:
        expected_mb = 2 * MODELS[spec.train.model].parameters / 1e6
        return CheckResult.fail("pretrained", f"{size}: not the size of {spec.train.model} ({expected_mb:.0f} MB in "
                                "16 bit, twice that in fp32)", "a broken upload, or other weights", deploy)
    return CheckResult.ok("pretrained", f"{size}, {fits}, and config.json fits {spec.train.model}", folder)


def architecture_differences(config_text: str, spec: RunSpec) -> str:
    facts = MODELS[spec.train.model]
    try:
        config = json.loads(config_text)
        there = {"hidden_size": config["rdt"]["hidden_size"], "depth": config["rdt"]["depth"],
                 "num_heads": config["rdt"]["num_heads"], "lang_token_dim": config["lang_token_dim"],
                 "img_token_dim": config["img_token_dim"]}
    except (ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"
    wanted = {"hidden_size": facts.hidden_size, "depth": facts.depth, "num_heads": facts.num_heads,
              "lang_token_dim": facts.lang_width, "img_token_dim": facts.img_width}
    return ", ".join(f"{k} {there[k]} instead of {wanted[k]}" for k in wanted if there[k] != wanted[k])


def _clock(answer: Answer[int], asked_s: tuple[float, float]) -> Iterator[CheckResult]:
    """The host read its clock somewhere between question and answer; a slow probe beside it is no skew."""
    if answer.value is None:
        yield CheckResult.warn("clock", "cannot be read", answer.problem)
        return
    before_s, after_s = asked_s
    skew_s = min(0.0, answer.value + 1 - before_s) or max(0.0, answer.value - after_s)
    if abs(skew_s) > CLOCK_SKEW_S:
        yield CheckResult.warn("clock", f"the host's clock is {skew_s:+.0f} s off this laptop's",
                               "times in logs and status are the host's", "timedatectl   # on both: is NTP on?")


def _shared_memory(answer: Answer[int], spec: RunSpec) -> Iterator[CheckResult]:
    """Samples go from loader workers to the trainer through /dev/shm; containers often have 64 MiB of it."""
    needed = spec.train.loader_workers * spec.train.num_processes * SHM_MIB_PER_WORKER
    if answer.value is None:
        yield CheckResult.warn("shm", "cannot be read", answer.problem)
    elif answer.value < needed:
        yield CheckResult.warn("shm", f"/dev/shm has {answer.value} MiB free, {needed} wanted by "
                               f"{spec.train.loader_workers * spec.train.num_processes} loader workers",
                               remedy="--set loader_workers=4, or start the container with --shm-size")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3])
