"""Words for people: sizes, names, and text of other machines, of which a terminal or a browser obeys nothing."""

from __future__ import annotations

import json
import re
from typing import Any

# What terminals and browsers obey instead of showing: Unicode's Cc, Cf, Cs, Zl and Zp, but for newline and tab, and for
# the joiners U+200C and U+200D, of which emoji and Persian are made; and the block of tags, with what will be added to
# it. tests/ssh/test_display.py compares it with Unicode's own table.
_OBEYED = ("\0-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
           "\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
           "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff")
_UNPRINTABLE = re.compile(f"[{_OBEYED}]")
_NOT_OF_A_LINE = re.compile(f"[\n\t{_OBEYED}]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]")  # and what clears the rest of a line
_RETURN = re.compile(r"\n?\r+\n?")


def size_words(count: int) -> str:
    """Bytes for people: 999 bytes, 1.5 GB."""
    if count < 1000:
        return f"{count} bytes"
    size, power = float(count), 0
    while size >= 999.5 and power < 6:  # a host may say any number
        size, power = size / 1000, power + 1
    return f"{size:.3g} {('', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def of_words(part: int, whole: int) -> str:
    """40 of 100 MB"""
    part_words, whole_words = size_words(part), size_words(whole)
    unit = whole_words.partition(" ")[2]
    return f"{part_words.removesuffix(' ' + unit)} of {whole_words}"


def printable(text: str) -> str:
    """Text of another machine as it may be printed: what a terminal would obey is escaped, `\\x1b`. Lines, tabs and
    every script stay as they are."""
    return _UNPRINTABLE.sub(_escaped, text)


def shown(text: str) -> str:
    """The same on one line."""
    return _NOT_OF_A_LINE.sub(_escaped, text)


def log_text(text: str) -> str:
    """The same of a log, which may be coloured; what a progress bar wrote over itself stands in lines of its own."""
    return printable(_RETURN.sub("\n", _COLOUR.sub("", text)))


def json_text(value: Any) -> str:
    """JSON that is legible in every script, and that no terminal obeys."""
    return _UNPRINTABLE.sub(lambda match: json.dumps(match[0])[1:-1],
                            json.dumps(value, indent=1, ensure_ascii=False, default=str))


def _escaped(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder and name else folder or name
