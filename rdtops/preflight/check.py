"""Check: one question about a host. What it asks travels with everybody's probes; how it judges the answers is pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rdtops.checks import CheckResult
from rdtops.contract.run import RunSpec
from rdtops.ssh.hosts import Host
from rdtops.ssh.probe import Answer, Output, Probe


@dataclass(frozen=True)
class Subject:
    """A training that is to run on a host."""

    host: Host
    spec: RunSpec

    @property
    def deploy(self) -> str:
        """The remedy for whatever `inv deploy` brings."""
        return f"inv deploy --host {self.spec.host}"

    def setting(self, words: str) -> str:
        """The remedy that is a setting of the training."""
        return f"inv train --host {self.spec.host} --set {words}"

    def there(self, line: str) -> str:
        """The remedy that is a line to be typed on the host."""
        return f"{line}   # on {self.spec.host}"


@dataclass(frozen=True)
class Answers:
    """By the names of the probes; the host answered somewhere between the two times of this laptop's clock."""

    by_name: Mapping[str, Answer[Any]]
    begun_s: float
    ended_s: float

    def __getitem__(self, name: str) -> Answer[Any]:
        return self.by_name[name]


@dataclass(frozen=True)
class Check:
    """`probes` may be none where the subject needs no question; `judge` then says why."""

    group: str  # of the table: host, python, assets, network, launch
    judge: Callable[[Subject, Answers], Iterable[CheckResult]]
    probes: Callable[[Subject], Iterable[Probe[Any]]] = lambda _: ()
    of_the_trainer: bool = False  # it is about the machine that trains, which a login node is not


def last_line(output: Output) -> str:
    """What a program printed last: start-up files of the host may have spoken before it. Raises ValueError."""
    if output.code != 0:
        raise ValueError(output.err.strip()[-300:] or "it failed")
    lines = output.out.strip().splitlines()
    if not lines:
        raise ValueError("it printed nothing")
    return lines[-1]


def words(output: Output) -> list[str]:
    return output.out.split()
