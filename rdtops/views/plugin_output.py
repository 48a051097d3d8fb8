"""Plugin output: plugins, and the files of `inv plugins.new`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from rdtops.plugging.authoring import Written
from rdtops.plugging.catalog import PluginRow
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import stacked


@dataclass(frozen=True)
class PluginOutput(WorkflowOutput):
    row: PluginRow

    @property
    def exit_code(self) -> int:
        return 0 if self.row.passed else 1

    def __rich__(self) -> RenderableType:
        row, plugin = self.row, self.row.plugin
        state = ("[dim]disabled[/]" if plugin.disabled else "[bold red]broken[/]  " if plugin.problem
                 else "[green]loaded[/]  " if row.passed else "[bold red]loaded[/]  ")
        lines = [styled(state + " [bold]{}[/] {}  {}", plugin.name, plugin.version, plugin.summary),
                 *(styled("[bold red]{}[/]", problem) for problem in row.problems), styled("[dim]{}[/]", plugin.source)]
        if plugin.hooks:
            lines.append(styled("hooks: {}", ", ".join(plugin.hooks)))
        for name, option in plugin.options.items():
            at = "".join(f"; {host}: {values[name]}" for host, values in row.values.items() if name in values)
            default = "" if option.default is None else f", default {option.default}"
            lines.append(styled("{} = {}{}  [dim]{}{}[/]", name, option.kind.__name__, default, option.help, at))
        return Text("\n         ").join(lines)

    def to_json(self) -> list[dict[str, Any]]:
        row, plugin = self.row, self.row.plugin
        options = [{"name": name, "kind": o.kind.__name__, "default": o.default, "help": o.help,
                    "set": {host: values[name] for host, values in row.values.items() if name in values}}
                   for name, o in plugin.options.items()]
        return [{"name": plugin.name, "source": plugin.source, "version": plugin.version, "summary": plugin.summary,
                 "hooks": list(plugin.hooks), "options": options, "disabled": plugin.disabled,
                 "healthy": row.passed, "problems": list(row.problems), "problem": plugin.problem or None}]


@dataclass(frozen=True)
class NewPluginOutput(WorkflowOutput):
    written: Written

    def __rich__(self) -> RenderableType:
        return stacked(*(styled("[green]written[/] {}", file) for file in self.written.files),
                       *(styled("  [bold]{}[/]", line) for line in self.written.next_lines))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"file": str(file)} for file in self.written.files]
