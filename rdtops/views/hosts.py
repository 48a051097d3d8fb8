"""Hosts: the routes to them, their keys, the servers of the lab."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from rdtops.lab.site import ServerStatus
from rdtops.ssh.trust import SeenKey
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.views import HostRow


@shown.register
def _(thing: HostRow) -> RenderableType:
    host = thing.host
    mark = styled("[bold]*[/] ") if host.default else "  "
    ping = styled("  [green]{} ms[/]", f"{thing.round_trip_s * 1000:.0f}") if thing.round_trip_s is not None else ""
    problem = styled("\n    [bold red]{}[/]", thing.problem) if thing.problem else ""
    return styled("{}[bold]{}[/]  {}  [dim]{}  {}[/]{}{}", mark, host.name, host.route_words, host.where,
                  host.workspace, ping, problem)


@shown.register
def _(thing: SeenKey) -> RenderableType:
    return Text("  ").join(styled("{}", word) for word in (
        thing.hop.name, thing.hop.known_hosts_entry, thing.kind, thing.fingerprint, thing.state))


@shown.register
def _(thing: ServerStatus) -> RenderableType:
    state = styled("[green]up[/]  ") if thing.up else styled("[dim]down[/]")
    process = f"process {thing.pid}, {thing.backend}" if thing.up else ""
    return styled("{} [bold]{}[/]  {}:{}  [dim]{}[/]", state, thing.name, thing.address, thing.port, process)


@rows.register
def _(thing: HostRow) -> list[dict[str, Any]]:
    host = thing.host
    return [{"name": host.name, "default": host.default, "route": [hop.where for hop in host.route],
             "workspace": host.workspace, "preset": host.preset, "round_trip_s": thing.round_trip_s,
             "problem": thing.problem or None}]


@rows.register
def _(thing: ServerStatus) -> list[dict[str, Any]]:
    return [asdict(thing)]
