"""Plugins, and what `inv plugins.new` wrote."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from rdtops.plugging.authoring import Written
from rdtops.plugging.catalog import PluginRow
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.words import stacked


@shown.register
def _(thing: PluginRow) -> RenderableType:
    plugin = thing.plugin
    state = ("[dim]left out[/]" if plugin.disabled else "[bold red]broken[/]  " if plugin.problem
             else "[green]loaded[/]  " if thing.passed else "[bold red]loaded[/]  ")
    lines = [styled(state + " [bold]{}[/] {}  {}", plugin.name, plugin.version, plugin.summary),
             *(styled("[bold red]{}[/]", problem) for problem in thing.problems), styled("[dim]{}[/]", plugin.source)]
    if plugin.hooks:
        lines.append(styled("hooks: {}", ", ".join(plugin.hooks)))
    for name, option in plugin.options.items():
        at = "".join(f"; {host}: {values[name]}" for host, values in thing.values.items() if name in values)
        lines.append(styled("{} = {}, default {}  [dim]{}{}[/]", name, option.kind.__name__, option.default,
                            option.help, at))
    return Text("\n         ").join(lines)


@shown.register
def _(thing: Written) -> RenderableType:
    return stacked(*(styled("[green]written[/] {}", file) for file in thing.files),
                   *(styled("  [bold]{}[/]", line) for line in thing.next_lines))


@rows.register
def _(thing: PluginRow) -> list[dict[str, Any]]:
    plugin = thing.plugin
    options = [{"name": name, "kind": o.kind.__name__, "default": o.default, "help": o.help,
                "set": {host: values[name] for host, values in thing.values.items() if name in values}}
               for name, o in plugin.options.items()]
    return [{"name": plugin.name, "source": plugin.source, "version": plugin.version, "summary": plugin.summary,
             "hooks": list(plugin.hooks), "options": options, "disabled": plugin.disabled,
             "healthy": thing.passed, "problems": list(thing.problems), "problem": plugin.problem or None}]


@rows.register
def _(thing: Written) -> list[dict[str, Any]]:
    return [{"file": str(file)} for file in thing.files]
