"""Typed commands: `inv` against a lab as a user runs it, with its own inventory, state and results."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rdtops.lab.site import Lab
from rdtops.ui.repository import ROOT, StepFailed

POLL_S = 0.01


class Laptop:
    """The laptop on which `inv` runs. Everything it writes is below `folder`."""

    def __init__(self, folder: Path, lab: Lab, assets: Mapping[str, str], settings: str = "") -> None:
        """`settings` are lines for each host and jump of hosts.toml."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.results = folder, folder / "results"
        hosts = folder / "hosts.toml"
        lab.write_inventory(hosts, assets)
        if settings:
            hosts.write_text(hosts.read_text().replace("known_hosts = ", f"{settings}\nknown_hosts = "))
        self._env = {**os.environ, "RDTOPS_HOSTS": str(hosts), "RDTOPS_STATE": str(folder / "state"),
                     "RDTOPS_SSH_CONFIG": str(folder / "ssh_config"), "HOME": str(folder), "COLUMNS": "200"}
        self._typed = 0

    def start(self, line: str, **env: str) -> Typed:
        """Start `inv LINE`, to read its output while it runs."""
        self._typed += 1
        return Typed(line, {**self._env, **env}, self.folder / f"{self._typed:04}")

    def type(self, line: str, *, timeout_s: float = 300.0, **env: str) -> Typed:
        """Run `inv LINE` to its end. Raise StepFailed when it takes too long."""
        typed = self.start(line, **env)
        typed.wait(timeout_s)
        return typed

    def good(self, line: str, **options: Any) -> Typed:
        """Run `inv LINE`. Raise StepFailed unless it ends with exit 0."""
        typed = self.type(line, **options)
        if typed.code:
            raise StepFailed(f"`inv {line}` ended with exit {typed.code}:\n{typed.said[-1500:]}")
        return typed


class Typed:
    """One `inv` command. Its output goes to files, so that it never blocks."""

    def __init__(self, line: str, env: Mapping[str, str], place: Path) -> None:
        self.line = line
        self.began_s = time.monotonic()
        self._out, self._err = place.with_suffix(".out"), place.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen([sys.executable, "-m", "invoke", *line.split()], cwd=ROOT, env=dict(env),
                                             stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code: None while it runs; negative when a signal ended it."""
        return self._process.poll()

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def said(self) -> str:
        return self.out + self.err

    @property
    def words(self) -> str:
        """Its output as one line, without the terminal's line breaks."""
        return " ".join(self.said.split())

    def rows(self) -> list[dict[str, Any]]:
        """Of `--json`."""
        found: list[dict[str, Any]] = json.loads(self.out)
        return found

    def until(self, happened: Callable[[], object], timeout_s: float) -> bool:
        """Wait until it `happened`; return False when the command ended or the time limit came first."""
        end_s = time.monotonic() + timeout_s
        while not happened():
            if self.code is not None or time.monotonic() > end_s:
                return bool(happened())
            time.sleep(POLL_S)
        return True

    def wait(self, timeout_s: float) -> None:
        """Wait for its end. Kill it and raise StepFailed at the time limit."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise StepFailed(f"`inv {self.line}` had not ended after {timeout_s:.0f} s:\n{self.said[-800:]}") from None

    def interrupt(self) -> None:
        """Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill it with all that it started, as when a laptop loses power."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
