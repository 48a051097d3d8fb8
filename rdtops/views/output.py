"""Output: what a workflow yields. To show something new, write one class beside those in rdtops.views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType


class WorkflowOutput(ABC):
    """Something that a workflow found or did. Nothing here prints."""

    @property
    def exit_code(self) -> int:
        """0: good; 1: a check or a run failed; 3: a host cannot be reached."""
        return 0

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """Return what a person sees of it."""

    @abstractmethod
    def to_json(self) -> list[dict[str, Any]]:
        """Return its rows for --json."""


class LiveOutput(WorkflowOutput):
    """On a terminal it takes the place of the one before it."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Name its place on the screen: what is shown of one host replaces only what was shown of that host."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield its lines for a pipe, where nothing is replaced."""
