"""Templating: HTML and Markdown from texts of other machines. A template escapes every value by default; Markup is
output of a template. The files are also read with `cat`, so control characters are escaped.

Every HTML template may extend `frame.html` and import `parts.html`: the look of our pages, and a policy by which a
browser loads nothing from a network and runs no script but ours.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from markupsafe import Markup

from rdtops.contract.tally import number_words
from rdtops.hostlib import files
from rdtops.ssh.display import printable, shown

if TYPE_CHECKING:
    from jinja2 import BaseLoader, Environment, Template

_SHARED = Path(__file__).parent / "templates"
_SCRIPT: Final = "films.js"  # the speed of videos; a page is complete without it
# Words and numbers with single punctuation marks between them: no Markdown syntax, and no link
_PLAIN = re.compile(r"(?!(?i:www)\.)[^\W_]+(?:(?:[,:;] |[ _.,:/+=-])[^\W_]+)*(?: %)?")


def html(loader: BaseLoader | None = None) -> Environment:
    """Return the environment of HTML templates: `{{ value }}` is text or a whole attribute; use `address` for URLs."""
    made = _environment(loader, printable, autoescape=True)
    script = (_SHARED / _SCRIPT).read_text(encoding="utf-8")
    made.filters.update(address=address, percent=_percent)
    made.globals.update(script=Markup(script), policy=_policy(script))  # noqa: S704  # ours
    return made


def html_page(template: str) -> Template:
    return html().from_string(template)


def markdown(loader: BaseLoader | None = None) -> Environment:
    """Return the environment of Markdown templates: `{{ value }}` is inline text; `code` makes it code, `word` a word
    of a command line."""
    made = _environment(loader, _inline, autoescape=False)
    made.filters.update(code=_code, word=_word)
    return made


def address(path: object) -> str:
    """Return a relative path for `src` or `href`; escape the colon of a scheme too."""
    return quote(str(path).lstrip("/"), errors="surrogatepass")


def write(path: Path, page: str) -> Path:
    """Write a page, unless the file has the same content already. Raise OSError."""
    content = page.encode("utf-8", "replace")
    with suppress(OSError):
        if not path.is_symlink() and files.head_of(path, len(content) + 1) == content:
            return path
    files.write_whole(path, content)
    return path


def text(value: object) -> str:
    """Return the text of any value of a JSON file."""
    try:
        return str(value)
    except (ValueError, RecursionError):  # a number or a nesting that is too large
        return "?"


def _environment(loader: BaseLoader | None, form: Callable[[str], str], *, autoescape: bool) -> Environment:
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined  # few commands need it

    def finalize(value: object) -> object:
        return value if hasattr(value, "__html__") else form(text(value))

    loaders = [*([loader] if loader else []), FileSystemLoader(_SHARED)]
    made = Environment(loader=ChoiceLoader(loaders), autoescape=autoescape, undefined=StrictUndefined,  # noqa: S701
                       finalize=finalize, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters["number"] = number_words
    return made


def _percent(share: float) -> str:
    """Return a fraction of 1 as a place on an axis."""
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def _policy(script: str) -> str:
    """Return the Content-Security-Policy of our pages."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "media-src 'self' file: data:; base-uri 'none'; form-action 'none'")


def _inline(words: str) -> str:
    return words if not words or _PLAIN.fullmatch(words) else str(_code(words))


def _code(value: object) -> Markup:
    words = shown(text(value))
    ticks = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    gap = " " if not words or words[0] in " `" or words[-1] in " `" else ""
    return Markup(ticks + gap + words + gap + ticks)  # noqa: S704  # escaped above


def _word(value: object) -> Markup:
    return Markup(shlex.quote(shown(text(value))))  # noqa: S704  # in an indented block, which is code
