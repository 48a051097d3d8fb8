"""Check: one question about a host. Its probes travel with those of the other checks; its judgement is pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
    local: Mapping[str, Path] = field(default_factory=dict)  # role -> folder: the assets that are on this laptop too
    resumes: bool = False  # from the newest checkpoint of its run folder
    fresh: bool = False  # nothing that an earlier check learned counts

    @property
    def deploy(self) -> str:
        """The remedy for anything that `inv deploy` sends."""
        return f"inv deploy --host {self.spec.host}"

    def setting(self, words: str) -> str:
        """Return a remedy that is a setting of the training."""
        return f"inv train --host {self.spec.host} --set {words}"

    def there(self, line: str) -> str:
        """Return a remedy that is a command on the host."""
        return f"{line}   # on {self.spec.host}"


@dataclass(frozen=True)
class Answers:
    """Answers by the name of the probe; the host answered between the two times of this laptop's clock."""

    by_name: Mapping[str, Answer[Any]]
    begun_s: float
    ended_s: float

    def __getitem__(self, name: str) -> Answer[Any]:
        return self.by_name[name]


@dataclass(frozen=True)
class Check:
    """A check of a group. `probes` may be empty where the subject needs none; `judge` then says why."""

    group: str  # in the table: host, python, assets, network, launch
    judge: Callable[[Subject, Answers], Iterable[CheckResult]]
    probes: Callable[[Subject], Iterable[Probe[Any]]] = lambda _: ()
    of_the_trainer: bool = False  # about the machine that trains, so not about a login node


def last_line(output: Output) -> str:
    """Return the last line of a program's output: start-up files of the host may print before it. Raises ValueError."""
    if output.code != 0:
        raise ValueError(output.err.strip()[-300:] or "it failed")
    lines = output.out.strip().splitlines()
    if not lines:
        raise ValueError("it printed nothing")
    return lines[-1]


def words(output: Output) -> list[str]:
    return output.out.split()
