"""Mutations: an honest answer, changed at random: names, sizes, kinds, nesting, encodings, order. Standard library."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Message = dict[str, Any]

NAMES = ("", ".", "..", "../../plugins", "../../../../../x", "/etc/hostname", "a\0b", "-rf", "x" * 300, "a/b", "a\nb",
         "\x1b]52;c;cHduZWQ=\x07", "\x1b[2J", "\u202ename", "\ud800", "<script>alert(1)</script>", "[red]", "[/]",
         "{0}", "%s", "~", "$(touch pwned)", "é", "20991231-000000-mutated-0001", "step_999999", "NaN")
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**400, 1e300, -1e300, float("nan"), float("inf"), 0.5, True)
KINDS: tuple[Any, ...] = (None, [], {}, "", 0, [[]], {"": {}}, [None], {"a": "b"})


def of(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    """Yield the mutated messages."""
    yield from chance.choice(_WAYS)(copy.deepcopy(message), chance)


def _value(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    for _ in range(chance.choice((1, 1, 2, 5))):
        places = _places(message)
        if places:
            holder, key = chance.choice(places)
            holder[key] = _other(holder[key], chance)
    yield message


def _field(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    """Remove or add one key."""
    tables = [place[0][place[1]] for place in _places(message) if isinstance(place[0][place[1]], dict)]
    table = chance.choice([message, *tables])
    if table and chance.random() < 0.7:
        del table[chance.choice(list(table))]
    else:
        table[chance.choice(NAMES)] = _kind(chance)
    yield message


def _renamed(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    """Rename the message, for example a sender's to one that only a receiver may send."""
    word = chance.choice(("put", "copy", "file", "link", "begin", "finish", "kept", "close", "flush", "there", "done",
                          "refused", "error", "end", "alive", "bytes", "shrunk", "ready"))
    first = next(iter(message), "")
    yield {word: message.get(first), **{k: v for k, v in message.items() if k != first}}


def _order(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    """Send it never, twice, or after an end."""
    yield from chance.choice(([], [message, message], [{"end": True}, message], [message, {"end": True}]))


def _bytes(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    """Break the text itself."""
    text = bytearray(json.dumps(message).encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        text[at:at + chance.randint(0, 3)] = bytes(chance.choice((0, 10, 27, 34, 91, 123, 128, 195, 255))
                                                   for _ in range(chance.randint(0, 3)))
    yield bytes(text) + b"\n"


def _cut(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    text = json.dumps(message).encode()
    yield text[:chance.randrange(len(text))] + chance.choice((b"", b"\n"))


def _nested(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    deep = _kind(chance)
    for _ in range(chance.choice((3, 50, 900))):
        deep = chance.choice(([deep], {"a": deep}))
    places = _places(message)
    if places:
        holder, key = chance.choice(places)
        holder[key] = deep
    yield message


def _large(message: Message, chance: random.Random) -> Iterator[Message | bytes]:
    places = _places(message)
    if places:
        holder, key = chance.choice(places)
        holder[key] = chance.choice(("x" * 1_000_000, ["x"] * 100_000, {str(n): n for n in range(50_000)}))
    yield message


_WAYS: tuple[Callable[[Message, random.Random], Iterator[Message | bytes]], ...] = (
    _value, _value, _value, _value, _field, _field, _renamed, _order, _bytes, _cut, _nested, _large)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Yield the places of changeable values: their dict or list, and the key."""
    found: list[tuple[Any, Any]] = []
    for key in (value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
        found.append((value, key))
        found += _places(value[key])
    return found


def _other(value: Any, chance: random.Random) -> Any:
    """Return another value, mostly of the same type, so that it passes simple checks."""
    if isinstance(value, str) and chance.random() < 0.7:
        return chance.choice((*NAMES, value + chance.choice(NAMES), chance.choice(NAMES) + value))
    if isinstance(value, (int, float)) and chance.random() < 0.7:
        return chance.choice((*NUMBERS, -value, value + 1, value * 1000))
    if isinstance(value, list) and value and chance.random() < 0.5:
        return chance.choice((value * 2, value[:-1], value[::-1], [*value, _kind(chance)]))
    return chance.choice((_kind(chance), chance.choice(NAMES), chance.choice(NUMBERS)))


def _kind(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(KINDS))  # it may be changed further
