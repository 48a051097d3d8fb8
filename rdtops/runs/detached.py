"""Detached: the launchers tmux and setsid, on the machine that we log in to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rdtops import answers
from rdtops.contract import lease
from rdtops.errors import RunError
from rdtops.launcher import Job, JobState, Phase, Spread, Submitted, Traits
from rdtops.on_host import detacher, training_starter
from rdtops.ssh.command import Command, quoted
from rdtops.ssh.connection import Connection

PROGRAMS = {"auto": ("tmux", "setsid"), "tmux": ("tmux",), "setsid": ("setsid",)}  # launcher -> the first one found
STARTED_WITHIN_S = 20.0


class Detached:
    """The launcher `auto`, `tmux` or `setsid`."""

    is_local = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.traits = Traits(is_local=True, is_scheduled=False, programs=PROGRAMS[name], detaches_with=name,
                             detach_keys="Ctrl-c" if name == "setsid" else "Ctrl-b d")

    def files(self, job: Job, spread: Spread | None) -> Mapping[str, str]:
        return {}

    def spread(self, job: Job, spread: Spread) -> Command:
        return spread.alone()

    def submit(self, connection: Connection, job: Job) -> Submitted:
        answer = connection.call(training_starter, {"op": "submit", **start(job, self.name)},
                                 timeout_s=STARTED_WITHIN_S + 60)
        if "launcher" not in answer:
            raise refusal(connection.host.name, str(job.script), answer)
        return Submitted(answer["launcher"], answer["already"], answer["note"])

    def states(self, connection: Connection, jobs: Sequence[Job]) -> Mapping[str, JobState]:
        answer = connection.call(training_starter, {
            "op": "states", "jobs": [[job.name, str(job.folder), job.tag] for job in jobs]})
        return {name: _state(facts["alive"], facts["exit"], facts["launched"])
                for name, facts in answer["states"].items()}

    def stop(self, connection: Connection, job: Job, grace_s: float) -> None:
        answer = connection.call(training_starter, {"op": "stop", "folder": str(job.folder), "tag": job.tag,
                                                  "grace_s": grace_s}, timeout_s=grace_s + 60)
        if answer["left"]:
            raise RunError(f"{connection.host.name}: processes of {job.name} outlived SIGKILL: "
                           f"{answers.pids(answer, 'left')}")

    def inside(self, connection: Connection, job: Job, command: Command) -> Command:
        return command

    def start_line(self, job: Job) -> str:
        line, session = f"setsid {Command('sh', str(job.script)).shell()}", session_of(job)
        if self.name == "setsid":
            return line
        words = ["tmux", "-L", detacher.socket_of(session), "-f", "/dev/null", "new-session", "-d", "-s", session]
        return f"{line}   # and a window that shows its log: {Command(*words).shell()} tail -F {job.log.name}"

    def attach_line(self, job: Job) -> str:
        session = session_of(job)
        in_tmux = Command("tmux", "-L", detacher.socket_of(session), "attach-session", "-t", "=" + session).shell()
        log, process = quoted(str(job.log)), quoted(job.file("process"))
        ends = f'pid=$(cut -d " " -f 1 {process}) && tail -n 50 -F --pid="$pid" {log}'  # with the job; GNU only
        return f"{in_tmux} 2>/dev/null || {{ {ends}; }} 2>/dev/null || exec tail -n 50 -F {log}"


def start(job: Job, detaches_with: str) -> dict[str, Any]:
    """Return the request to our program on the host to start a job."""
    return {"script": str(job.script), "session": session_of(job), "tag": job.tag, "launcher": detaches_with,
            "within_s": STARTED_WITHIN_S}


def session_of(job: Job) -> str:
    """Return the name of its session in tmux."""
    return job.name.replace(".", "_")


def refusal(host: str, script: str, answer: Mapping[str, Any]) -> RunError:
    """Return the error for a script that our program on the host did not start."""
    if "in_the_way" in answer:
        return _held(host, answer["in_the_way"])
    reason = f": {answer['said']}" if answer.get("said") else ""
    if answer["problem"] == "busy":
        return RunError(f"{host}: another launch of {script} is still in progress",
                        remedy=f"fuser -v {answer['lock']}   # on {host}: which process it is")
    if answer["problem"] == "launcher":
        return RunError(f"{host}: the launcher of hosts.toml failed{reason}",
                        remedy=f'launcher = "auto" under [hosts.{host}]')
    return RunError(f"{host}: {script} was started through {answer['launched_by']} but did not begin within "
                    f"{STARTED_WITHIN_S:g} s{reason}", remedy=f"ssh to {host} and run: sh {script}")


def in_the_way(host: str, holders: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return in a few words who holds the lease, or that a lock cannot be used; and the remedy."""
    others = f"other GPUs: CUDA_VISIBLE_DEVICES under [hosts.{host}.env]"
    if any(holder.get("problem") for holder in holders):
        return "its locks cannot be taken", (f"remove the named files on {host}, as their owner or as root   # or "
                                             f"{others}; {lease.LOCKS} in it sets another folder for locks")
    run_id = lease.run_of(holders)
    stop = f"inv stop --host {host} --run {run_id}" if run_id else f"inv status --host {host} --all"
    return f"resources held by {run_id or 'another run'}", f"{stop}   # or {others}"


def _held(host: str, holders: Sequence[Mapping[str, Any]]) -> RunError:
    summary, remedy = in_the_way(host, holders)
    return RunError(f"{host}: not started, {summary}: " + "; ".join(lease.words(h) for h in holders), remedy=remedy)


def _state(alive: bool, exit_code: str, launched: bool) -> JobState:
    if alive:
        return JobState(Phase.RUNNING, words="runs")
    if not launched and not exit_code:
        return JobState(Phase.ABSENT)
    return JobState(Phase.ENDED, words=f"ended with exit {exit_code}" if exit_code else "was killed")
