"""Records: what this laptop remembers of runs: how far it has read each Journal, and what the plugins returned for
each checkpoint and for each end.

Kept in ~/.local/state/rdtops (RDTOPS_STATE names another folder). Every control machine has its own; losing it loses
no training data: only the hooks of old checkpoints run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rdtops.contract.config import wrong_kinds
from rdtops.hostlib import fields, files, locks
from rdtops.hostlib.names import RunId
from rdtops.runs.poller import Cursor
from rdtops.user_folders import state_folder


@dataclass(frozen=True)
class HookRecord:
    """What one plugin returned for a checkpoint, for an evaluation or for an end of the run, whose name is then
    `checkpoint`. `error` is '' when it succeeded."""

    hook: str
    plugin: str
    checkpoint: str  # its name; of an end, the state
    digest: str  # of the recorded thing, the same however often it is read
    seconds: float
    time_s: float = field(default_factory=time.time)
    value: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class RunRecords:
    """The records of one run of one host. What cannot be written is remembered as long as this object exists; `problem`
    says so, and names the file. Nothing is raised: lost state is a warning and stops no work."""

    def __init__(self, host: str, run_id: RunId) -> None:
        self.folder = state_folder() / "runs" / Path(host) / run_id
        self.problem = ""  # the first one
        self._unkept: dict[str, str] = {}  # file -> what it should hold
        self._unkept_hooks: list[HookRecord] = []

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Exclude the other commands on this laptop that act upon this run."""
        with contextlib.ExitStack() as held:
            with self._warn_of_errors("lock"):
                self.folder.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(os.fdopen(locks.opened(str(self.folder / "lock")), "rb"))
                locks.flock(file.fileno(), locks.EXCLUSIVE)
            yield

    @property
    def cursor(self) -> Cursor:
        """Return the position up to which the Journal was handled; its beginning where that is not known."""
        text = self._read("cursor")
        try:
            return Cursor.from_json(text) if text else Cursor()
        except ValueError:
            self._warn("cursor", "is damaged, so the Journal is read from its beginning")
            return Cursor()

    def advance(self, cursor: Cursor) -> None:
        if cursor != self.cursor:
            self._write("cursor", cursor.to_json())

    @property
    def start(self) -> int:
        """Return the time in ms of the newest start of the run, which distinguishes the ends of a resumed run."""
        text = self._read("start")
        time_ms = fields.decimal(text)
        if text and time_ms is None:
            self._warn("start", "is damaged, so an end of the run may be reported twice")
        return time_ms or 0

    def started(self, time_s: float) -> None:
        self._write("start", str(round(time_s * 1000)))

    def add(self, record: HookRecord) -> None:
        self._unkept_hooks.append(record)
        with self._warn_of_errors("hooks.jsonl"):
            self.folder.mkdir(parents=True, exist_ok=True)
            files.append_line(self.folder / "hooks.jsonl",
                              json.dumps(asdict(record), ensure_ascii=False, default=str), flush=True)
            self._unkept_hooks.remove(record)

    def hooks(self) -> list[HookRecord]:
        """Return all but lines that a power cut left unreadable."""
        records = []
        with self._warn_of_errors("hooks.jsonl"), contextlib.suppress(FileNotFoundError):
            for line in files.lines_of(self.folder / "hooks.jsonl"):
                with contextlib.suppress(ValueError, TypeError):
                    record = HookRecord(**fields.loads(line))
                    records += [] if wrong_kinds(record) else [record]
        return [*records, *self._unkept_hooks]

    def knows(self, plugin: str, digest: str) -> bool:
        return any(r.plugin == plugin and r.digest == digest for r in self.hooks())

    def _read(self, name: str) -> str:
        if name in self._unkept:
            return self._unkept[name]
        with self._warn_of_errors(name), contextlib.suppress(FileNotFoundError):
            return files.head_of(self.folder / Path(name)).decode("utf-8", "replace").strip()
        return ""

    def _write(self, name: str, text: str) -> None:
        self._unkept[name] = text
        with self._warn_of_errors(name):
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_whole(self.folder / Path(name), text)
            del self._unkept[name]

    @contextlib.contextmanager
    def _warn_of_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._warn(name, f"cannot be used ({error.strerror or error}), so hooks may run again next time")

    def _warn(self, name: str, what: str) -> None:
        self.problem = self.problem or f"{self.folder}/{name} {what}"


def remember_launch(host: str) -> str:
    """Record the host of this laptop's last launch. Return why that is not possible, or ''."""
    file = state_folder() / "last_host"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(file, host + "\n")
    except OSError as error:
        return (f"{file} cannot be written ({error.strerror or error}), so the default host is not remembered; "
                f"use --host {host}")
    return ""


def last_launch() -> str:
    """Return the host of the last launch from this laptop, '' when there was none."""
    return files.text_of(state_folder() / "last_host").strip()
