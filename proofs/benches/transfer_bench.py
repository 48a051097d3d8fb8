"""`inv bench transfer`: rdtops' transfers beside scp, rsync, tar through ssh and lftp, on the WAN lab, in one run.

Each tool moves the same bytes in turn; every result is compared byte for byte; times are medians. On the lossy lines,
where one stream takes minutes and no CPU, the others run in parallel, each in its own lab, while ours runs alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from proofs.wan import profile as profiles
from proofs.wan.wan_lab import HOST, WanLab
from rdtops.ui.repository import ROOT, Measured, Say

MB = 1_000_000
PROGRAM = [sys.executable, "-m", "rdtops.transfer"]
RUN_TIMEOUT_S = 400.0
SIDE_BY_SIDE = 10  # runs of the others at once on a lossy line
STOPPED_AFTER = 20  # times our duration: by then the result is clear
_ROOM_BYTES = 6 << 30


@dataclass(frozen=True)
class Load:
    """The data to transfer: a file, or a folder of equal files."""

    source: Path
    target: Path  # both machines have the same file system, so it is compared here
    size_bytes: int


@dataclass(frozen=True)
class Tool:
    name: str
    command: Callable[[WanLab, Load], list[str]]
    program: str = ""


@dataclass
class Times:
    """The results of the runs of one tool."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: bool = False  # the last run was killed because it took too long

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds) if self.seconds else 0.0

    @property
    def words(self) -> str:
        times = " ".join(f"{s:.3g}" for s in self.seconds)
        failed = f"; {len(self.failures)} failed, the last: {self.failures[-1]}" if self.failures else ""
        return f"{times or '-'} s{' (stopped, so at least)' if self.stopped else ''}{failed}"


# --- the tools ---

def ours_command(lab: WanLab, load: Load) -> list[str]:
    return [*PROGRAM, "--ssh-config", str(lab.ssh_config), str(load.source), f"{HOST}:{load.target}"]


def _scp(lab: WanLab, load: Load) -> list[str]:
    return ["scp", "-q", "-r", "-F", str(lab.ssh_config), str(load.source), f"{HOST}:{load.target}"]


def _rsync(lab: WanLab, load: Load) -> list[str]:
    slash = "/" if load.source.is_dir() else ""
    return ["rsync", "-a", "-e", f"ssh -F {lab.ssh_config}", f"{load.source}{slash}", f"{HOST}:{load.target}{slash}"]


def _tar(lab: WanLab, load: Load) -> list[str]:
    target = shlex.quote(str(load.target))
    there = shlex.quote(f"mkdir -p {target} && tar -C {target} -xf -")
    config = shlex.quote(str(lab.ssh_config))
    return ["sh", "-c", f"tar -C {shlex.quote(str(load.source))} -cf - . | ssh -F {config} {HOST} {there}"]


def _lftp(lab: WanLab, load: Load) -> list[str]:
    """Return the command of lftp. Uploads have no pget; folders go as several files at once."""
    send = (f"mirror -R -P 8 {load.source} {load.target}" if load.source.is_dir()
            else f"put {load.source} -o {load.target}")
    settings = f"set sftp:connect-program 'ssh -a -x -F {lab.ssh_config}'; set net:max-retries 1; set cmd:fail-exit yes"
    return ["lftp", "-c", f"{settings}; open sftp://root:@{HOST}; {send}"]


OURS = Tool("ours", ours_command)
SCP = Tool("scp -J", _scp, "scp")
RSYNC = Tool("rsync -J", _rsync, "rsync")
TAR = Tool("tar | ssh", _tar, "tar")
LFTP = Tool("lftp", _lftp, "lftp")


def _there(*tools: Tool) -> list[Tool]:
    return [tool for tool in tools if not tool.program or shutil.which(tool.program)]


# --- the rows ---

@dataclass(frozen=True)
class Race:
    """One row of the table: the data, the line, and the goal of the speedup over each tool."""

    name: str
    profile: str
    files: int
    size_bytes: int  # of one file
    repeats: int
    goals: dict[str, float]  # tool -> minimum speedup; 0 where it is only shown, and runs once
    line_share: float = 0.0  # at least so much of the line's rate


RACES = (
    Race("256 MB", "wan", 1, 256 * MB, 3, {"scp -J": 1.7, "rsync -J": 1.7, "lftp": 0}),
    Race("1 GB", "wan", 1, 1000 * MB, 2, {"scp -J": 2, "rsync -J": 2}, line_share=0.85),
    Race("2,000 files of 20 KB", "wan", 2000, 20_000, 3, {"tar | ssh": 1, "scp -J": 5, "rsync -J": 0, "lftp": 0}),
    Race("256 MB", "lan", 1, 256 * MB, 5, {"rsync -J": 1, "scp -J": 0}),
    Race("8 MB", "bad", 1, 8 * MB, 5, {"scp -J": 2.5, "rsync -J": 2.5}),
    Race("64 MB", "far", 1, 64 * MB, 5, {"scp -J": 4, "rsync -J": 4}),
)
LONG = ("1 GB", "64 MB")  # left out of the quick form
PEERS = {tool.name: tool for tool in (SCP, RSYNC, TAR, LFTP)}


def measure(say: Say, *, quick: bool = False, only: str = "") -> Iterator[Measured]:
    """Measure. The complete table takes about 15 minutes, the quick one (one run each, no long rows) about 5."""
    with _bench(say) as bench:
        for race in RACES:
            if only in f"{race.name} {race.profile}" and not (quick and race.name in LONG):
                yield from bench.race(race, 1 if quick else race.repeats)
        if only in "unchanged wan":
            yield from bench.unchanged(1 if quick else 3)
        if only in "killed wan":
            yield from bench.killed(1 if quick else 5)


@contextlib.contextmanager
def _bench(say: Say) -> Iterator[_Bench]:
    with WanLab(ROOT / ".lab" / "wan") as lab:
        lab.up()  # no other program uses this lab or its folder
        folder = _folder()
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
        folder.mkdir(mode=0o700)
        say(f"the load of this machine is {os.getloadavg()[0]:.1f}; a busy one slows whoever needs its CPU")
        try:
            yield _Bench(folder, lab, say)
        finally:
            shutil.rmtree(folder)


def _folder() -> Path:
    """Return a folder in memory where there is space: otherwise the disk would be measured."""
    shm = Path("/dev/shm")  # noqa: S108
    roomy = shm.is_dir() and shutil.disk_usage(shm).free > _ROOM_BYTES
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
    return (shm if roomy else Path(tempfile.gettempdir())) / f"rdtops-bench-{checkout}"


class _Bench:
    def __init__(self, folder: Path, lab: WanLab, say: Say) -> None:
        self._folder = folder
        self._lab = lab
        self._say = say

    def race(self, race: Race, repeats: int) -> Iterator[Measured]:
        title = f"{race.name}, {profiles.named(race.profile).words}"
        source = self._source(race.files, race.size_bytes)
        peers = _there(*(PEERS[name] for name in race.goals))
        self._say(f"{title}: ours, {', '.join(tool.name for tool in peers)}; {repeats} x")
        run = self._side_by_side if profiles.named(race.profile).loss_percent else self._in_turn
        times = run(race, source, [OURS, *peers], repeats)
        for tool in peers:
            yield self._compared(title, tool.name, race.goals[tool.name], times)
        if race.line_share:
            yield self._of_the_line(title, race, times[OURS.name])

    def unchanged(self, repeats: int) -> Iterator[Measured]:
        """Measure a folder that exists on the host already, with warm caches of digests."""
        self._lab.up("wan")
        load = Load(self._source(200, 5 * MB), self._target("0"), 1000 * MB)
        title = f"1 GB in 200 files, unchanged, {self._lab.profile.words}"
        self._say(f"{title}: ours, rsync; {repeats} x")
        times = {tool.name: Times() for tool in (OURS, RSYNC)}
        self._run(self._lab, OURS, load, Times())  # cold
        for _ in range(repeats):
            for tool in (OURS, RSYNC):
                self._run(self._lab, tool, load, times[tool.name])
        ours = times[OURS.name]
        ratio = 3 / ours.median_s if ours.seconds else 0.0
        yield Measured(f"{title}: 3 s / ours", round(ratio, 2), "at least 1", ratio >= 1, f"ours {ours.words}")
        yield self._compared(title, RSYNC.name, 0, times)
        _clear(self._lab, load)

    def killed(self, repeats: int) -> Iterator[Measured]:
        """Measure the bytes sent twice: those of two runs, the first killed at half, beyond those of one undisturbed
        run."""
        self._lab.up("wan")
        load = Load(self._source(1, 256 * MB), self._target("0"), 256 * MB)
        title = f"256 MB, {self._lab.profile.words}, killed at 50 %, restarted"
        self._say(f"{title}: ours; {repeats} x")
        whole = self._wire_bytes_of(lambda: self._cold(self._lab, OURS, load, Times()))
        shares, failures = [], Times()
        for _ in range(repeats):
            _clear(self._lab, load)
            sent_bytes = self._wire_bytes_of(lambda: self._kill_at(load, load.size_bytes // 2))
            sent_bytes += self._wire_bytes_of(lambda: self._until_done(load, failures))
            shares.append((sent_bytes - whole) / load.size_bytes)
        share = statistics.median(shares)
        told = " ".join(f"{100 * s:.1f}" for s in shares)
        yield Measured(f"{title}: share of the bytes sent twice", round(share, 3), "at most 0.05",
                       share <= 0.05 and not failures.failures,
                       f"{told} %, counted at the laptop's interface against an undisturbed run; {failures.words}")
        _clear(self._lab, load)

    # --- runs

    def _in_turn(self, race: Race, source: Path, tools: Sequence[Tool], repeats: int) -> dict[str, Times]:
        self._lab.up(race.profile)
        load = Load(source, self._target("0"), race.files * race.size_bytes)
        times = {tool.name: Times() for tool in tools}
        for number in range(repeats):
            for tool in tools:
                of_tool = times[tool.name]
                if of_tool.stopped or (number and race.goals.get(tool.name) == 0):  # only shown: once is enough
                    continue
                ours_s = times[OURS.name].median_s
                limit_s = max(30.0, STOPPED_AFTER * ours_s) if tool is not OURS and ours_s else RUN_TIMEOUT_S
                self._cold(self._lab, tool, load, of_tool, limit_s)
                self._say(f"  {number + 1}/{repeats} {tool.name}: {of_tool.words}")
        return times

    def _side_by_side(self, race: Race, source: Path, tools: Sequence[Tool], repeats: int) -> dict[str, Times]:
        times = {tool.name: Times() for tool in tools}
        labs: queue.Queue[tuple[int, WanLab]] = queue.Queue()

        def run(tool: Tool) -> None:
            number, lab = labs.get()
            try:
                load = Load(source, self._target(f"lab-{number}"), race.size_bytes)
                self._cold(lab, tool, load, times[tool.name])
                self._say(f"  {tool.name}: {times[tool.name].words}")
            finally:
                labs.put((number, lab))

        self._lab.up(race.profile)
        with contextlib.ExitStack() as stack:
            for number in range(SIDE_BY_SIDE):
                lab = stack.enter_context(WanLab(ROOT / ".lab" / f"wan{number}"))
                lab.up(race.profile)
                labs.put((number, lab))
            pool = stack.enter_context(ThreadPoolExecutor(SIDE_BY_SIDE))
            others = [pool.submit(run, tool) for _ in range(repeats) for tool in tools if tool is not OURS]
            load = Load(source, self._target("0"), race.size_bytes)
            for _ in range(repeats):
                self._cold(self._lab, OURS, load, times[OURS.name])
                self._say(f"  ours: {times[OURS.name].words}")
            for other in others:
                other.result()
        return times

    def _cold(self, lab: WanLab, tool: Tool, load: Load, times: Times, limit_s: float = RUN_TIMEOUT_S) -> None:
        """Run a tool, with nothing at the target and no digest cached."""
        _clear(lab, load)
        self._run(lab, tool, load, times, limit_s)
        _clear(lab, load)

    def _run(self, lab: WanLab, tool: Tool, load: Load, times: Times, limit_s: float = RUN_TIMEOUT_S) -> bool:
        seconds, code, said = _timed(lab, tool.command(lab, load), limit_s)
        if code is None:
            times.stopped = True
            times.seconds.append(seconds)
        elif code:
            times.failures.append(f"exit {code}: {said}")
        elif not _same(load.source, load.target):
            times.failures.append("exit 0, and the content differs")
        else:
            times.seconds.append(seconds)
        return code == 0

    def _kill_at(self, load: Load, count: int) -> None:
        """Start our transfer, and kill it completely once this many bytes are sent."""
        before = self._lab.sent_bytes
        process = _started(self._lab, OURS.command(self._lab, load))
        while process.poll() is None and self._lab.sent_bytes - before < count:
            time.sleep(0.01)
        _kill(process)

    def _until_done(self, load: Load, failures: Times) -> None:
        """Run it again as a user would, while the porter of the killed one still has the target."""
        for _ in range(10):
            if self._run(self._lab, OURS, load, failures):
                failures.failures.clear()
                return
            time.sleep(0.5)

    def _wire_bytes_of(self, work: Callable[[], None]) -> int:
        before = self._lab.sent_bytes
        work()
        return self._lab.sent_bytes - before

    # --- results

    def _compared(self, title: str, peer: str, goal: float, times: dict[str, Times]) -> Measured:
        ours, theirs = times[OURS.name], times[peer]
        ratio = theirs.median_s / ours.median_s if ours.seconds else 0.0
        wanted = f"at least {goal:g}" if goal else "none, only shown"
        return Measured(f"{title}: {peer} / ours", round(ratio, 2), wanted,
                        bool(ours.seconds) and not ours.failures and ratio >= goal,
                        f"ours {ours.words}; {peer} {theirs.words}")

    def _of_the_line(self, title: str, race: Race, ours: Times) -> Measured:
        line_bytes_s = profiles.named(race.profile).rate_mbit * 1e6 / 8
        share = race.size_bytes / ours.median_s / line_bytes_s if ours.seconds else 0.0
        return Measured(f"{title}: ours / the line", round(share, 2), f"at least {race.line_share:g}",
                        share >= race.line_share, f"ours {ours.words}, login and verification included")

    def _target(self, of: str) -> Path:
        """Return a target in a separate folder, so that all of it can be removed."""
        folder = self._folder / f"to-{of}"
        folder.mkdir(exist_ok=True)
        return folder / "target"

    def _source(self, files: int, size_bytes: int) -> Path:
        """Write random bytes, which cannot be compressed."""
        path = self._folder / f"source-{files}-{size_bytes}"
        if path.exists():
            return path
        if files == 1:
            _write_random(path, size_bytes)
            return path
        path.mkdir()
        for number in range(files):
            _write_random(path / f"{number:05}", size_bytes)
        return path


# --- one run ---

def _timed(lab: WanLab, words: Sequence[str], limit_s: float) -> tuple[float, int | None, str]:
    """Run a command. Return seconds, exit code (None: it took too long and was killed) and its last output."""
    start_s = time.monotonic()
    process = _started(lab, words)
    try:
        said, _ = process.communicate(timeout=limit_s)
        return time.monotonic() - start_s, process.returncode, said.strip()[-200:]
    except subprocess.TimeoutExpired:
        _kill(process)
        return time.monotonic() - start_s, None, ""


def _started(lab: WanLab, words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([*lab.laptop, *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the whole process group at once, as when a laptop loses power."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _clear(lab: WanLab, load: Load) -> None:
    """Remove the target with its parts, and the caches in the homes."""
    lab.forget()
    shutil.rmtree(load.target.parent)
    load.target.parent.mkdir()


def _same(one: Path, other: Path) -> bool:
    """Compare byte for byte; an additional file counts as a difference."""
    return subprocess.run(["diff", "-rq", one, other], capture_output=True, check=False).returncode == 0


def _write_random(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size_bytes, 1 << 20):
            file.write(os.urandom(min(1 << 20, size_bytes - start)))
