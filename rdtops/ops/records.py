"""What this laptop remembers of runs: how far it has read each Journal, and what the plugins said of each checkpoint
and of each end.

Kept in ~/.local/state/rdtops (RDTOPS_STATE names another place). Every control machine has its own; losing it loses
no training data, the hooks of old checkpoints would only fire again.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


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

    def __init__(self, host: str, run_id: str) -> None:
        self.folder = state_folder() / "runs" / host / run_id

    @property
    def offset(self) -> int:
        """Bytes of the Journal that were read and acted upon."""
        return self._number("cursor")

    def advance(self, offset: int) -> None:
        self._keep("cursor", offset)

    @property
    def start(self) -> int:
        """Where the Journal tells of the newest start of the run. It tells one end of a resumed run from the other."""
        return self._number("start")

    def started(self, offset: int) -> None:
        self._keep("start", offset)

    def add(self, record: HookRecord) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "hooks.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record), ensure_ascii=False, default=str) + "\n")

    def hooks(self) -> list[HookRecord]:
        try:
            lines = (self.folder / "hooks.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        return [HookRecord(**json.loads(line)) for line in lines if line.endswith("}")]

    def knows(self, plugin: str, digest: str) -> bool:
        return any(r.plugin == plugin and r.digest == digest for r in self.hooks())

    def _number(self, name: str) -> int:
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):
            return 0

    def _keep(self, name: str, number: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        replacement = self.folder / f"{name}.tmp"
        replacement.write_text(str(number))
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
