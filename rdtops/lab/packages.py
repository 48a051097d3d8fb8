"""System packages of the lab and a GPU host: which programs are missing, and how to install them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rdtops.errors import LabError

_SERVICES = {"sshd": ("ssh.service", "ssh.socket"), "munged": ("munge.service",),
             "slurmctld": ("slurmctld.service",), "slurmd": ("slurmd.service",)}
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"  # often not on an ordinary user's PATH
_INSTALL_TIMEOUT_S = 600
_POLICY = Path("/usr/sbin/policy-rc.d")  # Debian runs it before a package starts a service
_FORBID_STARTING = "#!/bin/sh\nexit 101\n"


@dataclass(frozen=True)
class SystemProgram:
    name: str
    package: str


PROGRAMS = (SystemProgram("sshd", "openssh-server"), SystemProgram("rsync", "rsync"), SystemProgram("tmux", "tmux"))
SHELLS = (SystemProgram("zsh", "zsh"), SystemProgram("fish", "fish"), SystemProgram("tcsh", "tcsh"),
          SystemProgram("locale-gen", "locales"))  # of the tests with other people's login shells and languages
KERBEROS = (SystemProgram("krb5kdc", "krb5-kdc"), SystemProgram("kadmin.local", "krb5-admin-server"),
            SystemProgram("kinit", "krb5-user"))  # of the tests of logins with a ticket
CLUSTER = (SystemProgram("munged", "munge"), SystemProgram("slurmctld", "slurmctld"), SystemProgram("slurmd", "slurmd"),
           SystemProgram("sbatch", "slurm-client"))  # of the tests with a cluster (proofs.slurm_cluster)
BROWSER = (SystemProgram("chromium", "chromium"),)  # of the tests that look at pages; 113 MB
BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # any of them will do


def missing(find: Callable[[str], str | None] | None = None,
            wanted: Sequence[SystemProgram] = PROGRAMS) -> tuple[SystemProgram, ...]:
    return tuple(program for program in wanted if not (find or _find)(program.name))


def browser() -> str:
    """Return the program of a browser that speaks Chromium's protocol; '' where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), "")


def install_command(programs: Sequence[SystemProgram]) -> str:
    """Return the command to type; empty when nothing is missing."""
    if not programs:
        return ""
    return f"sudo apt-get update && sudo apt-get install -y {' '.join(program.package for program in programs)}"


def can_install() -> bool:
    """Tell whether this is root on Debian or Ubuntu."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_missing(say: Callable[[str], None],
                    wanted: Sequence[SystemProgram] = PROGRAMS) -> tuple[SystemProgram, ...]:
    """Install what is missing, without starting any service. Return what was installed.

    Raise LabError: not root, no apt-get, or apt-get failed (with the end of its output).
    """
    programs = missing(wanted=wanted)
    if not programs:
        return ()
    names = ", ".join(program.package for program in programs)
    if not can_install():
        raise LabError(f"missing: {names}", remedy=install_command(programs))
    say(f"installing {names}")
    with _no_service_starts():
        _apt_get("update")
        _apt_get("install", "-y", "--no-install-recommends", *(program.package for program in programs))
    _keep_off(programs)
    still = missing(wanted=wanted)
    if still:
        raise LabError(f"apt-get installed {names}, but {', '.join(p.name for p in still)} is still missing")
    return programs


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_SBIN)


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    command = ["apt-get", "-q", *arguments]
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
                              timeout=_INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)} took more than {_INSTALL_TIMEOUT_S} s") from error
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout[-2000:]}")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Prevent that a package starts its service: the lab runs its own sshd. An existing policy stays."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text(_FORBID_STARTING, encoding="utf-8")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _keep_off(programs: Sequence[SystemProgram]) -> None:
    """Disable the services of packages: with systemd, a package also enables its service for the next boot."""
    services = [service for program in programs for service in _SERVICES.get(program.name, ())]
    if services and Path("/run/systemd/system").exists():
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["systemctl", "disable", *services], capture_output=True, timeout=60, check=False)
