"""Entry words of a door: the password of the jump host, or a one-time code that is used up.

As a program it is what PAM runs: it reads the word from stdin; exit 0 when it is right.
"""

from __future__ import annotations

import hmac
import sys
from pathlib import Path

from rdtops.hostlib import locks


def is_right(file: Path, word: str) -> bool:
    """Tell whether a word opens the door. A file `codes` has one code a line, and loses the one that was used."""
    with file.open("r+", encoding="utf-8") as words:
        locks.flock(words.fileno(), locks.EXCLUSIVE)
        known = words.read().splitlines()
        right = [one for one in known if hmac.compare_digest(one.encode(), word.encode())]
        if right and file.name == "codes":
            words.seek(0)
            words.writelines(f"{one}\n" for one in known if one not in right)
            words.truncate()
    return bool(right)


def main() -> None:
    """End with exit code 1 for a wrong word."""
    typed = sys.stdin.buffer.read().split(b"\0")[0].decode(errors="replace")
    if not is_right(Path(sys.argv[1]), typed):
        raise SystemExit(1)
