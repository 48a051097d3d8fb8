"""Failing host: a real connection on which commands fail in a given way."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from rdtops.on_host import prober
from rdtops.ssh.connection import Connection, Result
from rdtops.ssh.hosts import Host
from rdtops.ssh.stream import Stream

GONE, HANGING, GARBLED, FULL = "the host is gone", "commands hang", "garbage for an answer", "the disk is full"
PATIENCE_S = 2.0  # time limit of a command that hangs, instead of the plugin's
GARBAGE = "printf 'sh: \\001\\377 ,,, {\"\\n\\n0 %%%%'"


class Troubled(Connection):
    """A real connection to the lab whose commands fail in the given way."""

    def __init__(self, host: Host, trouble: str) -> None:
        super().__init__(host)
        self.trouble = trouble
        self.commands = 0
        self._asking = False

    def call(self, program: ModuleType, request: dict[str, Any], *, timeout_s: float = 60.0) -> dict[str, Any]:
        if program is not prober or not self.trouble:
            return super().call(program, request, timeout_s=self._patience(timeout_s))
        probes = {name: {**p, "shell": self._line(p["shell"]), "timeout_s": self._patience(p["timeout_s"])}
                  for name, p in request["probes"].items()}
        self._asking = True  # the probing program works, the commands it runs fail
        try:
            return super().call(program, {"probes": probes}, timeout_s=timeout_s)
        finally:
            self._asking = False

    def run_shell(self, line: str, *, timeout_s: float = 30.0, check: bool = True, stdin: bytes = b"") -> Result:
        if self.trouble == GARBLED:
            line = self._line(line)
        return super().run_shell(line, timeout_s=self._patience(timeout_s), check=check, stdin=stdin)

    def stream(self, line: str, *, silence_s: float = 60.0, wait: bool = True, has_input: bool = True) -> Stream:
        self.commands += 1
        hangs = self.trouble == HANGING and not self._asking
        return super().stream(self._line(line) if hangs else line, wait=wait, has_input=has_input,
                              silence_s=self._patience(silence_s) if hangs else silence_s)

    def _line(self, line: str) -> str:
        return {HANGING: "exec sleep 60", GARBLED: GARBAGE}.get(self.trouble, line)

    def _patience(self, seconds: float) -> float:
        return min(seconds, PATIENCE_S) if self.trouble == HANGING else seconds


class Deranged(Troubled):
    """The same for host programs: with garbage they print it too."""

    def stream(self, line: str, *, silence_s: float = 60.0, wait: bool = True, has_input: bool = True) -> Stream:
        return super().stream(GARBAGE if self.trouble == GARBLED else line, silence_s=silence_s, wait=wait,
                              has_input=has_input)
