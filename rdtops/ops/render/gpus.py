"""What nvidia-smi says."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

from rdtops.ops.render.forms import rows, shown
from rdtops.ops.render.words import clock, verbatim
from rdtops.ops.workflows import Gpus


@shown.register
def _(thing: Gpus) -> RenderableType:
    return Group(f"[bold]{escape(thing.host)}[/]  {clock(time.time())}", verbatim(thing.text.rstrip()))


@rows.register
def _(thing: Gpus) -> list[dict[str, Any]]:
    return [{"host": thing.host, **row} for row in thing.rows]
