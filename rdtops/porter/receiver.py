"""Receiver: the host's side of an upload. It obeys the control side, whose messages are checked and trusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from rdtops.hostlib.files import put_in_place
from rdtops.porter.entries import Entry, Message, Problem, flag, md5_in, nonsense, place, raw, text, word
from rdtops.porter.file_digests import Digests
from rdtops.porter.parts import part_of, spans_in
from rdtops.porter.range_server import RangeServer
from rdtops.porter.target import TransferTarget
from rdtops.porter.wire import Wire


class Receiver:
    """Receives files and reports each that is complete."""

    def __init__(self, wire: Wire, root: str, digests: Digests) -> None:
        self._wire = wire
        self._root = root
        self._target = TransferTarget(root, digests, self._say_done)
        self._range_server = RangeServer(wire, digests)
        self._begun: dict[str, Entry] = {}
        self._handlers: dict[str, Callable[[Message], None]] = {
            "file": self._file, "link": self._link, "copy": self._copy, "begin": self._begin,
            "put": self._range_server.handle,
            "close": self._range_server.handle, "kept": self._kept, "finish": self._finish, "flush": self._flush}

    def run(self) -> None:
        """Run until the sender sends end. Files that are complete when the connection is lost still get their names."""
        try:
            while "end" not in (message := self._wire.hear()):
                self._handler(message)(message)
        except Problem as problem:
            if problem.kind in ("digest", "changed"):
                self._target.drop(problem.path)
            raise
        finally:
            self._range_server.close_all()
            self._target.close()

    def _handler(self, message: Message) -> Callable[[Message], None]:
        for name, handler in self._handlers.items():
            if name in message:
                return handler
        raise nonsense(message, "file")

    def _file(self, message: Message) -> None:
        self._target.stream(self._wire, Entry.of(message["file"]), flag(message, "ask"))

    def _link(self, message: Message) -> None:
        self._target.link(Entry.of(message["link"]))

    def _copy(self, message: Message) -> None:
        entry = Entry.of(message["copy"])
        if not self._target.copy(entry, word(message, "of")):
            self._wire.say({"refused": entry.path})

    def _begin(self, message: Message) -> None:
        entry = Entry.of(message["begin"])
        self._begun[entry.path] = entry
        self._say_begun(entry)

    def _say_begun(self, entry: Entry) -> None:
        ranged = self._target.begin(entry)
        self._wire.say({"begun": entry.path, "part": text(ranged.part.path), "there": ranged.there})

    def _kept(self, message: Message) -> None:
        entry = self._named(message, "kept")
        self._target.kept(entry.path, spans_in(message, "spans", entry.size))

    def _finish(self, message: Message) -> None:
        entry = self._named(message, "finish")
        self._range_server.close(text(part_of(self._root, entry)))
        if self._target.finish(entry.path, md5_in(message, "md5")):
            del self._begun[entry.path]
        else:
            self._say_begun(entry)

    def _named(self, message: Message, name: str) -> Entry:
        """Return the entry of a file that was begun. Raise Problem."""
        if word(message, name) not in self._begun:
            raise nonsense(message, name)
        return self._begun[message[name]]

    def _flush(self, _: Message) -> None:
        self._target.commit()
        self._wire.say({"flushed": True})

    def _say_done(self, entry: Entry) -> None:
        self._wire.say({"done": entry.path, "md5": entry.md5})


def commit(folder: str, final: str, files: Sequence[Message], digests: Digests) -> None:
    """Rename a complete folder to its final name. Raise Problem when a file is missing or differs from `files`."""
    for row in files:
        path = place(folder, row["path"])
        if not os.path.isfile(path) or os.stat(path).st_size != row["size_bytes"]:
            raise Problem("incomplete", row["path"], f"it is missing in {folder} or has another size")
        if digests.of(path, row["size_bytes"]) != row["md5"]:
            raise Problem("digest", row["path"], f"its MD5 in {folder} is not {row['md5']}")
    if os.path.lexists(raw(final)):
        raise Problem("exists", final, "it exists already")
    os.makedirs(os.path.dirname(os.path.abspath(raw(final))), exist_ok=True)
    put_in_place(raw(folder), raw(final))
    for row in files:  # the cache is by path, which has changed
        path = place(final, row["path"])
        digests.learn(path, os.stat(path), row["md5"])
    digests.save()
