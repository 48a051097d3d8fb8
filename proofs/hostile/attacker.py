"""Attacker: set how a GPU host of the lab answers the laptop from now on.

    hostile = HostileHost(lab, "lab")
    hostile.prepare()
    hosts.toml: python = hostile.python         # of that host
    hostile.plays("run_id_outside")             # "honest" ends it
"""


from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proofs.hostile import hostile_python
from rdtops.lab.site import Lab

_SCRIPT = """\
#!/bin/sh
# Written by the rdtops lab: the Python of a hostile host.
exec {python} -S -u -c 'import sys; sys.path.insert(0, "{root}")
from proofs.hostile import hostile_python
hostile_python.main()' {folder} "$@"
"""


@dataclass(frozen=True)
class Said:
    """A message of a host program to the laptop."""

    kind: str  # its first key
    is_changed: bool


@dataclass
class HostileHost:
    """A host of the lab, and its hostile behaviour."""

    lab: Lab
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # facts about laptop and host for the plays

    @property
    def folder(self) -> Path:
        return self.lab.folder(self.name) / "hostile"

    @property
    def python(self) -> str:
        return str(self.folder / "python")

    def prepare(self) -> None:
        self.folder.mkdir(exist_ok=True)
        script = Path(self.python)
        script.write_text(_SCRIPT.format(python=sys.executable, root=Path(__file__).parents[2], folder=self.folder))
        script.chmod(0o755)
        self.plays("honest")

    def plays(self, play: str, **settings: Any) -> None:
        """Start a play."""
        for path, text in self.files_of(play, **settings).items():
            Path(path).write_text(text)

    def files_of(self, play: str, *, log: str = "", **settings: Any) -> Mapping[str, str]:
        """Return the files that start a play when written: path -> text. `log` separates its messages from others."""
        told = {"play": play, "log": log, **self.facts, **settings}
        return {str(self.folder / hostile_python.SETTINGS): json.dumps(told),
                str(self.folder / f"{hostile_python.SAID}{log}"): "",
                str(self.folder / f"{hostile_python.HEARD}{log}"): ""}

    def said(self, log: str = "") -> list[Said]:
        """Return the messages sent to the laptop since then."""
        return [Said(line.rstrip("*"), line.endswith("*"))
                for line in (self.folder / f"{hostile_python.SAID}{log}").read_text().splitlines()]

    def heard(self, log: str = "") -> str:
        """Return the answers of the laptop since then: the lines of JSON among them."""
        return (self.folder / f"{hostile_python.HEARD}{log}").read_text(errors="replace")

    def lies_about(self, program: str, script: str) -> None:
        """Replace a program of the host's shell by `script`: nvidia-smi, find, ls."""
        path = self.lab.folder(self.name) / "bin" / program
        kept = self.folder / f"honest-{program}"
        if path.exists() and not kept.exists():
            shutil.copy2(path, kept)
        path.write_text(script)
        path.chmod(0o755)

    def tells_the_truth(self) -> None:
        """Undo every `lies_about`, and end every play."""
        for path in (self.lab.folder(self.name) / "bin").iterdir():
            kept = self.folder / f"honest-{path.name}"
            if kept.exists():
                shutil.copy2(kept, path)
            elif path.name in LIES:
                path.unlink()
        self.plays("honest")


LIES = ("find", "ls")  # programs that are not the lab's own
