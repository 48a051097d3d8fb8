"""Transfer: move files between this machine and a host; only what is missing or different, verified, resumable.

    plan = plan_upload(connection, Path("data"), "~/rdtops/data")   # with the reason for each file
    outcome = upload(connection, plan)

A file appears under its final name only when it is complete, its MD5 is right and it is on the disk. A lost connection
leaves a part beside the target, which the next plan resumes. Files are added or replaced, never removed; empty folders
are not sent. rdtops.porter does the work on both sides.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rdtops.errors import TransferError
from rdtops.hostlib import hub_cache
from rdtops.hostlib.fields import LARGEST, words
from rdtops.porter import porter
from rdtops.porter.entries import Entry, Message, count, nonsense, place, text, unasked, word
from rdtops.porter.file_digests import CACHE, Digests
from rdtops.porter.listing import all_digested, scan, survey
from rdtops.porter.sender import Sender, announced
from rdtops.porter.target import TransferTarget, refuse_outside
from rdtops.porter.target_lock import Lock, refuse_full
from rdtops.porter.wire import Wire
from rdtops.ssh import openssh_client
from rdtops.ssh.openssh_client import SshClient
from rdtops.transfer.porter_session import PING_S, SILENCE_S, OpenPorter, own_problems, session, until_end
from rdtops.transfer.scheduler import Download, Upload
from rdtops.transfer.streams import FAR_S, StreamPool, first_streams
from rdtops.transfer.transfer_plan import Item, Plan, TargetState, digests_of, listed, plan_items

Verify = Literal["cached", "full"]
CHANNELS = 3  # streams that are channels of one connection; MaxSessions is 10


@dataclass(frozen=True)
class Outcome:
    """The result of a transfer."""

    sent_files: int
    sent_bytes: int
    skipped_files: int
    seconds: float
    copied_files: int = 0
    md5s: Mapping[str, str] = field(default_factory=dict)  # of every file at the target now, by path


@dataclass(frozen=True)
class TransferProgress:
    """The progress of a transfer. `bytes_total` and `files_total` count what the plan does not skip."""

    path: str
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int


Watcher = Callable[[TransferProgress], None]


# --- planning ---

def plan_upload(connection: OpenPorter, local: Path, remote: str, *, files: Sequence[str] | None = None,
                basis: str | None = None, verify: Verify = "cached",
                leave_out: Callable[[str], bool] = lambda _: False) -> Plan:
    """Plan what to send so that `remote` has the files of `local` (a folder, or a file with `remote` as its new name).

    `files` names some of them, relative to `local`; `leave_out` returns whether a file or folder below it stays here;
    `basis` is a folder on the host with files that may be the same. Files that the host may have already are digested
    on both sides; the others while they are sent. verify="full" reads every such file instead of trusting size, times
    and inode.
    """
    source, target = _absolute(local), connection.absolute(remote)
    origin = connection.absolute(basis) if basis else ""
    left_out: list[str] = []

    def stays(path: str) -> bool:
        if is_left_out := leave_out(path):
            left_out.append(path)
        return is_left_out

    with own_problems(source):
        entries = list(scan(source, _relative(files), leave_out=stays))
    request = {"do": "survey", "root": target, "wanted": [(e.path, e.size) for e in entries], "basis": origin,
               "cache": CACHE, "trust": verify == "cached"}
    with session(connection, target, request) as wire:
        alike = words(wire.hear().get("alike"))
        with own_problems(source):  # the host digests its files meanwhile
            entries = _digested(source, entries, alike, verify)
        state = TargetState.of(until_end(wire), [e.path for e in entries], origin)
    return Plan(source, target, plan_items(entries, state, Path(target).name, ("locally", "on the host")), "up",
                tuple(left_out))


def plan_asset(connection: OpenPorter, local: Path, remote: str) -> Plan:
    """Plan to send the files of a dataset or model that count; see plan_upload and rdtops.hostlib.hub_cache."""
    source = _absolute(local)
    return plan_upload(connection, local, remote, leave_out=lambda path: not hub_cache.counts(source, path))


def plan_download(connection: OpenPorter, remote: str, local: Path, *, files: Sequence[str] | None = None,
                  verify: Verify = "cached") -> Plan:
    """Plan what to fetch so that `local` has the files of `remote`; see plan_upload. Links are not sent: one that
    `files` names is followed on the host, any other is refused."""
    source, target, names = connection.absolute(remote), _absolute(local), _relative(files)
    cache = {"cache": CACHE, "trust": verify == "cached"}
    with session(connection, source, {"do": "scan", "root": source, "files": names, **cache}) as wire:
        entries = listed(until_end(wire), names)
        digests = Digests(CACHE, verify == "cached")
        ours = survey(target, [(e.path, e.size) for e in entries], digests)
        with own_problems(target):
            _refuse_links(target, entries)
            alike = set(next(ours)["alike"])
        unknown = [e for e in entries if e.path in alike and not e.md5]
        if unknown:
            wire.say({"do": "digest", "root": source, "entries": [e._asdict() for e in unknown], **cache})
            wire.flush()
        with own_problems(target):  # the host digests its files meanwhile
            state = TargetState.of(ours, [e.path for e in entries])
            digests.save()
        md5s = digests_of(until_end(wire), unknown) if unknown else {}
    entries = [e._replace(md5=md5s.get(e.path, e.md5)) for e in entries]
    return Plan(source, target, plan_items(entries, state, Path(target).name, ("on the host", "locally")), "down")


def _refuse_links(target: str, entries: Iterable[Entry]) -> None:
    """Raise Problem for a target folder that is outside of the target by a link; do not even compare its files."""
    for folder, path in {e.path.rpartition("/")[0]: e.path for e in entries}.items():
        refuse_outside(target, path, place(target, folder))


def _digested(source: str, entries: Sequence[Entry], alike: Iterable[str], verify: Verify) -> list[Entry]:
    """Return the entries, with their MD5 where the host may have the same file."""
    wanted = set(alike)
    if not wanted:  # and so no need to read the cache
        return list(entries)
    digests = Digests(CACHE, verify == "cached")
    try:
        known = {e.path: e for e in all_digested(source, (e for e in entries if e.path in wanted), digests)}
    finally:
        digests.save()
    return [known.get(e.path, e) for e in entries]


# --- moving ---

def upload(connection: OpenPorter, plan: Plan, progress: Watcher | None = None, *,
           streams: StreamPool | None = None) -> Outcome:
    """Carry out a plan of plan_upload. Raise DiskFull before anything is written when it cannot fit. A ConnectionLost,
    DiskFull or TransferError after that leaves the complete files in place, and the part of the current one. `streams`:
    streams that are logged in already."""
    assert plan.direction == "up"
    start_s = time.monotonic()
    tally = _Tally(plan, progress)
    sent_bytes = 0
    if plan.to_do:
        request = {"do": "receive", "root": plan.target, "cache": CACHE, **plan.need}
        digests = Digests(CACHE)
        with session(connection, plan.target, request) as wire, _streams(connection, plan, streams) as streams:
            try:
                sent_bytes = _send_all(connection, wire, plan, tally, digests, streams)
            finally:
                digests.save()
    return tally.outcome(sent_bytes, time.monotonic() - start_s)


def _send_all(connection: OpenPorter, wire: Wire, plan: Plan, tally: _Tally, digests: Digests,
              streams: StreamPool | None) -> int:
    small, large = _sorted(plan, streams)
    sender = Sender(wire, plan.source, digests, tally.handle, tally.moved)
    ranged = streams and Upload(wire, (plan.source, plan.target), [i.entry for i in large], digests, streams, tally,
                                carries=_carries(connection))
    if ranged and not small:
        ranged.begin()
    if large:  # small files are sent without waiting for this answer, which would cost a round trip
        asked_s = time.monotonic()
        tally.handle(wire.hear())  # the host has the lock and the space
        if streams:
            streams.correct(time.monotonic() - asked_s)
    with own_problems(plan.source, wire):
        for item in sorted(small, key=lambda i: i.action != "copy"):  # copies first: a refused one is sent after
            if item.action == "copy":
                tally.sent(item.entry.path, item.entry.md5)
                sender.copy(item.entry, item.origin)
            else:
                tally.sent(item.entry.path, sender.send(item.entry, item.action == "resume"))
        if small:
            sender.flush()
        for path in tally.refused:
            tally.sent(path, sender.send(tally.entries[path]))
        if tally.refused:
            sender.flush()
        if ranged and large:
            ranged.run()
        sender.end()
    tally.all_done()
    return sender.sent_bytes + (streams.ranges.moved_bytes if streams else 0)


def download(connection: OpenPorter, plan: Plan, progress: Watcher | None = None, *,
             streams: StreamPool | None = None) -> Outcome:
    """Carry out a plan of plan_download; see upload."""
    assert plan.direction == "down"
    start_s = time.monotonic()
    tally = _Tally(plan, progress)
    taken_bytes = 0
    if plan.to_do:
        with own_problems(plan.target):
            refuse_full(plan.target, **plan.need)
        with own_problems(plan.target), Lock(plan.target) as lock, \
                _streams(connection, plan, streams) as streams:
            taken_bytes = _take_all(connection, plan, tally, lock, streams)
    return tally.outcome(taken_bytes, time.monotonic() - start_s)


def _take_all(connection: OpenPorter, plan: Plan, tally: _Tally, lock: Lock, streams: StreamPool | None) -> int:
    small, large = _sorted(plan, streams)
    request = {"do": "send", "root": plan.source, "cache": CACHE,
               "files": [(i.entry._asdict(), i.action == "resume") for i in small]}
    with session(connection, plan.source, request, lock.touch) as wire, own_problems(plan.target):
        wire.hear()  # it is ready
        target = TransferTarget(plan.target, Digests(CACHE), tally.done, tally.moved)
        _take_small(wire, target, small)
        if streams and large:
            Download(wire, target, plan.source, streams, tally.moved, carries=_carries(connection)).run(
                i.entry for i in large)
    tally.all_done()
    return target.taken_bytes + (streams.ranges.moved_bytes if streams else 0)


def _take_small(wire: Wire, target: TransferTarget, items: Iterable[Item]) -> None:
    """Receive the planned files in the planned order. Raise Problem when the host sends anything else."""
    try:
        for item in items:
            ask = item.action == "resume"
            if (message := wire.hear()) != (due := announced(item.entry, ask)):
                raise unasked(message)
            target.stream(wire, item.entry, due["ask"])
        if "end" not in (message := wire.hear()):
            raise unasked(message)
    finally:
        target.close()


def commit(connection: OpenPorter, plan: Plan, outcome: Outcome, final: str) -> None:
    """Check the files of an uploaded folder and rename it to its final name, in one step."""
    final = connection.absolute(final)
    rows = [{"path": i.path, "size_bytes": i.size_bytes, "md5": outcome.md5s[i.path]}
            for i in plan.items if i.entry.kind == "file"]
    request = {"do": "commit", "folder": plan.target, "final": final, "files": rows, "cache": CACHE}
    with session(connection, plan.target, request) as wire:
        wire.hear()


def free_bytes(connection: OpenPorter, remote: str) -> int:
    """Return the free bytes of the file system where `remote` is, or would be."""
    root = connection.absolute(remote)
    with session(connection, root, {"do": "space", "root": root}) as wire:
        return count(wire.hear(), "free_bytes", LARGEST)


# --- streams ---

RANGED_FROM_BYTES, RANGED_FROM_FAR_BYTES = 1 << 25, 1 << 22  # with a short and with a long round trip


@contextlib.contextmanager
def _streams(connection: OpenPorter, plan: Plan, given: StreamPool | None) -> Iterator[StreamPool | None]:
    """Give streams for the large files of a plan; None when it has none."""
    if max((i.size_bytes for i in plan.to_do), default=0) < RANGED_FROM_FAR_BYTES:
        yield given
        return
    with contextlib.ExitStack() as stack:
        streams = given
        if streams is None:
            streams = streams_over(connection, stack)
            stack.callback(streams.close)
            if any(_ranged(i, streams.rtt_s) for i in plan.to_do):
                streams.start()
        yield streams


def streams_over(connection: OpenPorter, stack: contextlib.ExitStack) -> StreamPool:
    """Return streams over `ssh` processes where OpenSSH is installed and no login needs a person, else over more
    channels of the connection."""
    if isinstance(connection, SshClient):
        client = connection
        return StreamPool(lambda: _process(client), rtt_s=lambda: client.rtt_s,
                          first=lambda rtt_s: first_streams(rtt_s) - 1)
    rtt_s = connection.ping(PING_S)
    if not _carries(connection):
        own = stack.enter_context(SshClient(connection.host))
        return StreamPool(lambda: _process(own), rtt_s=lambda: rtt_s, first=first_streams)
    return StreamPool(lambda: _channel(connection), rtt_s=lambda: rtt_s, first=lambda _: CHANNELS, most=CHANNELS)


def _process(client: SshClient) -> tuple[Wire, Callable[[], None]]:
    process = client.start(porter)
    process.write(b'{"do":"stream"}\n')
    return process.wire, process.kill


def _channel(connection: OpenPorter) -> tuple[Wire, Callable[[], None]]:
    program = connection.far(porter, {"do": "stream"}, silence_s=SILENCE_S + 30, wait=False)
    return program.wire, lambda: _end(program)


def _end(program: contextlib.AbstractContextManager[object]) -> None:
    program.__exit__(None, None, None)


def _carries(connection: OpenPorter) -> bool:
    """Return whether its own wire may carry ranges too: paramiko takes 2.5 times the CPU of `ssh`."""
    return isinstance(connection, SshClient) or not (openssh_client.present() and connection.logs_in_alone)


def _ranged(item: Item, rtt_s: float) -> bool:
    """Return whether a file is sent in ranges. A resumed file that was begun in ranges is, at any round trip time."""
    if item.entry.kind != "file" or item.action not in ("send", "resume"):
        return False
    return item.size_bytes >= (RANGED_FROM_FAR_BYTES if item.action == "resume" else ranged_from(rtt_s))


def ranged_from(rtt_s: float) -> int:
    """Return the size from which a file is sent in ranges, at a round trip time."""
    return RANGED_FROM_FAR_BYTES if rtt_s >= FAR_S else RANGED_FROM_BYTES


def _sorted(plan: Plan, streams: StreamPool | None) -> tuple[list[Item], list[Item]]:
    """Return the files that are sent whole, and those that are sent in ranges."""
    large = [i for i in plan.to_do if streams and _ranged(i, streams.rtt_s)]
    return [i for i in plan.to_do if i not in large], large


class _Tally:
    """What is done so far, for TransferProgress and Outcome."""

    def __init__(self, plan: Plan, progress: Watcher | None) -> None:
        self.entries = {i.entry.path: i.entry for i in plan.to_do}
        self.refused: list[str] = []
        self._plan = plan
        self._progress = progress
        self._open = {i.entry.path: i for i in plan.to_do}
        self._sent: dict[str, str] = {}  # MD5 of what the host has yet to confirm
        self._ready = False
        self._md5s = {i.path: i.md5 for i in plan.items if i.action == "skip"}
        self._bytes_total = sum(i.size_bytes for i in plan.to_do)
        self._bytes_done = 0

    def handle(self, message: Message) -> None:
        """Handle a message of the host while we send. Raise Problem for an unexpected one."""
        if "done" in message:
            path = self._named(message, "done")
            if message.get("md5") != self._sent.pop(path):
                raise nonsense(message, "md5")
            self.done(self.entries[path]._replace(md5=message["md5"]))
        elif "refused" in message:
            path = self._named(message, "refused")
            if self._open[path].action != "copy" or path in self.refused:
                raise unasked(message)
            del self._sent[path]
            self.refused.append(path)
        elif "ready" in message and not self._ready:
            self._ready = True
        else:
            raise unasked(message)

    def _named(self, message: Message, name: str) -> str:
        path = word(message, name)
        if path not in self._sent:
            raise unasked(message)
        return path

    def sent(self, path: str, md5: str) -> None:
        """Record a sent file that the host has to confirm."""
        self._sent[path] = md5

    def done(self, entry: Entry) -> None:
        item = self._open.pop(entry.path)
        self._md5s[item.path] = entry.md5
        self.moved(entry, item.size_bytes if item.action == "copy" and entry.path not in self.refused else 0)

    def moved(self, entry: Entry, count: int) -> None:
        self._bytes_done += count
        if self._progress:
            total = len(self.entries)
            self._progress(TransferProgress(entry.path or Path(self._plan.target).name, self._bytes_done,
                                            self._bytes_total, total - len(self._open), total))

    def all_done(self) -> None:
        if self._open:
            raise TransferError(f"the host did not confirm {len(self._open)} of the files that were sent; the first is "
                                f"{next(iter(self._open))!r}", remedy="run the same command again")

    def outcome(self, sent_bytes: int, seconds: float) -> Outcome:
        copied = sum(i.action == "copy" for i in self._plan.to_do) - len(self.refused)
        return Outcome(len(self.entries) - copied, sent_bytes, len(self._plan.items) - len(self.entries), seconds,
                       copied, self._md5s)


def _absolute(local: Path) -> str:
    return text(os.fsencode(Path(os.path.abspath(local.expanduser()))))  # noqa: PTH100  # keeps links


def _relative(files: Sequence[str] | None) -> list[str] | None:
    return None if files is None else list(dict.fromkeys(name.rstrip("/") for name in files))
