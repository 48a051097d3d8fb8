"""Profile of a line: delay, rate, loss and queue."""

from __future__ import annotations

from dataclasses import dataclass

from rdtops.errors import LabError


@dataclass(frozen=True)
class Profile:
    """A profile. With no value set: a plain cable, as fast as the machine."""

    name: str
    rtt_ms: float = 0.0
    rate_mbit: float = 0.0
    loss_percent: float = 0.0  # each way, of the packets on the wire
    queue_kib: int = 0  # size of the queue before the line; further packets are dropped

    @property
    def shaped(self) -> bool:
        return bool(self.rtt_ms or self.rate_mbit or self.loss_percent)

    @property
    def words(self) -> str:
        if not self.shaped:
            return "no delay"
        loss = f", {self.loss_percent:g} % loss" if self.loss_percent else ""
        return f"{self.rtt_ms:g} ms, {self.rate_mbit:g} Mbit/s{loss}"


PROFILES = {profile.name: profile for profile in (
    Profile("lan"),
    Profile("wan", 40, 500, 0, 3072),
    Profile("far", 120, 300, 0.1, 4608),
    Profile("bad", 80, 1000, 1, 4096))}


def named(name: str) -> Profile:
    """Return the profile lan, wan, far, bad, or custom:RTT_MS:MBIT:LOSS_PERCENT. Raise LabError."""
    if name in PROFILES:
        return PROFILES[name]
    try:
        kind, rtt_ms, rate_mbit, loss_percent = name.split(":")
        profile = Profile(name, float(rtt_ms), float(rate_mbit), float(loss_percent),
                          max(1024, int(float(rtt_ms) * float(rate_mbit) * 1000 / 8 / 1024)))
    except ValueError:
        kind = ""
    if kind != "custom" or profile.rate_mbit <= 0:
        raise LabError(f"the WAN lab has no profile {name!r}",
                       remedy=f"one of {', '.join(PROFILES)}, or custom:RTT_MS:MBIT:LOSS_PERCENT")
    return profile
