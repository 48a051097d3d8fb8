"""Pages: HTML and Markdown from texts of other machines. A template escapes every value by default; Markup is output of
a template. The files are also read with `cat`, so control characters are escaped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from markupsafe import Markup

from rdtops.contract.tally import number_words
from rdtops.hostlib import files
from rdtops.ssh.display import printable, shown

if TYPE_CHECKING:
    from jinja2 import BaseLoader, Environment, Template

# Words and numbers with single punctuation marks between them: no Markdown syntax, and no link
_PLAIN = re.compile(r"(?!(?i:www)\.)[^\W_]+(?:(?:[,:;] |[ _.,:/+=-])[^\W_]+)*(?: %)?")


def html(loader: BaseLoader | None = None) -> Environment:
    """Return the environment of HTML templates: `{{ value }}` is text or a whole attribute; use `address` for URLs."""
    made = _environment(loader, printable, autoescape=True)
    made.filters["address"] = address
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
    from jinja2 import Environment, StrictUndefined  # here, because few commands write a page

    def finalize(value: object) -> object:
        return value if hasattr(value, "__html__") else form(text(value))

    made = Environment(loader=loader, autoescape=autoescape, undefined=StrictUndefined, finalize=finalize,  # noqa: S701
                       trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters["number"] = number_words
    return made


def _inline(words: str) -> str:
    return words if not words or _PLAIN.fullmatch(words) else str(_code(words))


def _code(value: object) -> Markup:
    words = shown(text(value))
    ticks = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    gap = " " if not words or words[0] in " `" or words[-1] in " `" else ""
    return Markup(ticks + gap + words + gap + ticks)  # noqa: S704  # escaped above


def _word(value: object) -> Markup:
    return Markup(shlex.quote(shown(text(value))))  # noqa: S704  # in an indented block, which is code
