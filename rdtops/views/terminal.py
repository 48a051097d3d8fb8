"""Terminal: a rich console that escapes all text from a host. Only `styled` templates are markup; the terminal gets
rich's own colours and cursor moves, and no control code of a text."""

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
    """A console that escapes control codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape before lines are wrapped, so that the escaped text has the right width."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape everything that is drawn."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def styled(template: str, *values: object) -> Text:
    """Fill a template: `styled("[bold]{}[/] on {}", run, host)`. The template is markup, a value is always plain
    text; a styled value keeps its style."""
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
