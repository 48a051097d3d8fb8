"""Plugins, and what `inv plugins.new` wrote."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from rdtops.ops.authoring import Written
from rdtops.ops.catalog import PluginRow
from rdtops.ops.render.forms import rows, shown


@shown.register
def _(thing: PluginRow) -> RenderableType:
    plugin = thing.plugin
    state = ("[dim]left out[/]" if plugin.disabled else "[bold red]broken[/]  " if plugin.problem
             else "[green]loaded[/]  " if thing.passed else "[bold red]loaded[/]  ")
    lines = [f"{state} [bold]{escape(plugin.name)}[/] {escape(plugin.version)}  {escape(plugin.summary)}",
             *(f"[bold red]{escape(problem)}[/]" for problem in thing.problems),
             f"[dim]{escape(plugin.source)}[/]"]
    if plugin.hooks:
        lines.append("hooks: " + ", ".join(plugin.hooks))
    for name, option in plugin.options.items():
        at = "".join(f"; {host}: {values[name]}" for host, values in thing.values.items() if name in values)
        lines.append(f"{escape(name)} = {option.kind.__name__}, default {escape(str(option.default))}  "
                     f"[dim]{escape(option.help)}{escape(at)}[/]")
    return "\n         ".join(lines)


@shown.register
def _(thing: Written) -> RenderableType:
    return "\n".join([*(f"[green]written[/] {escape(str(file))}" for file in thing.files),
                      *(f"  [bold]{escape(line)}[/]" for line in thing.next_lines)])


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
