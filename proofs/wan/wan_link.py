"""WAN link: the line between two namespaces.

A plain cable is a veth pair. Delay, rate and loss come from the kernel's netem where it has it, else from wanem, our
program between two TUN devices.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proofs.wan.namespace import Namespace, run
from proofs.wan.profile import Profile
from rdtops.errors import LabError
from rdtops.hostlib import files, processes
from rdtops.lab import lab_processes
from rdtops.lab.lab_processes import LabProcess

Shaper = Literal["netem", "wanem"]
CONGESTION_CONTROL = "cubic"  # the default of laptops; a server's may be bbr, which loss does not slow down
_START_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class End:
    namespace: Namespace
    device: str
    address: str  # of a /24

    @property
    def exists(self) -> bool:
        return f": {self.device}:" in self._devices().replace("@", ":")

    @property
    def has_cable(self) -> bool:
        return f": {self.device}@" in self._devices()

    def _devices(self) -> str:
        return self.namespace.run("ip", "-o", "link", "show")


class Link:
    def __init__(self, folder: Path, near: End, far: End, shaper: Shaper) -> None:
        self._folder = folder
        self._near = near
        self._far = far
        self._shaper = shaper

    def make(self, profile: Profile) -> None:
        """Make the line match the profile; connections survive where only the numbers change."""
        if profile.shaped and self._wanem:
            self._configure(profile)
            processes.send([self._wanem.pid], signal.SIGHUP)
            return
        self.remove()
        if profile.shaped and self._shaper == "wanem":
            self._start_wanem(profile)
        else:
            self._make_cable()
        for end in (self._near, self._far):
            if profile.shaped and self._shaper == "netem":
                _add_netem(end, profile)
            _bring_up(end)

    def remove(self) -> None:
        if self._wanem:
            pid = self._wanem.pid
            lab_processes.end_all(lambda: {pid} if LabProcess.of(pid) else set())
        if self._near.has_cable:  # removes both ends
            self._near.namespace.run("ip", "link", "delete", self._near.device)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self._near.exists or self._far.exists:  # the kernel removes a device after its program has ended
            if time.monotonic() > deadline_s:
                raise LabError(f"the line {self._near.device} cannot be removed")
            time.sleep(0.01)

    @property
    def sent_bytes(self) -> int:
        """Return the bytes sent by the near end since the line was made, including headers and retransmissions."""
        lines = self._near.namespace.run("cat", "/proc/net/dev").splitlines()
        row = next(line for line in lines if line.strip().startswith(f"{self._near.device}:"))
        return int(row.partition(":")[2].split()[8])

    # --- a cable, plain or with netem

    def _make_cable(self) -> None:
        near, far = self._near, self._far
        near.namespace.run("ip", "link", "add", near.device, "type", "veth", "peer", "name", far.device, "netns",
                           far.namespace.name)

    # --- wanem

    @property
    def _wanem(self) -> LabProcess | None:
        return LabProcess.read(self._file("process"))

    def _start_wanem(self, profile: Profile) -> None:
        near, far = self._near, self._far
        self._configure(profile)
        log = self._file("log")
        words = [str(_compiled(self._folder)), near.namespace.name, near.device, far.namespace.name, far.device,
                 str(self._file("conf"))]
        pid = near.namespace.start(words, log)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while "ready" not in log.read_text():
            if LabProcess.of(pid) is None or time.monotonic() > deadline_s:
                raise LabError(f"the line {near.device} did not come up: {log.read_text().strip()}",
                               remedy="ls -l /dev/net/tun   # a container needs this device")
            time.sleep(0.01)
        started = LabProcess.of(pid)
        assert started is not None
        started.write(self._file("process"))
        for end in (near, far):
            end.namespace.run("ip", "link", "set", end.device, "txqueuelen", "20000")  # the queue is wanem's, not here

    def _configure(self, profile: Profile) -> None:
        self._file("conf").write_text(f"{profile.rtt_ms * 500:.0f} {profile.rate_mbit:g} {profile.loss_percent:g} "
                                      f"{profile.queue_kib}\n")

    def _file(self, kind: str) -> Path:
        return self._folder / f"line-{self._near.device}.{kind}"


def kernel_has_netem(namespace: Namespace) -> bool:
    """Tell whether the kernel has netem, by trying it on a separate loopback."""
    try:
        namespace.run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
        namespace.run("tc", "qdisc", "delete", "dev", "lo", "root")
    except (LabError, OSError):
        return False
    return True


def _add_netem(end: End, profile: Profile) -> None:
    # netem loses whole super-packets: keep them small
    end.namespace.run("ip", "link", "set", end.device, "gso_max_segs", "8")
    end.namespace.run("tc", "qdisc", "add", "dev", end.device, "root", "netem", "limit", "100000",
                      "delay", f"{profile.rtt_ms * 500:.0f}us", "loss", f"{profile.loss_percent:g}%",
                      "rate", f"{profile.rate_mbit:g}mbit")


def _bring_up(end: End) -> None:
    network = end.address.rpartition(".")[0] + ".0/24"
    end.namespace.run("ip", "address", "add", f"{end.address}/24", "dev", end.device)
    end.namespace.run("ip", "link", "set", end.device, "up")
    # As an attribute of the route: the sysctl of a namespace refuses what the machine has not allowed to everybody.
    end.namespace.run("ip", "route", "change", network, "dev", end.device, "proto", "kernel", "scope", "link",
                      "src", end.address, "congctl", CONGESTION_CONTROL)


def _compiled(folder: Path) -> Path:
    program = folder / "wanem"
    source = Path(__file__).with_name("wanem.c")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        with files.replacing(program) as part:
            run(["gcc", "-O2", "-o", part, str(source), "-lpthread"])
    return program
