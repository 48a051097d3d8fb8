"""Terminal: a console of rich on which whatever comes from a host is shown, never obeyed. Only `styled` templates are
markup; a terminal obeys rich's own colours and moves, and nothing that a text holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from rdtops.ssh.display import printable

_PLACE = re.compile("{}")


class Terminal(Console):
    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape before the lines are broken, so that what is escaped has its width."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape whatever is drawn: all of it comes through here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def styled(template: str, *values: object) -> Text:
    """Fill a template: `styled("[bold]{}[/] on {}", run, host)`. The template is markup, a value is text whatever it
    holds; a value that is styled already keeps its style."""
    parsed = Text.from_markup(template, emoji=False)
    parts = parsed.divide([end for place in _PLACE.finditer(parsed.plain) for end in place.span()])
    for number, value in zip(range(1, len(parts), 2), values, strict=True):
        parts[number] = _filled(parts[number], value)
    return Text("").join(parts)


def _filled(place: Text, value: object) -> Text:
    filled = value.copy() if isinstance(value, Text) else Text(printable(str(value)))
    for span in reversed(place.spans):
        filled.stylize_before(span.style)
    return filled
