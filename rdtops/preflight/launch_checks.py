"""Launch checks: launcher, logout, secrets, other runs and the lease."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rdtops.checks import CheckResult
from rdtops.contract import lease
from rdtops.contract.run import RunState
from rdtops.delivery import secrets
from rdtops.errors import ConfigError
from rdtops.hostlib import fields, names, nvidia_smi
from rdtops.launcher import Traits
from rdtops.on_host import run_reporter
from rdtops.preflight.check import Answers, Check, Subject, last_line, words
from rdtops.runs import admission, detached, launchers, overview
from rdtops.runs.overview import RunView
from rdtops.ssh import redaction
from rdtops.ssh.command import quoted
from rdtops.ssh.probe import Output, Probe, program_probe

_LOGOUT = ("busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager "
           "KillUserProcesses; loginctl show-user \"$(id -un)\" -p Linger; echo \"uid $(id -u)\"")


@dataclass(frozen=True)
class Logout:
    """Whether a user's processes are killed when the last session ends. None: not known."""

    kills: bool | None
    lingers: bool | None
    is_root: bool  # root is exempt


# --- launcher ---

def judge_launcher(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    try:
        launcher = launchers.launcher(subject.host)
    except ConfigError as error:
        yield CheckResult.fail("launcher", error.message, remedy=error.remedy)
        return
    traits = Traits.of(launcher)
    installed = {PurePosixPath(w).name for w in answers["launcher"].value or []}
    used = next((program for program in traits.programs if program in installed), "")
    if traits.programs and not used:
        yield _without(subject, traits.programs, answers["launcher"].problem)
    elif traits.is_scheduled:
        yield CheckResult.ok("launcher", f"{launcher.name}; the training runs as a job of the cluster")
    else:
        yield CheckResult.ok("launcher", f"{used or launcher.name}; the training survives a lost connection")


def _without(subject: Subject, programs: Sequence[str], problem: str) -> CheckResult:
    if len(programs) > 1:
        return CheckResult.fail("launcher", f"neither {' nor '.join(programs)} is installed", problem,
                                subject.there(f"sudo apt-get install -y {programs[0]}"))
    return CheckResult.fail("launcher", f"hosts.toml has launcher {subject.host.launcher}, but {programs[0]} is not "
                            "installed", problem,
                            f'install {programs[0]} on the host, or set launcher = "auto" in hosts.toml')


def _launcher_probes(subject: Subject) -> list[Probe[Any]]:
    programs = " ".join(map(quoted, launchers.traits(subject.host).programs))
    return [Probe("launcher", f"for p in {programs}; do command -v $p; done; :", words)]


# --- lingering ---

def parse_logout(output: Output) -> Logout:
    rows = dict(line.replace("=", " ").split(maxsplit=1) for line in output.out.splitlines() if len(line.split()) > 1
                or "=" in line)
    if "uid" not in rows:
        raise ValueError("unexpected answer")
    kills = {"true": True, "false": False}.get(rows.get("b", ""))
    lingers = {"yes": True, "no": False}.get(rows.get("Linger", ""))
    return Logout(kills, lingers, rows["uid"] == "0")


def judge_logout(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check whether systemd-logind kills a user's processes at the last logout, even those of tmux and setsid."""
    answer = answers["logout"]
    if answer.value is None:
        yield CheckResult.warn("logout", "not known whether a logout kills the training", answer.problem,
                               subject.there("loginctl show-user $USER -p Linger"))
        return
    logout: Logout = answer.value
    if logout.kills and not logout.lingers and not logout.is_root:
        yield CheckResult.fail("logout", "the host kills all processes of a user at the last logout",
                               "KillUserProcesses=yes and Linger=no in systemd-logind",
                               subject.there("loginctl enable-linger"))
    elif logout.kills is None:
        yield CheckResult.ok("logout", "no systemd-logind on the host that could kill the training")
    else:
        why = "lingering is on" if logout.lingers else "root is exempt" if logout.kills else "KillUserProcesses is off"
        yield CheckResult.ok("logout", f"kills nothing: {why}")


# --- secrets ---

def judge_secrets(subject: Subject, _: Answers) -> Iterator[CheckResult]:
    """Check that this laptop has the secrets, and that hosts.toml does not show them. Their values are not examined."""
    host = subject.host
    in_the_open = [name for name in host.env if name.endswith(redaction.NAMES)]
    if in_the_open:
        yield CheckResult.warn("secrets", f"env of [hosts.{host.name}] has {', '.join(in_the_open)}",
                               "everyone who can read hosts.toml can read it",
                               f"secrets = {json.dumps(in_the_open)} under [hosts.{host.name}]; its value here")
    try:
        secrets.values(host.secrets)
    except ConfigError as error:
        yield CheckResult.fail("secrets", error.message, "", error.remedy)
        return
    if host.secrets:
        yield CheckResult.ok("secrets", f"this laptop has {', '.join(host.secrets)}")


# --- runs ---

def judge_runs(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Report the running trainings. Whether they hold resources of this one is the lease check."""
    answer, host = answers["runs"], subject.spec.host
    if answer.value is None:
        yield CheckResult.fail("runs", "not known whether a training is running", answer.problem,
                               f"inv status --host {host} --all")
        return
    found: list[RunView] = answer.value
    twin = admission.duplicate_of(subject.spec, found)
    if twin and twin.state is RunState.RUNNING:
        yield CheckResult.ok("runs", f"{twin.run_id} is the same training and is running (step {twin.step} of "
                                     f"{twin.max_steps}): `inv train` starts no second one")
        return
    alive = [r.run_id for r in found if r.state is RunState.RUNNING]
    kept = [r for r in found if r.last_checkpoint]
    earlier = f"; {len(found)} earlier, {len(kept)} with checkpoints, are not changed" if found else ""
    yield CheckResult.ok("runs", f"beside {', '.join(alive)}" if alive else
                         f"no other training of this workspace is running{earlier}")


def _runs_probes(subject: Subject) -> list[Probe[Any]]:
    def parse(output: Output) -> list[RunView]:
        return overview.views(subject.spec.host, fields.loads(last_line(output)))

    return [program_probe("runs", subject.host, run_reporter, {"op": "list", "workspace": subject.spec.workspace},
                          parse)]


# --- lease ---

@dataclass(frozen=True)
class LeaseFacts:
    """Who holds locks that the training needs, and why the locks are not in the usual place."""

    holders: list[dict[str, Any]]
    note: str


def parse_lease(output: Output) -> LeaseFacts:
    answer = fields.table(fields.loads(last_line(output)))
    if not isinstance(answer.get("in_the_way"), list):
        raise ValueError("unexpected answer")
    return LeaseFacts(fields.rows(answer["in_the_way"]), fields.text(answer.get("note")))


def judge_lease(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check that no training of any user or workspace on the machine holds the GPUs: two on one GPU would both fail."""
    answer, host = answers["lease"], subject.spec.host
    if launchers.traits(subject.host).is_scheduled:
        yield CheckResult.skip("lease", "not needed: the scheduler assigns GPUs")
        return
    if answer.value is None:
        yield CheckResult.fail("lease", "not known whether its GPUs are in use", answer.problem,
                               f"inv status --host {host} --all")
        return
    holders, note = answer.value.holders, answer.value.note
    twin = admission.duplicate_of(subject.spec, answers["runs"].value or [])
    others = [h for h in holders if twin is None or h.get("run_id") != twin.run_id]
    if others:
        summary, remedy = detached.in_the_way(host, others)
        yield CheckResult.fail("lease", summary, "; ".join(lease.words(h) for h in others), remedy)
    elif note:
        yield CheckResult.warn("lease", "its GPU locks are not in the usual shared folder", names.quoted(note, 400),
                               f"remove the named files on {host}, as their owner or as root")
    else:
        yield CheckResult.ok("lease", "its GPUs and folder are free" if not holders else "it holds its GPUs and folder")


def _lease_probes(subject: Subject) -> list[Probe[Any]]:
    env = subject.host.env
    request = {"config": fields.loads(subject.spec.to_json()), "visible": env.get(nvidia_smi.VISIBLE),
               "locks": env.get(lease.LOCKS, "")}
    return [program_probe("lease", subject.host, lease, request, parse_lease)]


CHECKS = (
    Check("launch", judge_launcher, _launcher_probes),
    Check("launch", judge_logout, lambda _: [Probe("logout", _LOGOUT, parse_logout, timeout_s=10)],
          of_the_trainer=True),
    Check("launch", judge_secrets),
    Check("launch", judge_runs, _runs_probes, of_the_trainer=True),
    Check("launch", judge_lease, _lease_probes, of_the_trainer=True),
)
