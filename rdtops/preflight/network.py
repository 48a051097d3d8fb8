"""Network checks: host keys, the rendezvous of the processes, the tracker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rdtops.checks import CheckResult
from rdtops.hostlib.fields import loads
from rdtops.preflight.check import Answers, Check, Subject, last_line
from rdtops.ssh.command import Command
from rdtops.ssh.probe import Output, Probe

WANDB = "https://api.wandb.ai"
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
# Listens on a free port of the loopback, where the processes of a training meet, and closes it.
_MEET = """\
import json, socket, sys
def ask(question):
    try:
        return question()
    except OSError as error:
        return 'OSError: ' + str(error)
def listen():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen(1)
        with socket.create_connection(s.getsockname(), 3):
            return ''
sys.stdout.write(json.dumps({
    'loopback': ask(listen), 'localhost': ask(lambda: socket.gethostbyname('localhost')),
    'name': ask(lambda: socket.gethostbyname(socket.gethostname())),
    'interfaces': [n for _, n in socket.if_nameindex()]}))
"""


def judge_host_keys(subject: Subject, _: Answers) -> Iterator[CheckResult]:
    """Report the host keys. The login checked them: it fails for an unknown or changed key."""
    route = subject.host.route
    yield CheckResult.ok("host keys", "every hop has its known host key: "
                         + ", ".join(hop.name for hop in route), ", ".join(sorted({h.known_hosts for h in route})))


def parse_rendezvous(output: Output) -> dict[str, Any]:
    facts = loads(last_line(output))
    return {"loopback": str(facts["loopback"]), "localhost": str(facts["localhost"]), "name": str(facts["name"]),
            "interfaces": [str(name) for name in facts["interfaces"]]}


def judge_rendezvous(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check that the processes of a training can meet on a free port of the loopback, and that the host's own name
    resolves, which gloo needs."""
    train, env = subject.spec.train, subject.host.env
    if train.num_processes == 1:
        yield CheckResult.skip("rendezvous", "not needed: one process")
        return
    facts = answers["rendezvous"].value
    if facts is None:
        yield CheckResult.warn("rendezvous", "could not be tested", answers["rendezvous"].problem,
                               subject.there("ip addr show lo; getent hosts localhost"))
        return
    lost = [f"{n}={env[n]}" for n in INTERFACES if n in env and not _is_there(env[n], facts["interfaces"])]
    if facts["loopback"] or not facts["localhost"].startswith("127."):
        yield CheckResult.fail("rendezvous", "the processes of a training cannot meet on this host",
                               f"127.0.0.1: {facts['loopback'] or 'OK'}; localhost: {facts['localhost']}",
                               subject.there("sudo ip link set lo up; grep localhost /etc/hosts"))
    elif lost:
        yield CheckResult.fail("rendezvous", f"{', '.join(lost)}: no such network interface",
                               f"interfaces: {', '.join(facts['interfaces'])}",
                               f"edit env of [hosts.{subject.spec.host}] in hosts.toml")
    elif facts["name"].startswith("OSError"):
        yield CheckResult.warn("rendezvous", "the host cannot resolve its own name, which gloo needs", facts["name"],
                               subject.there('echo "127.0.1.1 $(hostname)" | sudo tee -a /etc/hosts'))
    else:
        yield CheckResult.ok("rendezvous", f"{train.num_processes} processes can meet; the host is {facts['name']}")


def _is_there(wanted: str, interfaces: list[str]) -> bool:
    """Match as NCCL does: by prefix, with `=` exactly, with `^` all others."""
    if wanted.startswith("^"):
        return True
    exact = wanted.startswith("=")
    names = wanted.removeprefix("=").split(",")
    return any(i == n if exact else i.startswith(n) for n in names for i in interfaces)


def parse_login(output: Output) -> str:
    """Parse `netrc`, when ~/.netrc has the server, or `none`; its content is never read."""
    word = last_line(output).strip()
    if word not in ("netrc", "none"):
        raise ValueError("unexpected answer")
    return word


def judge_tracker(subject: Subject, answers: Answers) -> Iterator[CheckResult]:
    """Check the tracker's login. A failing tracker does not stop a training; only its curves are missing."""
    train, env = subject.spec.train, subject.host.env
    mode = env.get("WANDB_MODE", train.wandb_mode)
    if train.tracker != "wandb":
        also = "" if train.tracker == "off" else f" and {train.tracker}"
        yield CheckResult.ok("tracker", f"metrics.jsonl{also}: no login is needed")
    elif mode != "online":
        yield CheckResult.ok("tracker", f"wandb, {mode}: no login is needed")
    elif "WANDB_API_KEY" in subject.host.secrets:
        yield CheckResult.ok("tracker", "wandb, with the WANDB_API_KEY of this laptop")
    elif "WANDB_API_KEY" in env:
        yield CheckResult.ok("tracker", "wandb, with the WANDB_API_KEY of hosts.toml")
    elif answers["tracker"].value == "netrc":
        yield CheckResult.ok("tracker", f"wandb, logged in to {_wandb_server(subject)} on the host")
    else:
        yield CheckResult.warn("tracker", f"wandb is not logged in to {_wandb_server(subject)}: it would get no curves",
                               answers["tracker"].problem or "no WANDB_API_KEY in hosts.toml, no ~/.netrc on the host",
                               f"wandb login   # on {subject.spec.host}; or: "
                               + subject.setting("wandb_mode=offline"))


def _wandb_server(subject: Subject) -> str:
    return subject.host.env.get("WANDB_BASE_URL", WANDB).partition("://")[2].partition("/")[0]


def _rendezvous_probes(subject: Subject) -> list[Probe[Any]]:
    if subject.spec.train.num_processes == 1:
        return []
    return [Probe("rendezvous", Command(subject.host.python, "-c", _MEET).shell(), parse_rendezvous, timeout_s=15)]


def _tracker_probes(subject: Subject) -> list[Probe[Any]]:
    if subject.spec.train.tracker != "wandb":
        return []
    known = Command("grep", "-qsF", "--", f"machine {_wandb_server(subject)}").shell()
    return [Probe("tracker", f'{known} "${{NETRC:-$HOME/.netrc}}" && echo netrc || echo none', parse_login)]


CHECKS = (
    Check("network", judge_host_keys),
    Check("network", judge_rendezvous, _rendezvous_probes),
    Check("network", judge_tracker, _tracker_probes),
)
