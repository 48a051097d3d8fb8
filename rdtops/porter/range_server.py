"""Range server: the host's end of a stream: it writes ranges into parts and reads ranges of files, on request.

    {"put": path of a part, "at": n, "size": n} ({"bytes": n} raw | {"zeros": n})*   answered by {"put": at, "crc"}
    {"get": path of a file, "entry": entry, "at": n, "size": n}                        answered by {"get": at},
                                                          ({"bytes": n} raw | {"zeros": n})*, {"got": at, "crc"}
    {"close": path}                                                                    no more requests for it

    {"read": path of a file, "size": n}                                                its MD5 will be asked for
    {"digest": path of that file}                                                      answered by {"digest_of", "md5"}
"""

from __future__ import annotations

import os

from rdtops.hostlib.fields import LARGEST
from rdtops.porter.entries import Entry, Message, Problem, count, is_full, nonsense, problem_of, raw, word
from rdtops.porter.file_digests import Digests, SourceDigest
from rdtops.porter.parts import PART, RangedPart, give
from rdtops.porter.wire import Wire


class RangeServer:
    def __init__(self, wire: Wire, digests: Digests) -> None:
        self._wire = wire
        self._digests = digests
        self._parts: dict[str, RangedPart] = {}
        self._files: dict[str, int] = {}
        self._read: dict[str, SourceDigest] = {}

    def handle(self, message: Message) -> None:
        if "put" in message:
            self._put(word(message, "put"), count(message, "at", LARGEST), count(message, "size", LARGEST))
        elif "get" in message:
            self._give(word(message, "get"), Entry.of(message.get("entry")), count(message, "at", LARGEST),
                       count(message, "size", LARGEST))
        elif "close" in message:
            self.close(word(message, "close"))
        elif "read" in message:
            self._begin_to_read(word(message, "read"), count(message, "size", LARGEST))
        elif word(message, "digest") in self._read:
            self._wire.say({"digest_of": message["digest"], "md5": self._read[message["digest"]].result()})
        else:
            raise nonsense(message, "digest")

    def _put(self, path: str, at: int, size: int) -> None:
        part = self._part(path)
        try:
            crc = part.take(self._wire, at, size)
        except OSError as error:
            if is_full(error):  # the error does not name the file system
                raise problem_of(error, place=path) from error
            raise
        self._wire.say({"put": at, "crc": crc})

    def close(self, path: str) -> None:
        if path in self._parts:
            self._parts.pop(path).close()
        if path in self._files:
            os.close(self._files.pop(path))
        if path in self._read:
            self._read.pop(path).close()

    def close_all(self) -> None:
        for path in [*self._parts, *self._files, *self._read]:
            self.close(path)

    def _begin_to_read(self, path: str, size: int) -> None:
        if path not in self._read:  # else it begins again, with the same digest
            self._read[path] = SourceDigest(raw(path), size, self._digests)
            self._read[path].add(0, size)

    def _part(self, path: str) -> RangedPart:
        if path not in self._parts:
            if not os.path.basename(path).startswith(PART):
                raise Problem("name", path, "it is not the name of a part")
            part = self._parts[path] = RangedPart(raw(path))
            part.share()
        return self._parts[path]

    def _give(self, path: str, entry: Entry, at: int, size: int) -> None:
        if path not in self._files:
            self._files[path] = os.open(raw(path), os.O_RDONLY | os.O_CLOEXEC)
        refuse_changed(self._files[path], entry)
        self._wire.say({"get": at})
        crc = give(self._wire, self._files[path], at, size)
        refuse_changed(self._files[path], entry)
        self._wire.say({"got": at, "crc": crc})


def refuse_changed(file: int, entry: Entry) -> None:
    """Raise Problem for a file that changed since the plan. One that has grown is allowed: its first bytes must have
    the planned MD5 in the end."""
    status = os.fstat(file)
    same_size = status.st_size == entry.size
    if status.st_size < entry.size or (same_size and status.st_mtime_ns != entry.mtime_ns):
        raise Problem("changed", entry.path, f"it changed since the plan was made ({entry.size} bytes then, "
                      f"{status.st_size} now)")
