"""Route faults of the link to a host: an SSH server of the route dies, freezes, or changes its host key."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proofs.staging.typed import Laptop
from rdtops.lab.site import Lab


@dataclass(frozen=True)
class Fault:
    """A fault of one hop, and its repair by a user. `said_as`: the name of the hop in hosts.toml, where the route goes
    through a menu bastion under the name of the host."""

    hop: str
    said_as: str = ""
    name = ""

    @property
    def named(self) -> str:
        """The name by which an error knows the hop."""
        return self.said_as or self.hop

    @property
    def words(self) -> str:
        return f"{self.hop} {self.name}"

    def strike(self, lab: Lab) -> None:
        raise NotImplementedError

    def mend(self, lab: Lab, laptop: Laptop) -> None:
        raise NotImplementedError

    def is_named(self, words: str) -> bool:
        """Tell whether an error names this hop. The route, which names all hops, does not count."""
        hop = re.escape(self.named)
        return re.search(rf"answer from {hop}\b|reach {hop} \(|{hop} closed the connection", words) is not None


class ServerKilled(Fault):
    name = "killed"

    def strike(self, lab: Lab) -> None:
        lab.kill_server(self.hop)

    def mend(self, lab: Lab, laptop: Laptop) -> None:  # noqa: ARG002
        lab.start_server(self.hop)


class Frozen(Fault):
    name = "frozen"

    def strike(self, lab: Lab) -> None:
        lab.freeze(self.hop)

    def mend(self, lab: Lab, laptop: Laptop) -> None:  # noqa: ARG002
        lab.thaw(self.hop)


class KeyChanged(Fault):
    """A reinstalled machine, or a man in the middle: until a user has compared the key, nothing may be sent."""

    name = "with another host key"

    def strike(self, lab: Lab) -> None:
        lab.change_host_key(self.hop)

    def mend(self, lab: Lab, laptop: Laptop) -> None:  # noqa: ARG002
        laptop.good("trust --host lab --yes")

    def is_named(self, words: str) -> bool:
        return re.search(rf"host key of {re.escape(self.named)} \([^)]*\).* has CHANGED", words) is not None
