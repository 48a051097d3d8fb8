"""Display: sizes, names and text of other machines for people, with terminal and browser control characters escaped."""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters: Unicode's Cc, Cf, Cs, Zl and Zp, but for newline and tab, and for the joiners U+200C and U+200D,
# which emoji and Persian need; and the whole block of tags, also its unassigned code points.
# tests/ssh/test_display.py compares it with Unicode's own table.
_OBEYED = ("\0-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
           "\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
           "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff")
_UNPRINTABLE = re.compile(f"[{_OBEYED}]")
_NOT_OF_A_LINE = re.compile(f"[\n\t{_OBEYED}]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]")  # and the sequence that clears the rest of a line
_RETURN = re.compile(r"\n?\r+\n?")


def size_words(count: int) -> str:
    """Return bytes for people: 999 bytes, 1.5 GB."""
    if count < 1000:
        return f"{count} bytes"
    size, power = float(count), 0
    while size >= 999.5 and power < 6:  # a host may say any number
        size, power = size / 1000, power + 1
    return f"{size:.3g} {('', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def of_words(part: int, whole: int) -> str:
    """Return a share of bytes for people: 40 of 100 MB."""
    part_words, whole_words = size_words(part), size_words(whole)
    unit = whole_words.partition(" ")[2]
    return f"{part_words.removesuffix(' ' + unit)} of {whole_words}"


def printable(text: str) -> str:
    """Escape the control characters in a text of another machine, `\\x1b`. Keep newlines, tabs and every script."""
    return _UNPRINTABLE.sub(_escaped, text)


def shown(text: str) -> str:
    """Escape as printable does, and newlines and tabs as well."""
    return _NOT_OF_A_LINE.sub(_escaped, text)


def log_text(text: str) -> str:
    """Escape as printable does, without the colours of a log; put each update of a progress bar on its own line."""
    return printable(_RETURN.sub("\n", _COLOUR.sub("", text)))


def json_text(value: Any, *, only_ascii: bool = False) -> str:
    """Return JSON that keeps every script and escapes control characters. `only_ascii`: escape all other scripts."""
    return _UNPRINTABLE.sub(lambda match: json.dumps(match[0])[1:-1],
                            json.dumps(value, indent=1, ensure_ascii=only_ascii, default=str))


def _escaped(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder and name else folder or name
