"""Host output: routes, host keys, and the servers of the lab."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from rdtops.lab.site import ServerStatus
from rdtops.ssh.hosts import FABRIC, OPENSSH, Host
from rdtops.ssh.trust import SeenKey
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled


@dataclass(frozen=True)
class HostOutput(WorkflowOutput):
    """A host and its route, with the round trip time if measured, or the problem."""

    host: Host
    round_trip_s: float | None = None
    problem: str = ""

    @property
    def exit_code(self) -> int:
        return 3 if self.problem else 0

    def __rich__(self) -> RenderableType:
        host = self.host
        mark = styled("[bold]*[/] ") if host.default else "  "
        ping = styled("  [green]{} ms[/]", f"{self.round_trip_s * 1000:.0f}") if self.round_trip_s is not None else ""
        problem = styled("\n    [bold red]{}[/]", self.problem) if self.problem else ""
        by = styled("  [yellow]by OpenSSH: {}[/]", host.why_openssh) if host.why_openssh else ""
        example = styled("  [yellow]example[/]") if host.example else ""
        which = styled("\n    [dim]of {}, not of {}[/]", host.files[0], host.files[-1]) if len(host.files) > 1 else ""
        return styled("{}[bold]{}[/]  {}  [dim]{}  {}[/]{}{}{}{}{}", mark, host.name, host.route_words, host.where,
                      host.workspace, example, by, ping, which, problem)

    def to_json(self) -> list[dict[str, Any]]:
        host = self.host
        return [{"name": host.name, "default": host.default, "route": [hop.where for hop in host.route],
                 "workspace": host.workspace, "preset": host.preset, "example": host.example,
                 "files": list(host.files),
                 "transport": OPENSSH if host.why_openssh else FABRIC,
                 "round_trip_s": self.round_trip_s, "problem": self.problem or None}]


@dataclass(frozen=True)
class HostKeyOutput(WorkflowOutput):
    key: SeenKey

    def __rich__(self) -> RenderableType:
        return Text("  ").join(styled("{}", word) for word in self._columns())

    def to_json(self) -> list[dict[str, Any]]:
        return [dict(zip(("hop", "known_hosts_entry", "kind", "fingerprint", "state"), self._columns(), strict=True))]

    def _columns(self) -> tuple[str, ...]:
        key = self.key
        return key.hop.name, key.hop.known_hosts_entry, key.kind, key.fingerprint, key.state


@dataclass(frozen=True)
class LabServerOutput(WorkflowOutput):
    server: ServerStatus

    def __rich__(self) -> RenderableType:
        server = self.server
        state = styled("[green]up[/]  ") if server.up else styled("[dim]down[/]")
        door = f", door {server.door}" if server.door else ""
        process = f"process {server.pid}, {server.backend}{door}" if server.up else ""
        return styled("{} [bold]{}[/]  {}:{}  [dim]{}[/]", state, server.name, server.address, server.port, process)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(self.server)]
