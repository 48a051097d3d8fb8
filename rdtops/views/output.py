"""Output: what a workflow yields. To show something new, write one class beside those in rdtops.views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType


class WorkflowOutput(ABC):
    """A result of a workflow. Nothing here prints."""

    @property
    def exit_code(self) -> int:
        """0: success; 1: a check or a run failed; 3: a host cannot be reached."""
        return 0

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """Return what is shown on a terminal."""

    @abstractmethod
    def to_json(self) -> list[dict[str, Any]]:
        """Return its rows for --json."""


class LiveOutput(WorkflowOutput):
    """A result that replaces the one before it on a terminal."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Return its place on the screen, such as the host: a result replaces only an earlier one in the same place."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield its lines for a pipe, where nothing is replaced."""
