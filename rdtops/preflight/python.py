"""Python checks: the deployed code, the interpreter, its packages, their imports, and CUDA."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rdtops.checks import CheckResult
from rdtops.contract import variables
from rdtops.contract.config import TrainConfig
from rdtops.delivery import proven_environments, provision, requirements
from rdtops.delivery.proven_environments import OLDEST_PYTHON
from rdtops.delivery.requirements import numbers
from rdtops.errors import RunError
from rdtops.hostlib import fields, nvidia_smi
from rdtops.hostlib.fields import loads
from rdtops.on_host import cuda_prober
from rdtops.on_host.environment_builder import MARKER
from rdtops.preflight import compatibility
from rdtops.preflight.check import Answers, Check, Subject, last_line, words
from rdtops.ssh import bundle, environment
from rdtops.ssh.command import Command, quoted, variable
from rdtops.ssh.environment import CONDA_ROOTS
from rdtops.ssh.probe import Answer, Output, Probe

IMPORTS_S = 150.0  # longer than rdtops.trainer.imports waits for a package that hangs
STARTER = "rdtops/trainer/process_group.py"  # which launch.sh runs; releases before 2026-11-28 lack it
# variables of hosts.toml that affect torch; beside the listed ones the others may be secrets, kept off command lines
SEEN_BY_TORCH = ("CUDA_", "NVIDIA_", "NCCL_", "LD_LIBRARY_PATH", "LD_PRELOAD")
_VERSIONS = (
    "import importlib.metadata as m, json, os, sys\n"
    "def version(name):\n"
    "    try: return m.version(name)\n"
    "    except m.PackageNotFoundError: return None\n"
    "print(json.dumps({'python': list(sys.version_info[:3]), 'path': sys.executable,"
    " 'is_ours': os.path.isfile(os.path.join(sys.prefix, '" + MARKER + "')),"
    " 'packages': {n: version(n) for n in sys.argv[1:]}}))\n")
_ENVIRONMENTS = ("for d in " + " ".join(f'"$HOME"{r[1:]}' if r.startswith("~") else r for r in CONDA_ROOTS)
                 + ' "$HOME"/.conda; do ls -d "$d"/envs/*/bin/python 2>/dev/null; done; :')


@dataclass(frozen=True)
class PythonFacts:
    """The interpreter of the host's environment. A package that is not installed has the version None."""

    version: tuple[int, ...]
    path: str
    packages: Mapping[str, str | None]
    is_ours: bool = False  # made by `inv deploy --env`


@dataclass(frozen=True)
class CudaFacts:
    """What torch reports; `cuda` is the version that it was built for, '' for a CPU build."""

    available: bool
    count: int
    cuda: str
    bf16: bool


@dataclass(frozen=True)
class BrokenImport:
    """Something that a training imports and cannot. `package`: whose fault it is; '' where that is not known."""

    why: str
    package: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)  # of torch and of the package

    def words(self, name: str) -> str:
        known = ", ".join(f"{package} {version}" for package, version in self.versions.items())
        return f"{name.partition(':')[0]}: {self.why}" + (f" ({known})" if known else "")


@dataclass(frozen=True)
class ImportsFacts:
    """What cannot be imported, by name. `kept_at_s`: when all could be, in an environment that is the same today; None
    where it was tried now."""

    failed: Mapping[str, BrokenImport]
    kept_at_s: float | None = None

    @property
    def words(self) -> str:
        known = "" if self.kept_at_s is None else (
            f"; tried {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.kept_at_s))}, the environment is the same")
        return f"the trainer and its packages, from the deployed code{known}"


# --- code ---

def judge_code(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    spec = subject.spec
    if answers["release"].value == ["there"]:
        yield CheckResult.ok("code", f"this tree is deployed as {spec.snapshot}")
    elif answers["release"].value == ["older"]:
        yield CheckResult.fail("code", f"the release {spec.snapshot} starts its ranks otherwise than this rdtops does",
                               spec.release, f"git checkout {spec.snapshot.partition('-')[0]}   # then inv train")
    else:
        yield CheckResult.fail("code", f"this tree ({spec.snapshot}) is not deployed", spec.release, subject.deploy)


# --- Python and packages ---

def parse_python(output: Output) -> PythonFacts:
    try:
        facts = loads(last_line(output))
        return PythonFacts(tuple(int(n) for n in facts["python"]), str(facts["path"]), dict(facts["packages"]),
                           facts.get("is_ours") is True)
    except TypeError as error:
        raise ValueError(f"unexpected answer: {error}") from error


def parse_environments(output: Output) -> list[str]:
    """Return the names of the existing conda environments."""
    return sorted({line.split("/")[-3] for line in output.out.splitlines() if line.endswith("/bin/python")})


def judge_python(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    facts: PythonFacts | None = answers["python"].value
    edit = f"set environment or python of [hosts.{subject.spec.host}] in hosts.toml"
    if facts is None:
        there = answers["environments"].value or []
        made = subject.host.environment.container or not environment.is_declared(subject.host)
        remedy = edit if made else f"{_made_anew(subject, _driver(answers))}; or {edit}"
        yield CheckResult.fail("python", "the trainer's Python does not start", answers["python"].problem, remedy + (
            f"; conda environments on the host: {', '.join(there[:8])}" if there else ""))
        return
    version = ".".join(map(str, facts.version))
    if facts.version < OLDEST_PYTHON:
        yield CheckResult.fail("python", f"Python {version}; the trainer needs 3.10 or newer", facts.path, edit)
    else:
        yield CheckResult.ok("python", f"{version}, {facts.path}")


def judge_packages(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    facts = answers["python"].value
    if facts is None:
        yield CheckResult.skip("packages", "not checked: the trainer's Python does not start")
    else:
        yield _judge_versions(subject, facts, _driver(answers))


def _judge_versions(subject: Subject, facts: PythonFacts, driver: str) -> CheckResult:
    """Compare the installed versions with what is known not to work, and with the oldest that are known to."""
    train = subject.spec.train
    wanted = floors(train)
    missing = [n for n in wanted if not facts.packages.get(n)]
    settings = (f"sharding={train.sharding}",) if train.num_processes > 1 else ()
    clashes = list(compatibility.clashes(facts.packages, settings))
    old = [n for n in wanted if n not in missing
           and numbers(str(facts.packages[n])) < numbers(wanted[n])]
    if missing:
        return CheckResult.fail("packages", f"missing: {', '.join(missing)}", facts.path, _installed(
            subject, facts, [f"{n}>={wanted[n]}" for n in missing], driver))
    if clashes:
        return CheckResult.fail("packages", "; ".join(clash.words(facts.packages) for clash in clashes), facts.path,
                                _installed(subject, facts, [clash.requirement for clash in clashes], driver))
    if old:
        words = ", ".join(f"{n} {facts.packages[n]} (needs {wanted[n]})" for n in old)
        return CheckResult.warn("packages", f"older than tested: {words}", facts.path, _installed(
            subject, facts, [f"{n}>={wanted[n]}" for n in old], driver))
    return CheckResult.ok("packages", ", ".join(f"{n} {facts.packages[n]}" for n in wanted))


def judge_extras(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check the extras that hosts.toml declares. A training starts without them."""
    facts, declared = answers["python"].value, subject.host.environment.extras
    if facts is None or not declared:
        return
    wanted = {name: requirements.lowest(requirements.of_extra(name)) for name in declared}
    needed = {package: version for each in wanted.values() for package, version in each.items()}
    missing = [package for package in needed if not facts.packages.get(package)]
    if missing:
        yield CheckResult.warn("extras", f"of {', '.join(declared)} there is no {', '.join(missing)}", facts.path,
                               _installed(subject, facts, [f"{p}>={needed[p]}" for p in missing], _driver(answers)))
    else:
        yield CheckResult.ok("extras", ", ".join(f"{name} is installed" for name in declared))


def _installed(subject: Subject, facts: PythonFacts, needed: list[str], driver: str) -> str:
    """Return how packages come into the trainer's Python: with `inv deploy --env`, but by pip where somebody else made
    the environment that hosts.toml declares."""
    if facts.is_ours or not environment.is_declared(subject.host):
        return _made_anew(subject, driver, facts)
    return compatibility.install_line(f"{facts.path or subject.host.python} -m pip install", needed, driver)


def _made_anew(subject: Subject, driver: str, facts: PythonFacts | None = None) -> str:
    """Return the remedy `inv deploy --env`, with the torch that it takes where that is not the newest; where it would
    refuse, what it says."""
    python = ".".join(map(str, facts.version)) if facts else ""
    try:
        chosen = proven_environments.choose(subject.host, driver, python)
    except RunError as error:
        return error.remedy
    takes = f"   # torch {chosen.environment.torch}: {chosen.why}" if chosen.why else ""
    return provision.remedy(subject.host, subject.spec.train.tracker) + takes


def _driver(answers: Answers) -> str:
    """Return the version of the GPUs' driver; '' where it is not known, or not asked for."""
    return str(answers.by_name["driver"].value or "") if "driver" in answers.by_name else ""


def floors(train: TrainConfig) -> dict[str, str]:
    """Return the lowest version of each package that a training needs."""
    return requirements.lowest(requirements.of_trainer(train.tracker))


# --- imports ---

def in_release(subject: Subject, *arguments: str) -> str:
    """Return a command that runs the environment's Python in the deployed release, for a probe or for a person."""
    host, release = subject.host, subject.spec.release
    own = {"PYTHONPATH": release, **({"PYTHONNOUSERSITE": "1"} if environment.is_declared(host) else {})}
    return (f"cd {quoted(release)} && {environment.activation(host)}"
            f"{Command(environment.python(host), *arguments, env=own).shell()}")


def with_variables(subject: Subject) -> str:
    """Return a prefix that drops and sets the variables of the account as launch.sh does, so that a probe meets what a
    training will meet."""
    host = subject.host
    seen = {name: value for name, value in host.env.items()
            if name.startswith(SEEN_BY_TORCH) or variables.is_listed(name)}
    given = variables.of_a_launch(subject.spec.release, seen, has_environment=environment.is_declared(host))
    exported = " ".join(f"{variable(name)}={quoted(value)}" for name, value in given.items())
    return f"unset {' '.join(variables.to_unset())} && export {exported} && "


def _in_environment(subject: Subject, *arguments: str) -> str:
    """Return a probe's command that needs no release."""
    host = subject.host
    run = Command(environment.python(host), *arguments)
    return with_variables(subject) + environment.activation(host) + run.shell()


def parse_imports(output: Output) -> ImportsFacts:
    facts = fields.table(loads(last_line(output)))
    failed = fields.table(facts.get("failed", facts))  # releases before 2026-11-29 print only these
    return ImportsFacts({str(name): _broken(fields.table(broken)) for name, broken in failed.items()},
                        fields.number(facts.get("kept_at_s")))


def _broken(facts: Mapping[str, Any]) -> BrokenImport:
    versions = {str(name): str(version) for name, version in fields.table(facts.get("versions")).items()}
    package = str(facts.get("package") or "")
    return BrokenImport(str(facts.get("why") or "it cannot be imported"),
                        package if re.fullmatch(r"\w[\w.-]*", package, re.ASCII) else "", versions)


def judge_imports(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check imports: an installed package may still need another version of a package, or a system library."""
    answer: Answer[ImportsFacts] = answers["imports"]
    if answers["release"].value != ["there"] or answers["python"].value is None:
        yield CheckResult.skip("imports", "not checked: it needs the deployed code and a working Python")
    elif answer.value is None:
        yield CheckResult.fail("imports", "the trainer cannot be imported", answer.problem,
                               subject.there(in_release(subject, "-m", "rdtops.trainer.imports")))
    elif answer.value.failed:
        yield _judge_broken(subject, answer.value.failed, answers["python"].value, _driver(answers))
    else:
        yield CheckResult.ok("imports", answer.value.words)


def _judge_broken(subject: Subject, broken: Mapping[str, BrokenImport], python: PythonFacts,
                  driver: str) -> CheckResult:
    """Name the package that breaks the imports, and what to install in its place; an environment of its own, where the
    trainer uses the system's Python."""
    (name, first), *_ = sorted(broken.items(), key=lambda item: not item[1].package)
    modules = ", ".join(dict.fromkeys(one.partition(":")[0] for one in broken))
    evidence = "; ".join(dict.fromkeys(facts.words(one) for one, facts in list(broken.items())[:3]))
    if not first.package:
        statement = f"import {name.partition(':')[0]}"
        return CheckResult.fail("imports", f"cannot be imported: {modules}", evidence,
                                subject.there(in_release(subject, "-c", statement)))
    summary = f"{first.package} breaks the import of {modules}"
    if not environment.is_declared(subject.host):
        return CheckResult.fail("imports", summary, evidence, _made_anew(subject, driver, python))
    pip = f"PYTHONNOUSERSITE=1 {quoted(python.path)} -m pip"
    remove = f"{pip} uninstall {quoted(first.package)}"
    fitting = compatibility.beside_torch(first.package, first.versions.get("torch", ""))
    remedy = (f"{pip} install {quoted(fitting)}   # of torch's own build; or {remove}: the trainer does not need it"
              if fitting else f"{remove}   # the trainer does not need it")
    return CheckResult.fail("imports", summary, evidence, f"{remedy}, on {subject.spec.host}")


# --- CUDA ---

def parse_cuda(output: Output) -> CudaFacts:
    facts = loads(last_line(output))
    return CudaFacts(facts["available"] is True, int(facts["count"]), str(facts["cuda"] or ""), facts["bf16"] is True)


def parse_driver(output: Output) -> str:
    """Return the version of NVIDIA's driver, the same for every GPU."""
    version = nvidia_smi.driver(output.out)
    if not version:
        raise ValueError("no version")
    return version


def judge_cuda(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    train = subject.spec.train
    if train.device != "cuda":
        yield CheckResult.skip("cuda", "not needed: device is cpu")
        return
    facts: CudaFacts | None = answers["cuda"].value
    driver = _driver(answers)
    if facts is None:
        yield CheckResult.fail("cuda", "torch does not start", answers["cuda"].problem,
                               f"inv gpu --host {subject.spec.host}   # shows a hanging or broken driver too")
    elif not facts.available or facts.count < train.gpus_required:
        why, remedy = _why_no_cuda(subject, answers["python"].value, facts, driver)
        yield CheckResult.fail("cuda", f"torch sees {facts.count} GPUs, {train.gpus_required} are requested", why,
                               remedy)
    elif train.mixed_precision == "bf16" and not facts.bf16:
        yield CheckResult.warn("cuda", "these GPUs do not support bf16 in hardware: slow", f"CUDA {facts.cuda}",
                               subject.setting("mixed_precision=fp16"))
    else:
        yield CheckResult.ok("cuda", f"torch sees {facts.count} GPUs, CUDA {facts.cuda}"
                             + (f", driver {driver}" if driver else ""))


def _why_no_cuda(subject: Subject, python: PythonFacts | None, facts: CudaFacts, driver: str) -> tuple[str, str]:
    """Return the visible reason, and the remedy."""
    pip = f"{environment.python(subject.host)} -m pip install"
    is_declared = environment.is_declared(subject.host)
    if not facts.cuda:
        return "this torch is a build for CPUs", (subject.there(f"{pip} --force-reinstall torch") if is_declared
                                                  else _made_anew(subject, driver))
    oldest = proven_environments.OLDEST_DRIVER.get(_major(facts.cuda), 0)
    if driver and _major(driver) < oldest:
        why = f"the driver is {driver}; CUDA {facts.cuda}, which this torch was built for, needs {oldest} or newer"
        if not is_declared or (python and python.is_ours):
            return why, _made_anew(subject, driver, python)
        return why, subject.there(compatibility.install_line(pip, ["torch"], driver)
                                  if proven_environments.torch_build(driver)
                                  else "sudo ubuntu-drivers install   # or ask its administrator for a newer driver")
    visible = subject.host.env.get(nvidia_smi.VISIBLE)
    if visible is not None:
        return f"{nvidia_smi.VISIBLE}={visible}", f"edit env of [hosts.{subject.spec.host}] in hosts.toml"
    return f"torch was built for CUDA {facts.cuda}; the driver is {driver or 'unknown'}", subject.there(
        f"{environment.python(subject.host)} -c 'import torch; torch.cuda.init()'")


def _python_probes(subject: Subject) -> list[Probe[Any]]:
    extras = (line for name in subject.host.environment.extras for line in requirements.of_extra(name))
    asked = dict.fromkeys((*floors(subject.spec.train), *compatibility.PACKAGES, *requirements.lowest(extras)))
    line = _in_environment(subject, "-c", _VERSIONS, *asked)
    return [Probe("python", line, parse_python, timeout_s=30),
            Probe("environments", _ENVIRONMENTS, parse_environments)]


def _imports_probes(subject: Subject) -> list[Probe[Any]]:
    train = subject.spec.train
    settings = [*(["--fresh"] if subject.fresh else []), *([] if train.tracker == "off" else [train.tracker]),
                *([train.sharding] if train.num_processes > 1 else [])]
    line = with_variables(subject) + in_release(subject, "-m", "rdtops.trainer.imports", *settings)
    return [Probe("imports", line, parse_imports, timeout_s=IMPORTS_S)]


def _cuda_probes(subject: Subject) -> list[Probe[Any]]:
    if subject.spec.train.device != "cuda":
        return []
    line = _in_environment(subject, "-c", bundle.source(cuda_prober))
    return [Probe("cuda", line, parse_cuda, timeout_s=60),
            Probe("driver", Command(*nvidia_smi.query(nvidia_smi.DRIVER)).shell(), parse_driver, timeout_s=15)]


def _release_probe(subject: Subject) -> list[Probe[Any]]:
    sealed = quoted(subject.spec.release + "/snapshot.json")
    starter = quoted(f"{subject.spec.release}/{STARTER}")
    line = f"if [ ! -e {sealed} ]; then echo missing; elif [ -e {starter} ]; then echo there; else echo older; fi"
    return [Probe("release", line, words)]


def _major(version: str) -> int:
    return (*numbers(version), 0)[0]


CHECKS = (
    Check("python", judge_code, _release_probe),
    Check("python", judge_python, _python_probes),
    Check("python", judge_packages),
    Check("python", judge_extras),
    Check("python", judge_imports, _imports_probes),
    Check("python", judge_cuda, _cuda_probes, of_the_trainer=True),
)
