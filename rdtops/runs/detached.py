"""The launchers that need nobody's leave: tmux and setsid, on the very machine that we log in to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rdtops.errors import RunError
from rdtops.launcher import Job, JobState, Phase, Spread, Submitted
from rdtops.on_host import detached_jobs, detacher
from rdtops.ssh.command import Command, quoted
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import LOCAL_LAUNCHERS

STARTED_WITHIN_S = 20.0


class Detached:
    """`auto` is tmux where it is, else setsid."""

    is_local = True

    def __init__(self, name: str) -> None:
        assert name in LOCAL_LAUNCHERS
        self.name = name

    def files(self, job: Job, spread: Spread | None) -> Mapping[str, str]:
        return {}

    def spread(self, job: Job, spread: Spread) -> Command:
        return spread.alone()

    def submit(self, connection: Connection, job: Job) -> Submitted:
        answer = connection.call(detached_jobs, {
            "op": "submit", "script": str(job.script), "session": session_of(job), "tag": job.tag,
            "launcher": self.name, "within_s": STARTED_WITHIN_S}, timeout_s=STARTED_WITHIN_S + 60)
        if "problem" in answer:
            raise RunError(f"{connection.host.name}: {answer['problem']}", remedy=f"ssh there and run: sh {job.script}")
        return Submitted(answer["launcher"], answer["already"])

    def states(self, connection: Connection, jobs: Sequence[Job]) -> Mapping[str, JobState]:
        answer = connection.call(detached_jobs, {
            "op": "states", "jobs": [[job.name, str(job.folder), job.tag] for job in jobs]})
        return {name: _state(told["alive"], told["exit"], told["launched"]) for name, told in answer["states"].items()}

    def stop(self, connection: Connection, job: Job, grace_s: float) -> None:
        answer = connection.call(detached_jobs, {"op": "stop", "folder": str(job.folder), "tag": job.tag,
                                                    "grace_s": grace_s}, timeout_s=grace_s + 60)
        if answer["left"]:
            raise RunError(f"{connection.host.name}: processes of {job.name} outlived SIGKILL: {answer['left']}")

    def inside(self, connection: Connection, job: Job, command: Command) -> Command:
        return command

    def start_line(self, job: Job) -> str:
        line, session = f"setsid {Command('sh', str(job.script)).shell()}", session_of(job)
        if self.name == "setsid":
            return line
        words = ["tmux", "-L", detacher.socket_of(session), "-f", "/dev/null", "new-session", "-d", "-s", session]
        return f"{line}   # and a window on its log: {Command(*words).shell()} tail -F {job.log.name}"

    def attach_line(self, job: Job) -> str:
        session = session_of(job)
        in_tmux = Command("tmux", "-L", detacher.socket_of(session), "attach-session", "-t", "=" + session).shell()
        return f"{in_tmux} 2>/dev/null || exec tail -n 50 -F {quoted(str(job.log))}"


def session_of(job: Job) -> str:
    """The name of its session in tmux."""
    return job.name.replace(".", "_")


def _state(alive: bool, exit_code: str, launched: bool) -> JobState:
    if alive:
        return JobState(Phase.RUNNING, words="runs")
    if not launched and not exit_code:
        return JobState(Phase.ABSENT)
    return JobState(Phase.ENDED, words=f"ended with exit {exit_code}" if exit_code else "was killed")
