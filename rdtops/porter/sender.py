"""Sender: the side of a transfer that has the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from rdtops.hostlib.fields import LARGEST
from rdtops.porter.entries import Entry, Message, Problem, count, md5_in, place
from rdtops.porter.file_digests import Digests, blocks, md5_of
from rdtops.porter.range_server import refuse_changed
from rdtops.porter.wire import Wire

ASK_FROM = 1 << 26  # for a file of this size, ask for its part even when the plan has none: the plan may be old


class Sender:
    """Sends files to a receiver at the other end of a wire."""

    def __init__(self, wire: Wire, root: str, digests: Digests, handle: Callable[[Message], None] | None = None,
                 moved: Callable[[Entry, int], None] | None = None) -> None:
        """`digests` learns the MD5 of what is sent, `handle` gets the receiver's messages meanwhile, `moved` the entry
        and the bytes that were just sent."""
        self._wire = wire
        self._root = root
        self._digests = digests
        self._handle = handle or ignore
        self._moved = moved or ignore
        self.sent_bytes = 0

    def send(self, entry: Entry, ask: bool = False) -> str:
        """Send a file. Return the MD5 of what was sent. Raise Problem "changed" when the file differs from its entry,
        and tell the receiver."""
        self._handle_pending()
        if entry.kind == "link":
            self._wire.say({"link": entry._asdict()})
            return entry.md5
        path = place(self._root, entry.path)
        with open(path, "rb") as file:
            refuse_changed(file.fileno(), entry)
            first = announced(entry, ask)
            self._wire.say(first)
            offset, digest = self._agreed_prefix(file, entry) if first["ask"] else (0, hashlib.md5())
            self._wire.say({"from": offset})
            for block in blocks(file, entry.size - offset):
                digest.update(block)
                self._wire.give(block)
                self.sent_bytes += len(block)
                self._moved(entry, len(block))
                self._handle_pending()
            refuse_changed(file.fileno(), entry)
            md5: str = digest.hexdigest()
            self._digests.learn_read(path, os.fstat(file.fileno()), entry.size, md5)
        if entry.md5 and md5 != entry.md5:
            raise Problem("changed", entry.path, f"its content changed since the plan was made: MD5 {entry.md5} then, "
                          f"{md5} now")
        self._wire.say({"sent": md5})
        return md5

    def copy(self, entry: Entry, origin: str) -> None:
        """Have the receiver copy a file of its own machine."""
        self._wire.say({"copy": entry._asdict(), "of": origin})
        self._handle_pending()

    def flush(self) -> None:
        """Wait until all that was sent is complete on the other side."""
        self._wire.say({"flush": True})
        self._until("flushed")

    def end(self) -> None:
        self._wire.say({"end": True})
        self._wire.flush()

    def _agreed_prefix(self, file: BinaryIO, entry: Entry) -> tuple[int, Any]:
        part = self._until("part")
        size, md5 = count(part, "part", LARGEST), md5_in(part, "md5")
        if size <= entry.size:
            digest = md5_of(file, size)
            if digest.hexdigest() == md5:
                self._moved(entry, size)
                return size, digest
        file.seek(0)
        return 0, hashlib.md5()

    def _until(self, word: str) -> Message:
        while True:
            message = self._wire.hear()
            if word in message:
                return message
            self._handle(message)

    def _handle_pending(self) -> None:
        for message in self._wire.heard_already():
            self._handle(message)


def announced(entry: Entry, ask: bool) -> Message:
    """Return the message before the content of a file; a receiver that has a plan can predict it."""
    return {"file": entry._asdict(), "ask": ask or entry.size >= ASK_FROM}


def ignore(*_: object) -> None:
    pass
