"""Hosts: the routes to them, their keys, the servers of the lab."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from rdtops.lab.site import ServerStatus
from rdtops.ops.render.forms import rows, shown
from rdtops.ops.trust import SeenKey
from rdtops.ops.views import HostRow


@shown.register
def _(thing: HostRow) -> RenderableType:
    mark = "[bold]*[/] " if thing.host.default else "  "
    ping = f"  [green]{thing.round_trip_s * 1000:.0f} ms[/]" if thing.round_trip_s is not None else ""
    problem = f"\n    [bold red]{escape(thing.problem)}[/]" if thing.problem else ""
    return (f"{mark}[bold]{escape(thing.host.name)}[/]  {escape(thing.host.route_words)}  "
            f"[dim]{escape(thing.host.where)}  {escape(thing.host.workspace)}[/]{ping}{problem}")


@shown.register
def _(thing: SeenKey) -> RenderableType:
    return f"{escape(thing.hop.name)}  {thing.hop.known_hosts_entry}  {thing.kind}  {thing.fingerprint}  {thing.state}"


@shown.register
def _(thing: ServerStatus) -> RenderableType:
    state = "[green]up[/]  " if thing.up else "[dim]down[/]"
    process = f"process {thing.pid}, {thing.backend}" if thing.up else ""
    return f"{state} [bold]{escape(thing.name)}[/]  {thing.address}:{thing.port}  [dim]{process}[/]"


@rows.register
def _(thing: HostRow) -> list[dict[str, Any]]:
    host = thing.host
    return [{"name": host.name, "default": host.default, "route": [hop.where for hop in host.route],
             "workspace": host.workspace, "preset": host.preset, "round_trip_s": thing.round_trip_s,
             "problem": thing.problem or None}]


@rows.register
def _(thing: ServerStatus) -> list[dict[str, Any]]:
    return [asdict(thing)]
