"""A lane's far end: it writes ranges into parts and reads ranges of files, as it is told.

    {"put": path of a part, "at": n, "size": n} ({"bytes": n} raw | {"zeros": n})*   answered by {"put": at, "digest"}
    {"get": path of a file, "entry": entry, "at": n, "size": n}                        answered by {"get": at},
                                                          ({"bytes": n} raw | {"zeros": n})*, {"got": at, "digest"}
    {"close": path}                                                                    nothing more will come for it
"""

from __future__ import annotations

import os

from rdtops.remote.far.entries import Entry, Message, Problem, raw
from rdtops.remote.far.parts import PART, RangedPart, give
from rdtops.remote.far.wire import Wire


class Laner:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._parts: dict[str, RangedPart] = {}
        self._files: dict[str, int] = {}

    def heed(self, message: Message) -> None:
        if "put" in message:
            part = self._part(message["put"])
            digest = part.take(self._wire, message["at"], message["size"])
            self._wire.say({"put": message["at"], "digest": digest})
        elif "get" in message:
            self._give(message["get"], Entry(**message["entry"]), message["at"], message["size"])
        elif "close" in message:
            self.close(message["close"])
        self._wire.flush()

    def close(self, path: str) -> None:
        if path in self._parts:
            self._parts.pop(path).close()
        if path in self._files:
            os.close(self._files.pop(path))

    def close_all(self) -> None:
        for path in [*self._parts, *self._files]:
            self.close(path)

    def _part(self, path: str) -> RangedPart:
        if path not in self._parts:
            if not os.path.basename(path).startswith(PART):
                raise Problem("name", path, "it is no part")
            part = self._parts[path] = RangedPart(raw(path))
            part.share()
        return self._parts[path]

    def _give(self, path: str, entry: Entry, at: int, size: int) -> None:
        if path not in self._files:
            self._files[path] = os.open(raw(path), os.O_RDONLY | os.O_CLOEXEC)
        refuse_changed(self._files[path], entry)
        self._wire.say({"get": at})
        digest = give(self._wire, self._files[path], at, size)
        refuse_changed(self._files[path], entry)
        self._wire.say({"got": at, "digest": digest})


def refuse_changed(file: int, entry: Entry) -> None:
    """A file that has grown may go: its first bytes must have the planned MD5 in the end."""
    status = os.fstat(file)
    same_size = status.st_size == entry.size
    if status.st_size < entry.size or (same_size and status.st_mtime_ns != entry.mtime_ns):
        raise Problem("changed", entry.path, f"it changed since the plan was made ({entry.size} bytes then, "
                      f"{status.st_size} now)")
