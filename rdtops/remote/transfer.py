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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from rdtops.remote import hosts
from rdtops.remote.connection import Connection, Stream
from rdtops.remote.far import porter
from rdtops.remote.far.porter import Entry, Problem

Action = Literal["skip", "resume", "send", "copy"]
Verify = Literal["cached", "full"]

SILENCE_S = 30.0  # the far side says that it is alive every 5 s
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
    def of(cls, messages: Iterable[porter.Message], basis: str = "") -> Survey:
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

def plan_upload(connection: Connection, local: Path, remote: str, *, files: Sequence[str] | None = None,
                basis: str | None = None, verify: Verify = "cached") -> Plan:
    """What must travel so that `remote` has the files of `local` (a folder, or a file with `remote` as its new name).

    `files` names some of them, relative to `local`; `basis` is a folder of the host with files that may be the same.
    verify="full" reads every file on both sides instead of trusting size, time and inode.
    """
    source, target = _absolute(local), connection.absolute(remote)
    origin = connection.absolute(basis) if basis else ""
    with _own_problems(source):
        entries = list(porter.scan(source, _relative(files)))
    request = {"do": "survey", "root": target, "wanted": [(e.path, e.size) for e in entries], "basis": origin,
               "cache": porter.CACHE, "trust": verify == "cached"}
    with _session(connection, target, request) as wire:
        with _own_problems(source):  # the host digests its files meanwhile
            entries = _digested(source, entries, verify)
        survey = Survey.of(_until_end(wire), origin)
    items = plan_items(entries, survey, Path(target).name, ("here", "there"))
    return Plan(source, target, items, "up")


def plan_download(connection: Connection, remote: str, local: Path, *, files: Sequence[str] | None = None,
                  verify: Verify = "cached") -> Plan:
    """What must travel so that `local` has the files of `remote`; see plan_upload."""
    source, target = connection.absolute(remote), _absolute(local)
    request = {"do": "scan", "root": source, "files": _relative(files), "hash": True, "cache": porter.CACHE,
               "trust": verify == "cached"}
    with _session(connection, source, request) as wire:
        entries = [Entry(**message["there"]) for message in _until_end(wire)]
    with _own_problems(target):
        digests = porter.Digests(porter.CACHE, verify == "cached")
        survey = Survey.of(porter.survey(target, [(e.path, e.size) for e in entries], digests))
        digests.save()
    items = plan_items(entries, survey, Path(target).name, ("there", "here"))
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
    part = porter.part_name(entry.path or name, entry.size, entry.md5)
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
    digests = porter.Digests(porter.CACHE, verify == "cached")
    try:
        return list(porter.all_digested(source, entries, digests))
    finally:
        digests.save()


# --- moving ---

def upload(connection: Connection, plan: Plan, progress: Watcher | None = None) -> Outcome:
    """Carry out a plan of plan_upload. Raises DiskFull before anything is sent when it cannot fit; ConnectionLost,
    DiskFull and TransferError later leave complete files in place and the part of the one under way."""
    assert plan.direction == "up"
    start_s = time.monotonic()
    tally = _Tally(plan, progress)
    sent_bytes = 0
    if plan.to_do:
        request = {"do": "receive", "root": plan.target, "cache": porter.CACHE, **_need(plan)}
        with _session(connection, plan.target, request) as wire:
            wire.hear()  # it has the lock and the space
            sent_bytes = _send_all(wire, plan, tally)
    return tally.outcome(sent_bytes, time.monotonic() - start_s)


def _send_all(wire: porter.Wire, plan: Plan, tally: _Tally) -> int:
    sender = porter.Sender(wire, plan.source, tally.heed, tally.moved)
    with _own_problems(plan.source, wire):
        for item in sorted(plan.to_do, key=lambda i: i.action != "copy"):  # copies first: a refused one is sent after
            if item.action == "copy":
                sender.copy(item.entry, item.origin)
            else:
                sender.send(item.entry, item.action == "resume")
        sender.flush()
        for path in tally.refused:
            sender.send(tally.entries[path])
        sender.flush()
        sender.end()
    tally.all_done()
    return sender.sent_bytes


def download(connection: Connection, plan: Plan, progress: Watcher | None = None) -> Outcome:
    """Carry out a plan of plan_download; see upload."""
    assert plan.direction == "down"
    start_s = time.monotonic()
    tally = _Tally(plan, progress)
    taken_bytes = 0
    if plan.to_do:
        need = _need(plan)
        with _own_problems(plan.target):
            porter.refuse_full(plan.target, need["need_bytes"], need["need_files"])
        with _own_problems(plan.target), porter.Lock(plan.target) as lock:
            taken_bytes = _take_all(connection, plan, tally, lock)
    return tally.outcome(taken_bytes, time.monotonic() - start_s)


def _take_all(connection: Connection, plan: Plan, tally: _Tally, lock: porter.Lock) -> int:
    request = {"do": "send", "root": plan.source,
               "files": [(i.entry._asdict(), i.action == "resume") for i in plan.to_do]}
    with _session(connection, plan.source, request, lock.touch) as wire, _own_problems(plan.target):
        wire.hear()  # it is ready
        receiver = porter.Receiver(wire, plan.target, porter.Digests(porter.CACHE), tally.done, tally.moved)
        receiver.run()
    tally.all_done()
    return receiver.taken_bytes


def commit(connection: Connection, plan: Plan, final: str) -> None:
    """Give the complete target of an upload its final name, in one rename after its files were checked."""
    final = connection.absolute(final)
    rows = [{"path": i.path, "size_bytes": i.size_bytes, "md5": i.md5} for i in plan.items if i.entry.kind == "file"]
    request = {"do": "commit", "folder": plan.target, "final": final, "files": rows, "cache": porter.CACHE}
    with _session(connection, plan.target, request) as wire:
        wire.hear()


def free_bytes(connection: Connection, remote: str) -> int:
    """Free space where `remote` is, or would be."""
    root = connection.absolute(remote)
    with _session(connection, root, {"do": "space", "root": root}) as wire:
        found: int = wire.hear()["free_bytes"]
        return found


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

    def heed(self, message: porter.Message) -> None:
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
def _session(connection: Connection, root: str, request: dict[str, Any],
             touch: Callable[[], None] = lambda: None) -> Iterator[porter.Wire]:
    """The porter on the host, at the other end of a wire. Its problems become our errors."""
    with connection.far(porter, request, silence_s=SILENCE_S + 30) as stream:  # the pulse is first
        wire = porter.Wire(lambda _: _more(stream), stream.write, stream.readable)
        silence = _Silence(connection)
        with _far_problems(connection, root, wire, silence), porter.Pulse(wire, silence, SILENCE_S, touch):
            yield wire


class _Silence:
    """What happens when the host has been silent for too long: ask every hop, so that the one to blame has a name,
    and cut the link, which ends whatever waits for it."""

    def __init__(self, connection: Connection) -> None:
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


def _more(stream: Stream) -> bytes:
    """All that is there: paramiko copies what a read leaves behind. Raises ConnectionLost at the end."""
    return stream.read(1 << 26) or stream.read_exactly(1)


@contextlib.contextmanager
def _far_problems(connection: Connection, root: str, wire: porter.Wire, silence: _Silence) -> Iterator[None]:
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
def _own_problems(root: str, wire: porter.Wire | None = None) -> Iterator[None]:
    """Problems with files of this machine. The host hears of them, so that it drops a part which cannot be right."""
    try:
        try:
            yield
        except OSError as error:
            raise porter.problem_of(error, root) from error
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


def _hear_out(wire: porter.Wire) -> None:
    """Raises the Problem among the last words of the other side, if there is one. The rest of a file is no word."""
    try:
        for _ in _until_end(wire):
            pass
    except Problem as problem:
        if problem.kind != "noise":
            raise


def _until_end(wire: porter.Wire) -> Iterator[porter.Message]:
    while "end" not in (message := wire.hear()):
        yield message


def _absolute(local: Path) -> str:
    return porter.text(os.fsencode(Path(os.path.abspath(local.expanduser()))))  # noqa: PTH100  # keeps links


def _relative(files: Sequence[str] | None) -> list[str] | None:
    return None if files is None else list(dict.fromkeys(name.rstrip("/") for name in files))


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder and name else folder or name


# --- on its own ---

def main(argv: Sequence[str] | None = None) -> int:
    """python -m rdtops.remote.transfer --hosts hosts.toml SRC HOST:DST, or HOST:SRC DST"""
    parser = argparse.ArgumentParser(prog="python -m rdtops.remote.transfer", description=main.__doc__)
    parser.add_argument("--hosts", help="the inventory; default hosts.toml")
    parser.add_argument("--verify", choices=["cached", "full"], default="cached")
    parser.add_argument("source")
    parser.add_argument("target")
    options = parser.parse_args(argv)
    try:
        plan, outcome = _moved(options.hosts, options.source, options.target, options.verify)
    except RdtopsError as error:
        sys.stderr.write(f"{error.message}\n" + (f"try: {error.remedy}\n" if error.remedy else ""))
        return error.exit_code
    for item in plan.to_do:
        sys.stdout.write(f"{item.action:6} {_shown(item.path)}: {_shown(item.reason)}\n")
    sys.stdout.write(f"{outcome.sent_files} files sent ({size_words(outcome.sent_bytes)}), {outcome.skipped_files} "
                     f"were the same, {outcome.seconds:.1f} s; every MD5 verified\n")
    return 0


def _moved(inventory: str | None, source: str, target: str, verify: Verify) -> tuple[Plan, Outcome]:
    known = hosts.load(inventory)
    here, there = _sides(source, target, known.hosts)
    name, _, remote = there.partition(":")
    with Connection(known.host(name)) as connection:
        if there is target:
            plan = plan_upload(connection, Path(here), _into(remote, here), verify=verify)
            return plan, upload(connection, plan)
        plan = plan_download(connection, remote, Path(_into(here, remote)), verify=verify)
        return plan, download(connection, plan)


def _sides(source: str, target: str, known: Mapping[str, object]) -> tuple[str, str]:
    remote = [side for side in (source, target) if ":" in side and side.partition(":")[0] in known]
    if len(remote) != 1:
        raise UsageError(f"one of {source!r} and {target!r} must be HOST:PATH with a host of {', '.join(known)}")
    return (source if remote[0] is target else target), remote[0]


def _into(target: str, source: str) -> str:
    """As cp does: a target that ends in / gets the source's name."""
    return target + Path(source).name if target.endswith("/") else target


if __name__ == "__main__":
    sys.exit(main())
