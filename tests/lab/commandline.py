"""`inv` as a person types it, against the test lab: own inventory, own state, own results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def clone_into(folder: Path, assets: Mapping[str, str]) -> Path:
    """Copy this tree as git lists it, but for its tests and pages, with the tiny assets made."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in filter(None, listed.split("\0")):
        if not file.startswith(("tests/", "docs/")) and (ROOT / file).exists():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
    for asset in ("rdt-tiny", "t5-tiny", "siglip-tiny"):
        shutil.copytree(assets[asset], folder / ".lab" / "assets" / asset)
    return folder


@dataclass(frozen=True)
class Done:
    line: str
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return f"$ inv {self.line}\n{self.out}{self.err}(exit {self.code})"

    def rows(self) -> list[dict[str, Any]]:
        return json.loads(self.out)


class CommandLine:
    """Runs `inv LINE` in `root`, this repository or a copy, with `folder` for everything it writes on the laptop."""

    def __init__(self, folder: Path, hosts: Path, root: Path = ROOT) -> None:
        self.folder = folder
        self.root = root
        self.results = folder / "results"
        self.env = {**os.environ, "RDTOPS_HOSTS": str(hosts), "RDTOPS_STATE": str(folder / "state"), "COLUMNS": "160",
                    "XDG_CONFIG_HOME": str(folder / "config"), "RDTOPS_SSH_CONFIG": str(folder / "ssh_config")}

    def __call__(self, line: str, *, timeout_s: float = 120, **env: str) -> Done:
        done = subprocess.run([sys.executable, "-m", "invoke", *line.split()], cwd=self.root, env={**self.env, **env},
                              capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL)
        assert "Traceback" not in done.stderr, done.stderr
        return Done(line, done.returncode, done.stdout, done.stderr)

    def started(self, line: str) -> subprocess.Popen[str]:
        """The same, running; whoever started it ends it."""
        return subprocess.Popen([sys.executable, "-m", "invoke", *line.split()], cwd=self.root, env=self.env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)

    def good(self, line: str, **options: Any) -> Done:
        done = self(line, **options)
        assert done.code == 0, done.said + self._log_of_a_failed_run(done)
        return done

    def _log_of_a_failed_run(self, done: Done) -> str:
        return self("logs --host lab").said if "inv logs" in done.said else ""

    def refused(self, line: str, code: int, *words: str, **options: Any) -> Done:
        """It must end with that exit code, say all of `words`, and print no traceback."""
        done = self(line, **options)
        assert done.code == code, done.said
        flat = " ".join((done.err + done.out).split())
        assert [w for w in words if w not in flat] == [], done.said
        return done
