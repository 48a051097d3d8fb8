"""OpenSSH errors: what `ssh` writes to stderr when it gets nowhere, as our errors with the next command. Quick to
import, for the transfer program. The first row that matches decides: what is certain comes before what is vague."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rdtops.errors import (
    AuthenticationFailed,
    CommandFailed,
    ConfigError,
    ConnectionLost,
    HostKeyError,
    RdtopsError,
    Unreachable,
)
from rdtops.ssh.hosts import Host

QUOTED_CHARS = 300  # of a line of stderr
# Python 2, Python 3.6, and one that was built without zlib:
UNFIT_PYTHON = re.compile(r"Unknown option: -I|future feature annotations is not defined|No module named '?zlib")


class Refused(Unreachable):
    """A hop that accepts no more logins now."""


@dataclass(frozen=True)
class Row:
    """`says` and `remedy` may use {hop}, {hop_name}, {route}, {name} and the groups of the pattern: {0}, {1}. `hop`:
    the one that we are not logged in to, or with `of_jump` the last one that we are."""

    pattern: str
    kind: type[RdtopsError]
    says: str
    remedy: str
    of_jump: bool = False


TRUST, PING = "inv trust --host {name}", "inv hosts --ping --host {name}"
CHECK_USER = "check user and identity_file of {hop_name} in hosts.toml, or User and IdentityFile in ~/.ssh/config"
RERUN = PING + "   # then run the same command again"
IN_CONFIG = "in ~/.ssh/config, under the Host of {hop_name}: "
ADMINISTRATOR = "ask the administrator of {hop_name}"
TABLE = (
    Row(r"IDENTIFICATION HAS CHANGED", HostKeyError, "the host key of {hop} has CHANGED. Either the machine was "
        "reinstalled, or this is a man-in-the-middle attack", TRUST),
    Row(r"host key .*revoked|REVOKED HOST KEY", HostKeyError, "the host key of {hop} is revoked in known_hosts",
        ADMINISTRATOR + " for its new key"),
    Row(r"Host key verification failed|host key is known for", HostKeyError, "the host key of {hop} is not known",
        TRUST),
    Row(r"no matching (host key type|key exchange method|cipher|MAC) found\. Their offer: (\S+)", Unreachable,
        "{hop} is too old for this OpenSSH: no matching {0}; it offers {1}",
        IN_CONFIG + "HostKeyAlgorithms +ssh-rsa, PubkeyAcceptedAlgorithms +ssh-rsa, as it offers"),
    Row(r"Invalid key length|no mutual signature algorithm", Unreachable, "{hop} and this OpenSSH have no key "
        "algorithm in common", IN_CONFIG + "PubkeyAcceptedAlgorithms +ssh-rsa"),
    Row(r"Too many authentication failures", AuthenticationFailed, "permission denied by {hop}: too many keys were "
        "offered", IN_CONFIG + "IdentitiesOnly yes and the right IdentityFile"),
    Row(r"UNPROTECTED PRIVATE KEY FILE[^']*'([^']+)'", AuthenticationFailed, "others may read the private key {0}, so "
        "ssh does not use it for {hop}", "chmod 600 {0}"),
    Row(r"(?:password|account) has expired|[Pp]assword change required|account is currently not available|"
        r"account has been locked", AuthenticationFailed, "the account on {hop} is not usable now", ADMINISTRATOR),
    Row(r"Permission denied \(([^)]*)\)", AuthenticationFailed, "permission denied by {hop}; it accepts {0}",
        CHECK_USER),
    Row(r"Permission denied|signing failed|agent refused", AuthenticationFailed, "permission denied by {hop}",
        CHECK_USER),
    Row(r"Could not resolve hostname ([^\s:]+)", Unreachable, "cannot resolve the address {0} (route {route})",
        "check the address in hosts.toml, or HostName in ~/.ssh/config"),
    Row(r"administratively prohibited", Unreachable, "{hop} forbids forwarding", "its administrator must allow it "
        "(AllowTcpForwarding); or `relay = true` for {hop_name} in hosts.toml: a program on it carries the bytes",
        of_jump=True),
    Row(r"open failed: connect failed: (.*)", Unreachable, "{hop} cannot reach the next hop: {0}", PING, of_jump=True),
    Row(r"Session open refused by peer", Unreachable, "{hop} allows no more sessions at a time (MaxSessions)", RERUN),
    Row(r"(Bad owner or permissions on \S+|Bad configuration option: \S+|.*bad configuration options?)", ConfigError,
        "ssh cannot use its configuration: {0}", "ssh -G {name}"),
    Row(r"(Connection refused|No route to host|Network is unreachable|(?:Connection|Operation) timed out|"
        r"Host is down)", Unreachable, "cannot reach {hop}: {0}", PING),
    Row(r"Timeout, server (\S+) not responding", ConnectionLost, "lost {route}: no answer from {0}", RERUN),
    Row(r"kex_exchange_identification|Connection (?:closed|reset) by|UNKNOWN port|Exceeded MaxStartups|"
        r"banner exchange|open failed", Refused, "cannot reach {hop}: it closed the connection during the login", PING),
    Row(r"Broken pipe|Connection to \S+ closed|Corrupted MAC|Bad packet length|Received disconnect", ConnectionLost,
        "lost {route}: the connection was closed", RERUN),
)


def explained(errors: str, host: Host, passed: int) -> RdtopsError | None:
    """Return the error for the stderr of an `ssh` that got nowhere; None where no row knows it. `passed`: the hops that
    it was logged in to."""
    for row in TABLE:
        if found := re.search(row.pattern, errors):
            hop = host.route[min(max(passed - row.of_jump, 0), len(host.route) - 1)]
            words = {"route": f"{host.name} ({host.route_words})", "name": host.name, "hop_name": hop.name,
                     "hop": f"{hop.name} ({hop.where}), on the route {host.route_words},"}
            groups = [group or "" for group in found.groups()]
            says = row.says.format(*groups, **words).replace(",;", ";").replace(",:", ":").rstrip(",")
            return row.kind(f"{says} ({_line(errors, found.start())})", remedy=row.remedy.format(*groups, **words))
    return None


def _line(text: str, at: int) -> str:
    """Return the line of a text that a position is in."""
    start = text.rfind("\n", 0, at) + 1
    return text[start:].partition("\n")[0].strip()[:QUOTED_CHARS]


def unfit_python(host: Host, code: int, errors: str) -> CommandFailed | None:
    """Return the error of a host whose Python is missing or cannot run our programs; None for any other end."""
    if code not in (126, 127) and not UNFIT_PYTHON.search(errors):
        return None
    return CommandFailed(f"{host.name}: {errors.strip()[-600:] or f'{host.python}: command not found'}",
                         remedy=f"set hosts.{host.name}.python in hosts.toml to a Python 3.8 or newer")
