"""Transfer: move files between here and a host; only what is missing or different, verified, resumable.

    plan = plan_upload(connection, Path("data"), "~/rdtops/data")   # says why, file by file
    outcome = upload(connection, plan)

A file appears under its final name only when it is complete, its MD5 is right and it is on the disk. A cut link leaves
a part beside the target, which the next plan finds and goes on from. Files are added or replaced, never removed; empty
folders do not travel. The work itself is done by far.porter, which runs on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rdtops.errors import (
    CommandFailed,
    ConnectionLost,
    DigestMismatch,
    DiskFull,
    HostError,
    RdtopsError,
    TransferError,
    UsageError,
)
from rdtops.remote import hosts, sshclient
from rdtops.remote.connection import Connection, Stream
from rdtops.remote.far import porter
from rdtops.remote.far.digests import CACHE, Digests
from rdtops.remote.far.entries import Entry, Message, Problem, problem_of, text
from rdtops.remote.far.listing import all_digested, scan, survey
from rdtops.remote.far.lock import Lock, refuse_full
from rdtops.remote.far.parts import part_name
from rdtops.remote.far.receiver import Receiver
from rdtops.remote.far.sender import Sender
from rdtops.remote.far.wire import Pulse, Wire
from rdtops.remote.lanes import FAR_S, Lanes, first_lanes
from rdtops.remote.sshclient import SshClient, SshProcess
from rdtops.remote.traffic import Download, Upload

Way = Connection | SshClient  # to the host
Action = Literal["skip", "resume", "send", "copy"]
Verify = Literal["cached", "full"]

SILENCE_S = 30.0  # the far side says that it is alive every 5 s
CHANNELS = 3  # lanes that are channels of one connection; MaxSessions is 10
PING_S = 5.0  # for each hop, to find the one that is silent
RESUME_FROM_BYTES = 1 << 20  # to ask for the part of a smaller file costs more than to send it again


@dataclass(frozen=True)
class Item:
    """One file of a plan, and what is to be done with it."""

    path: str
    size_bytes: int
    md5: str
    action: Action
    reason: str
    entry: Entry
    begun_bytes: int = 0  # of a resume: what is there already
    origin: str = ""  # of a copy: the file of the same content on the host


@dataclass(frozen=True)
class Plan:
    source: str
    target: str
    items: tuple[Item, ...]
    direction: Literal["up", "down"]

    @property
    def bytes_to_send(self) -> int:
        return sum(i.size_bytes - i.begun_bytes for i in self.items if i.action in ("send", "resume"))

    @property
    def to_do(self) -> tuple[Item, ...]:
        return tuple(i for i in self.items if i.action != "skip")

    @property
    def size_bytes(self) -> int:
        return sum(i.size_bytes for i in self.items)


@dataclass(frozen=True)
class Outcome:
    sent_files: int
    sent_bytes: int
    skipped_files: int
    seconds: float
    copied_files: int = 0


@dataclass(frozen=True)
class Progress:
    """`bytes_total` and `files_total` count what the plan does not skip."""

    path: str
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int


Watcher = Callable[[Progress], None]


@dataclass
class Survey:
    """What the target of a plan holds already."""

    there: dict[str, Entry] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)  # path of a part -> its bytes
    basis: dict[str, str] = field(default_factory=dict)  # MD5 -> a file of that content on the target's machine

    @classmethod
    def of(cls, messages: Iterable[Message], basis: str = "") -> Survey:
        survey = cls()
        for message in messages:
            if "there" in message:
                entry = Entry(**message["there"])
                survey.there[entry.path] = entry
            elif "part" in message:
                survey.parts[_joined(message["folder"], message["part"])] = message["size"]
            elif "basis" in message:
                entry = Entry(**message["basis"])
                survey.basis[entry.md5] = _joined(basis, entry.path)
        return survey


# --- planning ---

def plan_upload(connection: Way, local: Path, remote: str, *, files: Sequence[str] | None = None,
                basis: str | None = None, verify: Verify = "cached") -> Plan:
    """What must travel so that `remote` has the files of `local` (a folder, or a file with `remote` as its new name).

    `files` names some of them, relative to `local`; `basis` is a folder of the host with files that may be the same.
    verify="full" reads every file on both sides instead of trusting size, time and inode.
    """
    source, target = _absolute(local), connection.absolute(remote)
    origin = connection.absolute(basis) if basis else ""
    with _own_problems(source):
        entries = list(scan(source, _relative(files)))
    request = {"do": "survey", "root": target, "wanted": [(e.path, e.size) for e in entries], "basis": origin,
               "cache": CACHE, "trust": verify == "cached"}
    with _session(connection, target, request) as wire:
        with _own_problems(source):  # the host digests its files meanwhile
            entries = _digested(source, entries, verify)
        survey = Survey.of(_until_end(wire), origin)
    items = plan_items(entries, survey, Path(target).name, ("here", "there"))
    return Plan(source, target, items, "up")


def plan_download(connection: Way, remote: str, local: Path, *, files: Sequence[str] | None = None,
                  verify: Verify = "cached") -> Plan:
    """What must travel so that `local` has the files of `remote`; see plan_upload."""
    source, target = connection.absolute(remote), _absolute(local)
    request = {"do": "scan", "root": source, "files": _relative(files), "hash": True, "cache": CACHE,
               "trust": verify == "cached"}
    with _session(connection, source, request) as wire:
        entries = [Entry(**message["there"]) for message in _until_end(wire)]
    with _own_problems(target):
        digests = Digests(CACHE, verify == "cached")
        found = Survey.of(survey(target, [(e.path, e.size) for e in entries], digests))
        digests.save()
    items = plan_items(entries, found, Path(target).name, ("there", "here"))
    return Plan(source, target, items, "down")


def plan_items(entries: Sequence[Entry], survey: Survey, name: str, sides: tuple[str, str]) -> tuple[Item, ...]:
    """Pure: what the source has against what the target has. `sides` are the words for source and target, `name` is
    what a root that is itself a file is called."""
    return tuple(_item(entry, survey, name, sides) for entry in entries)


def _item(entry: Entry, survey: Survey, name: str, sides: tuple[str, str]) -> Item:
    there = survey.there.get(entry.path)
    difference = _difference(entry, there, sides)

    def item(action: Action, reason: str, begun_bytes: int = 0, origin: str = "") -> Item:
        return Item(entry.path or name, entry.size, entry.md5, action, reason, entry, begun_bytes, origin)

    if there is not None and there.kind == "folder":
        raise TransferError(f"{entry.path or name} is a {entry.kind} {sides[0]} and a folder {sides[1]}",
                            remedy=f"move one of the two away; nothing was changed {sides[1]}")
    if not difference:
        return item("skip", f"same MD5, {entry.md5[:8]}" if entry.kind == "file" else "same link")
    if entry.kind == "link":
        return item("send", difference)
    part = part_name(entry.path or name, entry.size, entry.md5)
    begun_bytes = survey.parts.get(_joined(entry.path.rpartition("/")[0], part), 0)
    if RESUME_FROM_BYTES <= begun_bytes <= entry.size:
        return item("resume", f"begun, {_of_words(begun_bytes, entry.size)} are {sides[1]}", begun_bytes)
    if entry.md5 in survey.basis and entry.size:
        return item("copy", f"{difference}, same MD5 as {survey.basis[entry.md5]}", origin=survey.basis[entry.md5])
    return item("send", difference)


def _difference(entry: Entry, there: Entry | None, sides: tuple[str, str]) -> str:
    """Why the target's file is not the source's; nothing when it is."""
    here_word, there_word = sides
    if there is None:
        return f"missing {there_word}"
    if there.kind != entry.kind:
        return f"differs (a {entry.kind} {here_word}, a {there.kind} {there_word})"
    if entry.kind == "link":
        return "" if there.link == entry.link else f"differs (to {entry.link} {here_word}, {there.link} {there_word})"
    if there.size != entry.size:
        return f"differs ({entry.size} bytes {here_word}, {there.size} {there_word})"
    if there.md5 != entry.md5:
        return f"differs (MD5 {entry.md5[:4]}.. {here_word}, {there.md5[:4]}.. {there_word})"
    if there.executable != entry.executable:
        return f"same MD5, but executable only {here_word if entry.executable else there_word}"
    return ""


def _digested(source: str, entries: Iterable[Entry], verify: Verify) -> list[Entry]:
    digests = Digests(CACHE, verify == "cached")
    try:
        return list(all_digested(source, entries, digests))
    finally:
        digests.save()


# --- moving ---

def upload(connection: Way, plan: Plan, progress: Watcher | None = None, *, lanes: Lanes | None = None) -> Outcome:
    """Carry out a plan of plan_upload. Raises DiskFull before anything is sent when it cannot fit; ConnectionLost,
    DiskFull and TransferError later leave complete files in place and the part of the one under way. `lanes` that are
    logged in already may be given."""
    assert plan.direction == "up"
    start_s = time.monotonic()
    tally = _Tally(plan, progress)
    sent_bytes = 0
    if plan.to_do:
        request = {"do": "receive", "root": plan.target, "cache": CACHE, **_need(plan)}
        with _session(connection, plan.target, request) as wire:
            asked_s = time.monotonic()
            wire.hear()  # it has the lock and the space
            with _lanes(connection, plan, lanes) as lanes:
                if lanes:
                    lanes.correct(time.monotonic() - asked_s)
                sent_bytes = _send_all(connection, wire, plan, tally, lanes)
    return tally.outcome(sent_bytes, time.monotonic() - start_s)


def _send_all(connection: Way, wire: Wire, plan: Plan, tally: _Tally, lanes: Lanes | None) -> int:
    small, large = _sorted(plan, lanes)
    sender = Sender(wire, plan.source, tally.heed, tally.moved)
    with _own_problems(plan.source, wire):
        for item in sorted(small, key=lambda i: i.action != "copy"):  # copies first: a refused one is sent after
            if item.action == "copy":
                sender.copy(item.entry, item.origin)
            else:
                sender.send(item.entry, item.action == "resume")
        if small:
            sender.flush()
        for path in tally.refused:
            sender.send(tally.entries[path])
        if tally.refused:
            sender.flush()
        if lanes and large:
            Upload(wire, plan.source, lanes, tally.heed, tally.moved, carries=_carries(connection)).run(
                i.entry for i in large)
        sender.end()
    tally.all_done()
    return sender.sent_bytes + (lanes.ranges.moved_bytes if lanes else 0)


def download(connection: Way, plan: Plan, progress: Watcher | None = None, *, lanes: Lanes | None = None) -> Outcome:
    """Carry out a plan of plan_download; see upload."""
    assert plan.direction == "down"
    start_s = time.monotonic()
    tally = _Tally(plan, progress)
    taken_bytes = 0
    if plan.to_do:
        need = _need(plan)
        with _own_problems(plan.target):
            refuse_full(plan.target, need["need_bytes"], need["need_files"])
        with _own_problems(plan.target), Lock(plan.target) as lock, \
                _lanes(connection, plan, lanes) as lanes:
            taken_bytes = _take_all(connection, plan, tally, lock, lanes)
    return tally.outcome(taken_bytes, time.monotonic() - start_s)


def _take_all(connection: Way, plan: Plan, tally: _Tally, lock: Lock, lanes: Lanes | None) -> int:
    small, large = _sorted(plan, lanes)
    request = {"do": "send", "root": plan.source,
               "files": [(i.entry._asdict(), i.action == "resume") for i in small]}
    with _session(connection, plan.source, request, lock.touch) as wire, _own_problems(plan.target):
        wire.hear()  # it is ready
        receiver = Receiver(wire, plan.target, Digests(CACHE), tally.done, tally.moved)
        receiver.run()
        if lanes and large:
            Download(wire, receiver, plan.source, lanes, tally.moved, carries=_carries(connection)).run(
                i.entry for i in large)
    tally.all_done()
    return receiver.taken_bytes + (lanes.ranges.moved_bytes if lanes else 0)


def commit(connection: Way, plan: Plan, final: str) -> None:
    """Give the complete target of an upload its final name, in one rename after its files were checked."""
    final = connection.absolute(final)
    rows = [{"path": i.path, "size_bytes": i.size_bytes, "md5": i.md5} for i in plan.items if i.entry.kind == "file"]
    request = {"do": "commit", "folder": plan.target, "final": final, "files": rows, "cache": CACHE}
    with _session(connection, plan.target, request) as wire:
        wire.hear()


def free_bytes(connection: Way, remote: str) -> int:
    """Free space where `remote` is, or would be."""
    root = connection.absolute(remote)
    with _session(connection, root, {"do": "space", "root": root}) as wire:
        found: int = wire.hear()["free_bytes"]
        return found


# --- lanes ---

RANGED_FROM_BYTES, RANGED_FROM_FAR_BYTES = 1 << 25, 1 << 22  # without and with a long way


@contextlib.contextmanager
def _lanes(connection: Way, plan: Plan, given: Lanes | None) -> Iterator[Lanes | None]:
    """Lanes for what is large in a plan; none when nothing is."""
    if max((i.size_bytes for i in plan.to_do), default=0) < RANGED_FROM_FAR_BYTES:
        yield given
        return
    with contextlib.ExitStack() as stack:
        lanes = given
        if lanes is None:
            lanes = lanes_over(connection, stack)
            stack.callback(lanes.close)
            if any(_ranged(i, lanes.rtt_s) for i in plan.to_do):
                lanes.start()
        yield lanes


def lanes_over(connection: Way, stack: contextlib.ExitStack) -> Lanes:
    """OpenSSH's program where there is one, else more channels of the connection that is there."""
    if isinstance(connection, SshClient):
        client = connection
        return Lanes(lambda: _process(client), rtt_s=lambda: client.rtt_s, first=lambda rtt_s: first_lanes(rtt_s) - 1)
    rtt_s = connection.ping(PING_S)
    if sshclient.present() and isinstance(connection, Connection):
        own = stack.enter_context(SshClient(connection.host))
        return Lanes(lambda: _process(own), rtt_s=lambda: rtt_s, first=first_lanes)
    return Lanes(lambda: _channel(connection), rtt_s=lambda: rtt_s, first=lambda _: CHANNELS, most=CHANNELS)


def _process(client: SshClient) -> tuple[Wire, Callable[[], None]]:
    process = client.start(porter)
    process.write(b'{"do":"lane"}\n')
    return process.wire, process.kill


def _channel(connection: Way) -> tuple[Wire, Callable[[], None]]:
    stream: Stream | SshProcess = connection.far(porter, {"do": "lane"}, silence_s=SILENCE_S + 30)
    return _wire(stream), lambda: stream.__exit__(None, None, None)


def _carries(connection: Way) -> bool:
    """Whether its own wire is as good as a lane: paramiko takes 2.5 times the CPU that `ssh` does."""
    return not isinstance(connection, Connection) or not sshclient.present()


def _ranged(item: Item, rtt_s: float) -> bool:
    """Whether a file goes in ranges. What was begun so, and goes on, does whatever the way."""
    if item.entry.kind != "file" or item.action not in ("send", "resume"):
        return False
    far = rtt_s >= FAR_S or item.action == "resume"
    return item.size_bytes >= (RANGED_FROM_FAR_BYTES if far else RANGED_FROM_BYTES)


def _sorted(plan: Plan, lanes: Lanes | None) -> tuple[list[Item], list[Item]]:
    """What goes as one stream, and what goes in ranges."""
    large = [i for i in plan.to_do if lanes and _ranged(i, lanes.rtt_s)]
    return [i for i in plan.to_do if i not in large], large


class _Tally:
    """What is done so far, for the progress and the outcome."""

    def __init__(self, plan: Plan, progress: Watcher | None) -> None:
        self.entries = {i.entry.path: i.entry for i in plan.to_do}
        self.refused: list[str] = []
        self._plan = plan
        self._progress = progress
        self._open = {i.entry.path: i for i in plan.to_do}
        self._bytes_total = sum(i.size_bytes for i in plan.to_do)
        self._bytes_done = 0

    def heed(self, message: Message) -> None:
        """What the host says while we send."""
        if "done" in message:
            self.done(self.entries[message["done"]])
        elif "refused" in message:
            self.refused.append(message["refused"])

    def done(self, entry: Entry) -> None:
        item = self._open.pop(entry.path)
        self.moved(entry, item.size_bytes if item.action == "copy" and entry.path not in self.refused else 0)

    def moved(self, entry: Entry, count: int) -> None:
        self._bytes_done += count
        if self._progress:
            total = len(self.entries)
            self._progress(Progress(entry.path or Path(self._plan.target).name, self._bytes_done, self._bytes_total,
                                    total - len(self._open), total))

    def all_done(self) -> None:
        if self._open:
            raise TransferError(f"{len(self._open)} files were sent and never confirmed, the first is "
                                f"{next(iter(self._open))!r}", remedy="run the same command again")

    def outcome(self, sent_bytes: int, seconds: float) -> Outcome:
        copied = sum(i.action == "copy" for i in self._plan.to_do) - len(self.refused)
        return Outcome(len(self.entries) - copied, sent_bytes, len(self._plan.items) - len(self.entries), seconds,
                       copied)


def _need(plan: Plan) -> dict[str, int]:
    return {"need_bytes": sum(i.size_bytes - i.begun_bytes for i in plan.to_do),
            "need_files": sum(not i.begun_bytes for i in plan.to_do)}


# --- the far side, and what goes wrong ---

@contextlib.contextmanager
def _session(connection: Way, root: str, request: dict[str, Any],
             touch: Callable[[], None] = lambda: None) -> Iterator[Wire]:
    """The porter on the host, at the other end of a wire. Its problems become our errors."""
    began: Stream | SshProcess = connection.far(porter, request, silence_s=SILENCE_S + 30)  # the pulse is first
    with began as stream:
        wire = _wire(stream)
        silence = _Silence(connection)
        with _far_problems(connection, root, wire, silence), Pulse(wire, silence, SILENCE_S, touch):
            yield wire


class _Silence:
    """What happens when the host has been silent for too long: ask every hop, so that the one to blame has a name,
    and cut the link, which ends whatever waits for it."""

    def __init__(self, connection: Way) -> None:
        self._connection = connection
        self._culprit: HostError | None = None
        self._asking = threading.Lock()

    def __call__(self) -> None:
        with self._asking:
            self._ask()
        self._connection.close()

    def named(self, error: ConnectionLost) -> ConnectionLost:
        """The error with the hop that does not answer, where there is one."""
        with self._asking:  # the cut that woke us may be the answer that is just being found
            if self._culprit is None:
                self._ask()
        if self._culprit is None:
            return error
        return ConnectionLost(f"{self._culprit.message}; what was sent is kept", remedy=self._culprit.remedy)

    def _ask(self) -> None:
        try:
            self._connection.ping(PING_S)
        except HostError as error:
            self._culprit = error


def _wire(stream: Stream | SshProcess) -> Wire:
    """A process that serves several sessions has one wire."""
    return stream.wire if isinstance(stream, SshProcess) else Wire(lambda _: _more(stream), stream.write,
                                                                    stream.readable)


def _more(stream: Stream) -> bytes:
    """All that is there: paramiko copies what a read leaves behind. Raises ConnectionLost at the end."""
    return stream.read(1 << 26) or stream.read_exactly(1)


@contextlib.contextmanager
def _far_problems(connection: Way, root: str, wire: Wire, silence: _Silence) -> Iterator[None]:
    try:
        try:
            yield
        except (CommandFailed, ConnectionLost):  # perhaps it has said why before it went
            with contextlib.suppress(RdtopsError):
                _hear_out(wire)
            raise
    except Problem as problem:
        raise _error(problem, connection.host.name, root) from None
    except ConnectionLost as error:
        raise silence.named(error) from error
    except CommandFailed as error:
        if error.remedy:
            raise
        last_words = error.message.splitlines()[-1]
        raise TransferError(f"{connection.host.name}: our program there was ended: {last_words}",
                            remedy="run the same command again; what was sent is kept") from error


@contextlib.contextmanager
def _own_problems(root: str, wire: Wire | None = None) -> Iterator[None]:
    """Problems with files of this machine. The host hears of them, so that it drops a part which cannot be right."""
    try:
        try:
            yield
        except OSError as error:
            raise problem_of(error, root) from error
    except Problem as problem:
        if problem.from_other_side:
            raise
        if wire is not None:
            with contextlib.suppress(RdtopsError, Problem):
                wire.say(problem.message())
                wire.flush()
                wire.hear()  # it repeats the problem when it has dropped the part
        raise _error(problem, "here", root) from None


def _error(problem: Problem, side: str, root: str) -> TransferError:
    path = problem.path if problem.path.startswith("/") else _joined(root, problem.path)
    where = f"{side}: {_shown(path)}: "
    if problem.kind == "full":
        return _disk_full(problem, side, root, where)
    kind = DigestMismatch if problem.kind == "digest" else TransferError
    return kind(where + _shown(problem.reason), remedy=_REMEDIES.get(problem.kind, "").format(root=root, side=side))


def _disk_full(problem: Problem, side: str, root: str, where: str) -> DiskFull:
    missing = problem.numbers.get("missing_bytes", 0)
    more = f": {size_words(missing)} more are needed, {size_words(problem.numbers['free_bytes'])} are free" \
        if missing else ""
    return DiskFull(f"{where}{problem.reason}{more}",
                    remedy=f"df -h {root}   # {side}: make room and run the same command again; what was sent is kept")


_REMEDIES = {
    "digest": "run the same command again; if it happens twice, the memory or the disk of one machine is faulty",
    "changed": "run the same command again when nothing writes the file any more (verify=\"full\" if nothing did)",
    "locked": "wait for the other transfer to end, then run the same command again",
    "link": "cp -rL FOLDER COPY   # a copy without links can be sent",
    "os": "ls -ld {root}   # {side}: who may write there?",
    "incomplete": "run the same command again",
    "noise": "ssh {side} true   # must print nothing: a start-up file of the shell there does",
}


def size_words(count: int) -> str:
    """Bytes for people: 999 bytes, 1.5 GB."""
    if count < 1000:
        return f"{count} bytes"
    size, power = float(count), 0
    while size >= 999.5:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {('', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def _of_words(part: int, whole: int) -> str:
    """40 of 100 MB"""
    part_words, whole_words = size_words(part), size_words(whole)
    unit = whole_words.partition(" ")[2]
    return f"{part_words.removesuffix(' ' + unit)} of {whole_words}"


def _shown(path: str) -> str:
    """Names may hold newlines and bytes that are no text; a message must not."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)


def _hear_out(wire: Wire) -> None:
    """Raises the Problem among the last words of the other side, if there is one. The rest of a file is no word."""
    try:
        for _ in _until_end(wire):
            pass
    except Problem as problem:
        if problem.kind != "noise":
            raise


def _until_end(wire: Wire) -> Iterator[Message]:
    while "end" not in (message := wire.hear()):
        yield message


def _absolute(local: Path) -> str:
    return text(os.fsencode(Path(os.path.abspath(local.expanduser()))))  # noqa: PTH100  # keeps links


def _relative(files: Sequence[str] | None) -> list[str] | None:
    return None if files is None else list(dict.fromkeys(name.rstrip("/") for name in files))


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder and name else folder or name


# --- on its own ---

def main(argv: Sequence[str] | None = None) -> int:
    """python -m rdtops.remote.transfer [--ssh-config FILE | --hosts FILE] SRC HOST:DST, or HOST:SRC DST"""
    parser = argparse.ArgumentParser(prog="python -m rdtops.remote.transfer", description=main.__doc__)
    parser.add_argument("--ssh-config", help="HOST is a Host of this file, with ProxyJump")
    parser.add_argument("--hosts", help="HOST is of this inventory; default hosts.toml")
    parser.add_argument("--verify", choices=["cached", "full"], default="cached")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and why")
    parser.add_argument("source")
    parser.add_argument("target")
    options = parser.parse_args(argv)
    try:
        host, upwards = _sides(options)
        with contextlib.ExitStack() as stack:
            plan, outcome = _moved(options, host, upwards, stack)
    except RdtopsError as error:
        sys.stderr.write(f"{error.message}\n" + (f"try: {error.remedy}\n" if error.remedy else ""))
        return error.exit_code
    _print(plan, outcome)
    return 0


def _moved(options: argparse.Namespace, host: hosts.Host, upwards: bool,
           stack: contextlib.ExitStack) -> tuple[Plan, Outcome | None]:
    connection: Way = SshClient(host) if sshclient.present() else Connection(host)
    stack.enter_context(connection)
    watch = Display() if sys.stderr.isatty() else None
    if upwards:
        local, remote = Path(options.source), _into(options.target.partition(":")[2], options.source)
        lanes = None if options.dry_run else _early(connection, local, stack)
        plan = plan_upload(connection, local, remote, verify=options.verify)
        return plan, None if options.dry_run else upload(connection, plan, watch, lanes=lanes)
    remote = options.source.partition(":")[2]
    plan = plan_download(connection, remote, Path(_into(options.target, remote)), verify=options.verify)
    return plan, None if options.dry_run else download(connection, plan, watch)


def _early(connection: Way, local: Path, stack: contextlib.ExitStack) -> Lanes | None:
    """Lanes that log in while the plan is being made."""
    if not isinstance(connection, SshClient):
        return None
    with contextlib.suppress(Problem, OSError):  # the plan will say it
        largest = max((e.size for e in scan(_absolute(local))), default=0)
        lanes = lanes_over(connection, stack)
        stack.callback(lanes.close)
        lanes.start(lambda rtt_s: largest >= (RANGED_FROM_FAR_BYTES if rtt_s >= FAR_S else RANGED_FROM_BYTES))
        return lanes
    return None


def _print(plan: Plan, outcome: Outcome | None) -> None:
    for item in plan.items if outcome is None else plan.to_do:
        size = "" if outcome else f"{size_words(item.size_bytes)}, "
        sys.stdout.write(f"{item.action:6} {_shown(item.path)}: {size}{_shown(item.reason)}\n")
    if outcome is None:
        sys.stdout.write(f"{len(plan.to_do)} of {len(plan.items)} files, {size_words(plan.bytes_to_send)} to send\n")
    else:
        sys.stdout.write(f"{outcome.sent_files} files sent ({size_words(outcome.sent_bytes)}), {outcome.skipped_files} "
                         f"were the same, {outcome.seconds:.1f} s; every MD5 verified\n")


class Display:
    """Progress on one line of a terminal."""

    def __init__(self) -> None:
        self._start_s = self._shown_s = time.monotonic()
        self._first_bytes: int | None = None

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if self._first_bytes is None:
            self._first_bytes = progress.bytes_done
        if now_s - self._shown_s < 0.2 and progress.bytes_done < progress.bytes_total:
            return
        self._shown_s = now_s
        rate = (progress.bytes_done - self._first_bytes) / max(now_s - self._start_s, 0.1)
        left_s = (progress.bytes_total - progress.bytes_done) / rate if rate else 0
        sys.stderr.write(f"\r\x1b[K{_of_words(progress.bytes_done, progress.bytes_total)}, "
                         f"{size_words(int(rate))}/s, {left_s:.0f} s left, {_shown(progress.path)[-40:]}")
        if progress.bytes_done >= progress.bytes_total:
            sys.stderr.write("\n")


def _sides(options: argparse.Namespace) -> tuple[hosts.Host, bool]:
    """The host, and whether it is the target."""
    def named(side: str) -> str:
        name, colon, _ = side.partition(":")
        return name if colon and "/" not in name else ""

    source, target = named(options.source), named(options.target)
    if bool(source) == bool(target):
        raise UsageError(f"one of {options.source!r} and {options.target!r} must be HOST:PATH")
    return _host(options, source or target), bool(target)


def _host(options: argparse.Namespace, name: str) -> hosts.Host:
    if options.ssh_config:
        return hosts.of_ssh_config(name, Path(options.ssh_config).expanduser().absolute())
    return hosts.load(options.hosts).host(name)


def _into(target: str, source: str) -> str:
    """As cp does: a target that ends in / gets the source's name."""
    return target + Path(source).name if target.endswith("/") else target


if __name__ == "__main__":
    sys.exit(main())
