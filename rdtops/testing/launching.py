"""Launcher tests: the promises of a Launcher on a real host; the tests use them for ours, the kit for others'.

    python -m rdtops.testing.conform my_plugin --host cluster

submits small jobs below the host's workspace, in a folder with a difficult name, and checks their results. It takes a
minute where jobs begin at once; with a queue, as long as the queue.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from secrets import token_hex
from typing import TypeVar

from rdtops.errors import RdtopsError
from rdtops.launcher import Job, JobState, Launcher, Phase, Spread
from rdtops.ssh.command import Command, quoted
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.testing.troubled import GARBLED, GONE, HANGING, Deranged

T = TypeVar("T")
BAD_NAME = "a b'c\"d $(touch e);f é"
BEGINS_WITHIN_S = 120.0
GRACE_S = 30.0

# A stand-in for a training: on SIGTERM or SIGUSR1 it saves and exits; or it ignores them
_WORK = """\
import os, signal, sys, time
folder, seconds, code, listens = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == 'listens'
def leave(number, frame):
    open(os.path.join(folder, 'saved'), 'w').close()
    raise SystemExit(143)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, leave if listens else signal.SIG_IGN)
rank = dict(zip(sys.argv, sys.argv[1:])).get('--machine_rank', '0')  # of several nodes the first one tells
if rank == '0':
    with open(os.path.join(folder, 'begun'), 'a') as file:
        file.write(f'{os.getpid()}\\n')
sys.stdout.write('hello from the job\\n')
sys.stdout.flush()
end = time.monotonic() + seconds
while time.monotonic() < end:
    open(os.path.join(folder, 'pulse'), 'w').write(str(time.time()))
    time.sleep(0.05)
raise SystemExit(code)
"""
_SCRIPT = """\
#!/bin/sh
cd {folder} || exit 1
trap '' USR1
trap : TERM INT HUP
printf '%s %s %s\\n' "$$" "$(cut -d' ' -f22 /proc/$$/stat)" "$(cat /proc/sys/kernel/random/boot_id)" > process.tmp
mv process.tmp process
{program} >> {log} 2>&1
code=$?
echo "$code" > exit.tmp && mv exit.tmp exit
exit "$code"
"""


@dataclass(frozen=True)
class Promise:
    """The result of one promise. `holds` is None where it could not be tested here."""

    words: str
    holds: bool | None
    seen: str = ""


class LauncherTrial:
    """Jobs of one launcher on one host, below `folder` on the host, which is removed at the end."""

    def __init__(self, launcher: Launcher, host: Host, folder: str) -> None:
        self.launcher, self.host = launcher, host
        self.connection = Connection(host)
        self.folder = PurePosixPath(folder) / BAD_NAME
        self.mark = token_hex(3)
        self.jobs: list[Job] = []

    def job(self, name: str, *, seconds: float = 300.0, code: int = 0, listens: bool = True) -> Job:
        """Write the files of a job to the host, without submitting it."""
        folder = self.folder / name
        job = Job(f"conform-{self.mark}-{name}", folder / "launch.sh", folder / "train.log",
                  f"RDTOPS_RUN=conform-{self.mark}-{name}", spreads=True)
        spread = Spread(Command(self.host.python, job.file("work.py"), str(folder), f"{seconds:g}", str(code),
                                "listens" if listens else "deaf"), Command("-m", "work"))
        files = {"work.py": _WORK, **self.launcher.files(job, spread),
                 "launch.sh": _SCRIPT.format(folder=quoted(str(folder)), log=quoted(str(job.log)),
                                             program=self.launcher.spread(job, spread).shell())}
        self.connection.run(Command("mkdir", "-p", str(folder)))
        for file, text in files.items():
            self.connection.run_shell(f"cat > {quoted(job.file(file))}", stdin=text.encode())
        self.jobs.append(job)
        return job

    def state(self, job: Job) -> JobState:
        return self.launcher.states(self.connection, [job])[job.name]

    def becomes(self, job: Job, phase: Phase, limit_s: float = BEGINS_WITHIN_S) -> JobState:
        """Wait until a job is in a phase. Return its state, or the last state at the time limit."""
        return _until(lambda: self.state(job), lambda state: state.phase is phase, limit_s)

    def begun(self, job: Job) -> int:
        """Return how often a job began; a running job writes that after a moment."""
        return len(self.text(job, "begun").split())

    def running(self, job: Job) -> bool:
        """Tell whether the launcher shows a job as running, and the job has written so itself."""
        return (self.becomes(job, Phase.RUNNING).phase is Phase.RUNNING
                and _until(lambda: self.begun(job), bool, BEGINS_WITHIN_S) > 0)

    def text(self, job: Job, file: str) -> str:
        return self.connection.run(Command("cat", job.file(file)), check=False).out.strip()

    def has(self, job: Job, file: str) -> bool:
        return self.connection.run(Command("test", "-e", job.file(file)), check=False).ok

    def is_still(self, job: Job) -> bool:
        """Tell whether no process of a job writes any more."""
        before = self.text(job, "pulse")
        time.sleep(0.5)
        return self.text(job, "pulse") == before

    def close(self) -> None:
        """Remove everything from the host."""
        for job in self.jobs:
            try:
                self.launcher.stop(self.connection, job, 0)
            except RdtopsError:
                continue
        self.connection.run(Command("rm", "-rf", str(self.folder)), check=False)
        self.connection.close()


def promises(launcher: Launcher, host: Host, folder: str, gone: Callable[[], None] | None = None,
             back: Callable[[], None] = lambda: None) -> Iterator[Promise]:
    """Yield every promise as it is tested. `folder` is an absolute path on the host. `gone` makes the host unreachable;
    without it that is not tested. `back` makes it reachable again."""
    trial = LauncherTrial(launcher, host, folder)
    try:
        for part in (_life, _ends, _stops, _at_once):
            yield from part(trial)
        yield from _in_trouble(trial, gone, back)
    finally:
        trial.close()


def _life(trial: LauncherTrial) -> Iterator[Promise]:
    """Test one job that handles signals, from its first submission to its second."""
    job = trial.job("life")
    yield _promise("before it is submitted a job is absent", trial.state(job).phase is Phase.ABSENT, trial.state(job))
    first = trial.launcher.submit(trial.connection, job)
    yield _promise("a submitted job begins and is shown as running", trial.running(job) and not first.already,
                   trial.state(job))
    again = trial.launcher.submit(trial.connection, job)
    yield _promise("submitted again while it runs, it is not started twice", again.already and trial.begun(job) == 1,
                   f"{again}, begun {trial.begun(job)} x")
    trial.connection.close()
    trial.connection = Connection(trial.host)
    yield _promise("it outlives the connection", trial.state(job).phase is Phase.RUNNING and not trial.is_still(job),
                   trial.state(job))
    yield _promise("its log has its output", "hello from the job" in trial.text(job, job.log.name),
                   trial.text(job, job.log.name)[-80:])
    line = trial.launcher.attach_line(job)
    yield _promise("the command that shows it is one line", bool(line) and "\n" not in line, line)
    there = trial.connection.run(trial.launcher.inside(trial.connection, job, Command("cat", job.file("begun"))),
                                 timeout_s=60, check=False)
    yield _promise("a command inside it sees its files", trial.text(job, "begun") in there.out, there.err[-200:])
    trial.launcher.stop(trial.connection, job, GRACE_S)
    state = trial.state(job)
    yield _promise("stop asks it to save first, then it is gone",
                   trial.has(job, "saved") and state.phase is Phase.ENDED and trial.is_still(job), state)
    yield _promise("the request to stop it is on record", trial.has(job, "stop"), job.file("stop"))
    second = trial.launcher.submit(trial.connection, job)
    is_new = not second.already and _until(lambda: trial.begun(job), lambda count: count == 2, BEGINS_WITHIN_S) == 2
    yield _promise("after its end it can be submitted again, and begins again",
                   is_new and not trial.has(job, "stop") and not trial.has(job, "exit"), f"{second}")
    trial.launcher.stop(trial.connection, job, 0)
    yield _promise("stop without grace ends it", trial.state(job).phase is Phase.ENDED and trial.is_still(job),
                   trial.state(job))


def _ends(trial: LauncherTrial) -> Iterator[Promise]:
    for code in (0, 7):
        job = trial.job(f"exit{code}", seconds=0.2, code=code)
        trial.launcher.submit(trial.connection, job)
        state = trial.becomes(job, Phase.ENDED)
        told = trial.text(job, "exit")
        right = told == "0" if code == 0 else told.isdigit() and told != "0"  # other nodes were ended
        yield _promise(f"a job that ends with {code} has ended, and its exit code shows success or failure",
                       state.phase is Phase.ENDED and right, f"{state}, exit {told!r}")


def _stops(trial: LauncherTrial) -> Iterator[Promise]:
    job = trial.job("deaf", listens=False)
    trial.launcher.submit(trial.connection, job)
    ran = trial.running(job)
    trial.launcher.stop(trial.connection, job, 1)
    yield _promise("a job that ignores signals is killed after the grace period", ran and trial.is_still(job)
                   and trial.state(job).phase is Phase.ENDED, trial.state(job))


def _at_once(trial: LauncherTrial) -> Iterator[Promise]:
    """Test laptops that submit at the same moment."""
    job = trial.job("twice")
    said: list[bool] = []

    def submit() -> None:
        with Connection(trial.host) as connection:
            said.append(trial.launcher.submit(connection, job).already)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begins = trial.running(job)
    time.sleep(2.0)
    yield _promise("of several simultaneous submissions, one starts it", begins and trial.begun(job) == 1
                   and sorted(said) == [False, True, True], f"begun {trial.begun(job)} x, already: {said}")
    trial.launcher.stop(trial.connection, job, 0)


def _in_trouble(trial: LauncherTrial, gone: Callable[[], None] | None, back: Callable[[], None]) -> Iterator[Promise]:
    job = trial.job("trouble")
    trial.launcher.submit(trial.connection, job)
    trial.running(job)
    for trouble in (HANGING, GARBLED):
        with Deranged(trial.host, trouble) as connection:
            yield _unknown(trial.launcher, connection, job, trouble)
    if gone is None:
        yield Promise(f"{GONE}: the state is unknown", None, "only a host of the lab can be made unreachable")
        return
    with Deranged(trial.host, GONE) as connection:
        connection.open()
        gone()
        try:
            yield _unknown(trial.launcher, connection, job, GONE)
        finally:
            back()


def _unknown(launcher: Launcher, connection: Connection, job: Job, trouble: str) -> Promise:
    try:
        state = launcher.states(connection, [job])[job.name]
    except RdtopsError as error:
        return Promise(f"{trouble}: the state is unknown", True, f"{type(error).__name__}: {error}"[:200])
    except Exception as error:  # the promise: nothing else is raised
        return Promise(f"{trouble}: the state is unknown", False, f"{type(error).__name__}: {error}"[:200])
    return Promise(f"{trouble}: the state is unknown", state.phase is Phase.UNKNOWN, str(state))


def _promise(words: str, holds: bool, seen: object) -> Promise:
    return Promise(words, bool(holds), json.dumps(str(seen), ensure_ascii=False)[1:-1][:200])


def _until(look: Callable[[], T], enough: Callable[[T], bool], limit_s: float) -> T:
    deadline_s = time.monotonic() + limit_s
    while not enough(seen := look()) and time.monotonic() < deadline_s:
        time.sleep(0.3)
    return seen
