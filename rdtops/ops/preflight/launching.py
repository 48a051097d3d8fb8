"""The launch: what keeps a training alive without us, and what stands in its way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rdtops.checks import CheckResult
from rdtops.contract.run import RunState
from rdtops.ops import runs, runs_on_host
from rdtops.ops.preflight.check import Answers, Check, Subject, last_line, words
from rdtops.ops.runs import RunView
from rdtops.remote.probe import Output, Probe, program_probe

_LOGOUT = ("busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager "
           "KillUserProcesses; loginctl show-user \"$(id -un)\" -p Linger; echo \"uid $(id -u)\"")


@dataclass(frozen=True)
class Logout:
    """What becomes of a user's processes when the last session ends. None: nobody there says."""

    kills: bool | None
    lingers: bool | None
    is_root: bool  # whom logind spares


# --- launcher ---

def judge_launcher(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    answer, wanted = answers["launcher"], subject.host.launcher
    there = {PurePosixPath(w).name for w in answer.value or []} & {"tmux", "setsid"}
    if wanted != "auto" and wanted not in there:
        yield CheckResult.fail("launcher", f"hosts.toml wants {wanted}, which is not there", answer.problem,
                               f'install {wanted} there, or launcher = "auto" in hosts.toml')
    elif not there:
        yield CheckResult.fail("launcher", "neither tmux nor setsid is there", answer.problem,
                               subject.there("sudo apt-get install -y tmux"))
    else:
        used = wanted if wanted != "auto" else "tmux" if "tmux" in there else "setsid"
        yield CheckResult.ok("launcher", f"{used}; the training outlives the connection")


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
    """systemd-logind may end everything of a user at the last logout, tmux and setsid as well."""
    answer = answers["logout"]
    if answer.value is None:
        yield CheckResult.warn("logout", "cannot tell whether a logout ends what was started", answer.problem,
                               subject.there("loginctl show-user $USER -p Linger"))
        return
    logout: Logout = answer.value
    if logout.kills and not logout.lingers and not logout.is_root:
        yield CheckResult.fail("logout", "the host ends all processes of a user at the last logout",
                               "KillUserProcesses=yes and Linger=no in systemd-logind",
                               subject.there("loginctl enable-linger"))
    elif logout.kills is None:
        yield CheckResult.ok("logout", "no systemd-logind there that could end what was started")
    else:
        why = "lingering is on" if logout.lingers else "root is spared" if logout.kills else "KillUserProcesses is off"
        yield CheckResult.ok("logout", f"ends nothing: {why}")


# --- runs ---

def judge_runs(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Two trainings on the same GPUs would end each other."""
    answer, host = answers["runs"], subject.spec.host
    if answer.value is None:
        yield CheckResult.fail("runs", "cannot tell whether a training is running", answer.problem,
                               f"inv status --host {host} --all")
        return
    found: list[RunView] = answer.value
    alive = [r for r in found if r.state is RunState.RUNNING]
    if alive:
        run = alive[-1]
        yield CheckResult.fail("runs", f"{run.run_id} is running here (step {run.step} of {run.max_steps})", "",
                               f"inv watch --host {host}   # or: inv stop --host {host}")
        return
    kept = [r for r in found if r.last_checkpoint]
    earlier = f"; {len(found)} earlier, {len(kept)} with checkpoints, are left as they are" if found else ""
    yield CheckResult.ok("runs", f"no other training of this workspace is running{earlier}")


def _runs_probes(subject: Subject) -> list[Probe[Any]]:
    def parse(output: Output) -> list[RunView]:
        return runs.views(subject.spec.host, json.loads(last_line(output)))

    return [program_probe("runs", subject.host, runs_on_host, {"op": "list", "workspace": subject.spec.workspace},
                          parse)]


CHECKS = (
    Check("launch", judge_launcher, lambda _: [Probe("launcher", "for p in tmux setsid; do command -v $p; done; :",
                                                     words)]),
    Check("launch", judge_logout, lambda _: [Probe("logout", _LOGOUT, parse_logout, timeout_s=10)]),
    Check("launch", judge_runs, _runs_probes),
)
