"""Fields: JSON that another machine says, or that a file holds which may be broken. Reading it raises ValueError or
nothing: a wrong kind is None, so that whoever reads says what is missing. Standard library, Python 3.8."""

from __future__ import annotations

import json
import math
import re
from typing import Any

LARGEST = 1 << 62  # of a whole number: it fits every struct, time and file offset
MOST_VALUES = 1 << 21  # of one text; each takes up to a hundred bytes of memory, whatever its two bytes of text say
_DECIMAL = re.compile(r"-?[0-9]{1,18}")


def loads(text: str | bytes | bytearray) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, is nested too deeply, or has endless numbers or too
    many values."""
    if len(text) > MOST_VALUES and _values(text) > MOST_VALUES:
        raise ValueError(f"JSON of more than {MOST_VALUES} values")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def table(value: object) -> dict[str, Any]:
    """An object's fields, none of anything else."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[dict[str, Any]]:
    """The objects of a list; whatever else it holds is left out."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def words(value: object) -> list[str]:
    """The texts of a list; whatever else it holds is left out."""
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def text(value: object) -> str:
    """'' for what is no text."""
    return value if isinstance(value, str) else ""


def whole(value: object) -> int | None:
    """A whole number, 3.0 too; None for anything else and beyond LARGEST."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        return None
    return value


def number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300 or not math.isfinite(value):
        return None
    return value


def decimal(text: str) -> int | None:
    """The whole number that a file like `exit` holds; None for anything else, an endless one too."""
    text = text.strip()
    return int(text) if _DECIMAL.fullmatch(text) else None


def _values(text: str | bytes | bytearray) -> int:
    if isinstance(text, str):
        return sum(map(text.count, ",[{"))
    return sum(map(text.count, (b",", b"[", b"{")))
