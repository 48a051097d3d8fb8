"""Transfer plan: compare source and target, and decide what to do with each file. Pure; transfer asks both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rdtops.errors import TransferError
from rdtops.hostlib.fields import LARGEST
from rdtops.porter.entries import Entry, Message, Problem, count, unasked, word
from rdtops.porter.parts import part_name
from rdtops.ssh.display import joined, of_words

Action = Literal["skip", "resume", "send", "copy"]

MOST_FILES = 1_000_000  # of one download, and beside the target of an upload
RESUME_FROM_BYTES = 1 << 20  # to resume a smaller file costs more than to send it again


@dataclass(frozen=True)
class Item:
    """One file of a plan, and what to do with it."""

    path: str
    size_bytes: int
    md5: str  # "" where the plan does not need it: it is computed during the transfer, and is in the Outcome
    action: Action
    reason: str
    entry: Entry
    begun_bytes: int = 0  # of a resume: what the target has already
    origin: str = ""  # of a copy: the file of the same content on the host


@dataclass(frozen=True)
class Plan:
    source: str
    target: str
    items: tuple[Item, ...]
    direction: Literal["up", "down"]
    left_out: tuple[str, ...] = ()  # files and folders of the source that are not sent

    @property
    def bytes_to_send(self) -> int:
        return sum(i.size_bytes - i.begun_bytes for i in self.items if i.action in ("send", "resume"))

    @property
    def to_do(self) -> tuple[Item, ...]:
        return tuple(i for i in self.items if i.action != "skip")

    @property
    def size_bytes(self) -> int:
        return sum(i.size_bytes for i in self.items)

    @property
    def need(self) -> dict[str, int]:
        """The bytes and inodes that the target must have free. Holes of a sparse file stay holes."""
        return {"need_bytes": sum(max(i.size_bytes - i.entry.holes - i.begun_bytes, 0) for i in self.to_do),
                "need_files": sum(not i.begun_bytes for i in self.to_do)}


@dataclass
class TargetState:
    """What the target of a plan has already."""

    there: dict[str, Entry] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)  # path of a part -> its bytes
    basis: dict[str, str] = field(default_factory=dict)  # MD5 -> a file of that content on the target's machine

    @classmethod
    def of(cls, messages: Iterable[Message], paths: Iterable[str], basis: str = "") -> TargetState:
        """Parse the messages about those paths, and about files of `basis`. Raise Problem for others."""
        survey, wanted = cls(), set(paths)
        for message in _not_endless(messages, MOST_FILES + len(wanted)):
            if "there" in message:
                entry = Entry.of(message["there"])
                if entry.path not in wanted:
                    raise unasked(message)
                survey.there[entry.path] = entry
            elif "part" in message:
                survey.parts[joined(word(message, "folder"), word(message, "part"))] = count(message, "size", LARGEST)
            elif basis:
                entry = Entry.of(message.get("basis"))
                survey.basis[entry.md5] = joined(basis, entry.path)
            else:
                raise unasked(message)
        return survey


def listed(messages: Iterable[Message], names: Sequence[str] | None) -> list[Entry]:
    """Return the files that a host lists: those of `names`, and those below them; without `names` any below the root.
    Raise Problem for others, for anything but files, and for contradictions."""
    entries: dict[str, Entry] = {}
    asked, total_bytes = None if names is None else set(names), 0
    for message in _not_endless(messages, MOST_FILES):
        entry = Entry.of(message.get("there"))
        if asked is not None and entry.path not in asked and asked.isdisjoint(_folders(entry.path)):
            raise unasked(message)
        if entry.kind != "file":
            raise Problem("unasked", entry.path, f"the host lists a {entry.kind}, but files were requested")
        if entry.path in entries:
            raise Problem("protocol", entry.path, "the host lists it twice")
        total_bytes += entry.size
        entries[entry.path] = entry
    for folder in {folder for path in entries for folder in _folders(path)} & entries.keys():
        raise Problem("protocol", folder, "the host lists it as a file and as a folder")
    if total_bytes > LARGEST:
        raise Problem("protocol", "", f"the host lists {total_bytes} bytes, more than any disk has")
    return list(entries.values())


def digests_of(messages: Iterable[Message], entries: Sequence[Entry]) -> dict[str, str]:
    """Return the MD5 sums of the files that the host was asked for."""
    asked, md5s = {e.path: e for e in entries}, dict[str, str]()
    for message in messages:
        entry = Entry.of(message.get("there"))
        if asked.pop(entry.path, None) != entry._replace(md5=""):
            raise unasked(message)
        md5s[entry.path] = entry.md5
    return md5s


def _folders(path: str) -> list[str]:
    """Return the folders of a file, up to the root of the transfer, which is ''."""
    steps = path.split("/") if path else []
    return ["/".join(steps[:end]) for end in range(len(steps))]


def _not_endless(messages: Iterable[Message], most: int) -> Iterator[Message]:
    for number, message in enumerate(messages):
        if number >= most:
            raise Problem("protocol", "", f"the host lists more than {most} files")
        yield message


def plan_items(entries: Sequence[Entry], survey: TargetState, name: str, sides: tuple[str, str]) -> tuple[Item, ...]:
    """Decide what to do with each entry. `sides` are the words for source and target, `name` is the name of a root that
    is itself a file. An entry has its MD5 when the target has a file of its size."""
    return tuple(_item(entry, survey, name, sides) for entry in entries)


def _item(entry: Entry, survey: TargetState, name: str, sides: tuple[str, str]) -> Item:
    there = survey.there.get(entry.path)
    difference = _difference(entry, there, sides)

    def item(action: Action, reason: str, begun_bytes: int = 0, origin: str = "") -> Item:
        return Item(entry.path or name, entry.size, entry.md5, action, reason, entry, begun_bytes, origin)

    if there is not None and there.kind == "folder":
        raise TransferError(f"{entry.path or name} is a {entry.kind} {sides[0]} and a folder {sides[1]}",
                            remedy=f"rename or move one of the two; nothing was changed {sides[1]}")
    if not difference:
        return item("skip", f"same MD5, {entry.md5[:8]}" if entry.kind == "file" else "same link")
    if entry.kind == "link":
        return item("send", difference)
    part = part_name(entry.path or name, entry.size, entry.mtime_ns)
    begun_bytes = survey.parts.get(joined(entry.path.rpartition("/")[0], part), 0)
    if RESUME_FROM_BYTES <= begun_bytes <= entry.size:
        return item("resume", f"resumes, {of_words(begun_bytes, entry.size)} are {sides[1]}", begun_bytes)
    if entry.md5 in survey.basis and entry.size:
        return item("copy", f"{difference}, same MD5 as {survey.basis[entry.md5]}", origin=survey.basis[entry.md5])
    return item("send", difference)


def _difference(entry: Entry, there: Entry | None, sides: tuple[str, str]) -> str:
    """Return how the target's file differs from the source's; '' when it does not."""
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
