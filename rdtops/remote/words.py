"""How a transfer puts sizes and names into words."""

from __future__ import annotations


def size_words(count: int) -> str:
    """Bytes for people: 999 bytes, 1.5 GB."""
    if count < 1000:
        return f"{count} bytes"
    size, power = float(count), 0
    while size >= 999.5:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {('', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def of_words(part: int, whole: int) -> str:
    """40 of 100 MB"""
    part_words, whole_words = size_words(part), size_words(whole)
    unit = whole_words.partition(" ")[2]
    return f"{part_words.removesuffix(' ' + unit)} of {whole_words}"


def shown(path: str) -> str:
    """Names may hold newlines and bytes that are no text; a message must not."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder and name else folder or name
