"""Scripted host: test plugins without a host, and with the answers of broken hosts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from rdtops.contract.config import override, preset
from rdtops.contract.run import ASSETS, RunSpec
from rdtops.errors import PluginError
from rdtops.hostlib.fields import loads
from rdtops.hostlib.names import RunId
from rdtops.on_host import prober
from rdtops.plugging import discovery
from rdtops.plugging.discovery import Plugin, Source
from rdtops.ssh.connection import Connection, Result
from rdtops.ssh.hosts import Host
from rdtops.ssh.probe import Output


class ScriptedConnection(Connection):
    """A connection that answers probes by their names and commands by their first word; anything else answers as a
    missing program. `asked` holds every shell line. It never uses a network.

    >>> connection = ScriptedConnection(make_host(), scratch=said("12345678\\n"), mkdir=said(""))
    """

    def __init__(self, host: Host, **answers: Output) -> None:
        super().__init__(host)
        self.answers = answers
        self.asked: list[str] = []

    @property
    def home(self) -> str:
        return f"/home/{self.host.user}"

    def open(self) -> Connection:
        return self

    def call(self, program: ModuleType, request: dict[str, Any], *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Answer probes as described; answer your own host program with the JSON of the answer of its name."""
        if program is not prober:
            answer: dict[str, Any] = loads(self._answer(program.__name__.rpartition(".")[2]).out)
            return answer
        self.asked += [p["shell"] for p in request["probes"].values()]
        return {name: vars(self._answer(name)) for name in request["probes"]}

    def run_shell(self, line: str, *, timeout_s: float = 30.0, check: bool = True, stdin: bytes = b"") -> Result:
        self.asked.append(line)
        answer = self._answer(line.split()[0])
        return self._checked(Result(line, 124 if answer.code is None else answer.code, answer.out, answer.err), check)

    def stream(self, line: str, *, silence_s: float = 0.0, wait: bool = True, has_input: bool = True) -> Any:
        raise AssertionError(f"a stream cannot be scripted: {line[:200]}")

    def _answer(self, name: str) -> Output:
        return self.answers.get(name, Output(127, "", f"sh: 1: {name}: not found"))


def said(text: str, code: int | None = 0, err: str = "") -> Output:
    """Build an answer: stdout of a command, its exit code (None: it exceeded its time limit) and its stderr."""
    return Output(code, text, err)


BROKEN = {
    "empty": said(""),
    "garbage": said("\x00\ufffd### ,,,, \n\n,"),
    "truncated": said("0, NVIDIA A8"),
    "chinese": said("NVIDIA-SMI 失败，因为它无法与 NVIDIA 驱动程序通信。\n", 9),
    "very long": said("x," * 100_000),
    "timed out": said("", None),
}
"""Broken answers that every parser must handle, by name: for pytest.mark.parametrize."""


def make_host(**values: Any) -> Host:
    """Make a host without a network; `plugins={"scratch": {...}}` are its options."""
    return Host(**{"name": "h", "address": "192.0.2.1", **values})


def make_spec(*settings: str, name: str = "libero_single_task", host: str = "h", workspace: str = "/w") -> RunSpec:
    """Make the RunSpec of a preset with `key=value` settings; its assets are in `workspace`/assets."""
    train = override(preset(name), settings)
    return RunSpec(RunId("20261124-101530-x-3fa9"), host, "now", workspace, f"{workspace}/releases/s", "s",
                   {role: f"{workspace}/assets/{getattr(train, role)}" for role in ASSETS}, train)


def load(plugin: str | Path | ModuleType) -> Plugin:
    """Load a plugin by the name under which rdtops finds it, by its file, or as a module (or its name), and check it as
    rdtops does. Raise PluginError with the reason if it cannot be used."""
    loaded = discovery.loaded(_source(plugin))
    if loaded.problem:
        raise PluginError(f"the plugin {loaded.name} cannot be used: {loaded.problem}", remedy="inv plugins")
    return loaded


def _source(plugin: str | Path | ModuleType) -> Source:
    if isinstance(plugin, ModuleType):
        return Source(plugin.__name__, getattr(plugin, "__file__", None) or plugin.__name__, "", lambda: plugin)
    file = Path(plugin)
    if file.suffix == ".py":
        return discovery.of_file(file)
    known = {source.name: source for source in discovery.sources()}
    name = str(plugin)
    return known.get(name) or Source(name, name, "", lambda: importlib.import_module(name))
