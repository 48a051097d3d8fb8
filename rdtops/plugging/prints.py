"""Prints of plugins: what a plugin prints goes to stderr, each line with the plugin's name. stdout has only results."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

_names: dict[int, str] = {}  # thread -> the plugin that it runs
_lock = threading.Lock()


@contextlib.contextmanager
def named(plugin: str) -> Iterator[None]:
    """Send what this thread prints to stderr, with the name of the plugin that it runs."""
    thread = threading.get_ident()
    with _lock:
        if not isinstance(sys.stdout, NamedPrints):
            sys.stdout = NamedPrints(sys.stdout)
        output: NamedPrints = sys.stdout
        _names[thread] = plugin
    try:
        yield
    finally:
        with _lock:
            output.end_line()
            del _names[thread]
            if not _names and sys.stdout is output:
                sys.stdout = output.results


class NamedPrints:
    """A stdout that knows which threads run plugins."""

    def __init__(self, results: Any) -> None:
        self.results = results
        self._open: dict[int, str] = {}  # thread -> the beginning of its line

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        plugin = _names.get(thread)
        if plugin is None:
            return int(self.results.write(text))
        *lines, self._open[thread] = (self._open.get(thread, "") + text).split("\n")
        for line in lines:
            sys.stderr.write(f"[{plugin}] {line}\n")
        return len(text)

    def end_line(self) -> None:
        """Write the line that this thread has begun."""
        thread = threading.get_ident()
        if self._open.get(thread):
            self.write("\n")
        self._open.pop(thread, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.results, name)
