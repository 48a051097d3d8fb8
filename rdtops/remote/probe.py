"""Probe: a command and a pure function that reads its output. Many travel in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rdtops.remote.far import prober

if TYPE_CHECKING:
    from rdtops.remote.connection import Connection

T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """What a probe's command printed. `code` is None when it ran into its time limit."""

    code: int | None
    out: str
    err: str
    seconds: float = 0.0

    @property
    def timed_out(self) -> bool:
        return self.code is None

    @property
    def excerpt(self) -> str:
        """A line to quote in a finding."""
        text = " ".join((self.err.strip() or self.out.strip() or "(no output)").split())
        return text if len(text) <= 200 else text[:197] + "..."


@dataclass(frozen=True)
class Probe(Generic[T]):
    """`shell` must only read; `parse` gets its Output and raises ValueError when it is not what it should be."""

    name: str
    shell: str
    parse: Callable[[Output], T]
    timeout_s: float = 20.0


@dataclass(frozen=True)
class Answer(Generic[T]):
    """Either a value, or None and the reason why there is none."""

    value: T | None
    output: Output
    problem: str = ""


def ask(connection: Connection, probes: Iterable[Probe[Any]]) -> dict[str, Answer[Any]]:
    """Run all probes at once on the host: one round trip, each with its own time limit."""
    asked = {p.name: p for p in probes}
    request = {"probes": {p.name: {"shell": p.shell, "timeout_s": p.timeout_s} for p in asked.values()}}
    longest_s = max((p.timeout_s for p in asked.values()), default=0.0)
    answers = connection.call(prober, request, timeout_s=longest_s + 20)
    return {name: _answer(probe, Output(**answers[name])) for name, probe in asked.items()}


def _answer(probe: Probe[T], output: Output) -> Answer[T]:
    if output.timed_out:
        return Answer(None, output, f"no answer within {probe.timeout_s:g} s")
    try:
        return Answer(probe.parse(output), output)
    except (ValueError, LookupError) as error:
        return Answer(None, output, f"{error} (exit {output.code}: {output.excerpt})")
