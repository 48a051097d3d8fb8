"""Fields: read JSON from another machine, or from a file that may be broken. `loads` raises ValueError; a value of the
wrong type becomes None or empty, so that the caller can say what is missing. Standard library, Python 3.8."""

from __future__ import annotations

import json
import math
import re
from typing import Any

LARGEST = 1 << 62  # of a whole number: it fits every struct, time and file offset
MOST_VALUES = 1 << 21  # of one text; each takes up to a hundred bytes of memory, for as little as two bytes of text
_DECIMAL = re.compile(r"-?[0-9]{1,18}")


def loads(text: str | bytes | bytearray) -> Any:
    """Parse a JSON text. Raise ValueError for one that is invalid, nested too deeply, or has too long numbers or too
    many values."""
    if len(text) > MOST_VALUES and _values(text) > MOST_VALUES:
        raise ValueError(f"JSON with more than {MOST_VALUES} values")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def table(value: object) -> dict[str, Any]:
    """Return a JSON object; {} for anything else."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; skip its other values."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def words(value: object) -> list[str]:
    """Return the strings of a list; skip its other values."""
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def text(value: object) -> str:
    """Return a string; '' for anything else."""
    return value if isinstance(value, str) else ""


def whole(value: object) -> int | None:
    """Return a whole number, also of 3.0; None for anything else and beyond LARGEST."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        return None
    return value


def number(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300 or not math.isfinite(value):
        return None
    return value


def decimal(text: str) -> int | None:
    """Return the whole number in a file like `exit`; None for anything else, also for a very long number."""
    text = text.strip()
    return int(text) if _DECIMAL.fullmatch(text) else None


def _values(text: str | bytes | bytearray) -> int:
    if isinstance(text, str):
        return sum(map(text.count, ",[{"))
    return sum(map(text.count, (b",", b"[", b"{")))
