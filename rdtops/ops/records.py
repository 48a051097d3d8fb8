"""What this laptop remembers of runs: how far it has read each Journal, and what the plugins said of each checkpoint
and of each end.

Kept in ~/.local/state/rdtops (RDTOPS_STATE names another place). Every control machine has its own; losing it loses
no training data, the hooks of old checkpoints would only fire again.
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

from rdtops.contract import locks
from rdtops.contract.journal import append_line
from rdtops.contract.names import RunId
from rdtops.ops.news import Cursor


@dataclass(frozen=True)
class HookRecord:
    """What one plugin said of a checkpoint, of an evaluation or of an end of the run, whose name is then `checkpoint`.
    `error` is '' when it went well."""

    hook: str
    plugin: str
    checkpoint: str  # its name; of an end, the state
    digest: str  # what the record is about, the same however often it is read
    seconds: float
    time_s: float = field(default_factory=time.time)
    value: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class RunRecords:
    """The memory of one run of one host."""

    def __init__(self, host: str, run_id: RunId) -> None:
        self.folder = state_folder() / "runs" / Path(host) / run_id

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One at a time of all commands on this laptop that act upon this run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            locks.flock(file.fileno(), locks.EXCLUSIVE)
            yield

    @property
    def cursor(self) -> Cursor:
        """Up to where the Journal was read and acted upon."""
        try:
            return Cursor.from_json((self.folder / "cursor").read_text())
        except (OSError, ValueError):
            return Cursor()

    def advance(self, cursor: Cursor) -> None:
        if cursor != self.cursor:
            self._keep("cursor", cursor.to_json())

    @property
    def start(self) -> int:
        """Names the newest start of the run: its time in ms. It tells one end of a resumed run from the other."""
        try:
            return int((self.folder / "start").read_text())
        except (OSError, ValueError):
            return 0

    def started(self, time_s: float) -> None:
        self._keep("start", str(round(time_s * 1000)))

    def add(self, record: HookRecord) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self.folder / "hooks.jsonl", json.dumps(asdict(record), ensure_ascii=False, default=str),
                    flush=True)

    def hooks(self) -> list[HookRecord]:
        """All but lines that a power cut left unreadable."""
        try:
            lines = (self.folder / "hooks.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                found.append(HookRecord(**json.loads(line)))
        return found

    def knows(self, plugin: str, digest: str) -> bool:
        return any(r.plugin == plugin and r.digest == digest for r in self.hooks())

    def _keep(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        replacement = self.folder / f"{name}.{os.getpid()}.tmp"
        replacement.write_text(text)
        replacement.replace(self.folder / name)


def state_folder() -> Path:
    given = os.environ.get("RDTOPS_STATE")
    return Path(given) if given else Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "rdtops"


def remember_launch(host: str) -> None:
    """This laptop launched its last training on `host`."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "last_host").write_text(host + "\n")


def last_launch() -> str:
    """The host of the last launch from this laptop, '' when there was none."""
    try:
        return (state_folder() / "last_host").read_text().strip()
    except OSError:
        return ""
