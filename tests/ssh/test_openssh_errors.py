"""Every word of `ssh` and every exception of paramiko that ends a login is an error with a hop and a next command."""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Callable

import paramiko
import pytest

from rdtops.errors import AuthenticationFailed, HostKeyError, RdtopsError, Unreachable
from rdtops.ssh import exceptions
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.login import identities, openssh_errors
from rdtops.ssh.login.openssh_errors import TABLE, Refused, explained

JUMP = Hop(name="gate", address="192.0.2.1", user="me")
HOST = Host(name="gpu", address="192.0.2.9", user="me", jumps=(JUMP,))
LATER = "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535"
SAMPLES = [  # stderr of OpenSSH 7.4 to 10.0 -> the error, and the hop that it names when one of two was passed
    ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", HostKeyError, "gpu"),
    ("@         WARNING: REVOKED HOST KEY DETECTED!         @", HostKeyError, "gpu"),
    ("No ED25519 host key is known for 192.0.2.9 and you have requested strict checking.", HostKeyError, "gpu"),
    ("Unable to negotiate with 192.0.2.9 port 22: no matching host key type found. Their offer: ssh-rsa,ssh-dss",
     Unreachable, "gpu"),
    ("Unable to negotiate with 192.0.2.9 port 22: no matching cipher found. Their offer: 3des-cbc", Unreachable, "gpu"),
    ("Bad server host key: Invalid key length", Unreachable, "gpu"),
    ("Received disconnect from 192.0.2.9 port 22:2: Too many authentication failures", AuthenticationFailed, "gpu"),
    ("WARNING: UNPROTECTED PRIVATE KEY FILE!          @\nPermissions 0644 for '/home/me/id' are too open.",
     AuthenticationFailed, "gpu"),
    ("WARNING: Your password has expired.\nPassword change required but no TTY.", AuthenticationFailed, "gpu"),
    ("This account is currently not available.", AuthenticationFailed, "gpu"),
    ("me@192.0.2.9: Permission denied (publickey,gssapi-with-mic).", AuthenticationFailed, "gpu"),
    ("sign_and_send_pubkey: signing failed for ED25519 \"id\" from agent: agent refused operation",
     AuthenticationFailed, "gpu"),
    ("ssh: Could not resolve hostname nowhere: Name or service not known", Unreachable, "nowhere"),
    (f"channel 0: open failed: administratively prohibited: open failed\n{LATER}", Unreachable, "gate"),
    (f"channel 0: open failed: connect failed: No route to host\n{LATER}", Unreachable, "gate"),
    ("mux_client_request_session: session request failed: Session open refused by peer", Unreachable, "gpu"),
    ("Bad owner or permissions on /home/me/.ssh/config", RdtopsError, "ssh -G gpu"),
    ("/home/me/.ssh/config: line 3: Bad configuration option: foo", RdtopsError, "ssh -G gpu"),
    ("ssh: connect to host 192.0.2.9 port 22: Connection refused", Unreachable, "gpu"),
    ("ssh: connect to host 192.0.2.9 port 22: No route to host", Unreachable, "gpu"),
    ("ssh: connect to host 192.0.2.9 port 22: Operation timed out", Unreachable, "gpu"),
    ("Timeout, server 192.0.2.9 not responding.", RdtopsError, "192.0.2.9"),
    (LATER, Refused, "gpu"),
    ("Exceeded MaxStartups\r\nConnection closed by 192.0.2.9 port 22", Refused, "gpu"),
    ("client_loop: send disconnect: Broken pipe", RdtopsError, "gpu"),
    ("Bad packet length 1231.\nssh_dispatch_run_fatal: Connection to 192.0.2.9 port 22", RdtopsError, "gpu"),
]


@pytest.mark.parametrize(("stderr", "kind", "named"), SAMPLES)
def test_what_ssh_says_is_an_error_with_its_hop_and_the_next_command(stderr: str, kind: type[RdtopsError],
                                                                    named: str) -> None:
    found = explained(stderr, HOST, passed=1)
    assert isinstance(found, kind)
    assert re.search(rf"\b{re.escape(named)}\b", found.message + found.remedy)
    assert found.remedy
    assert not re.search(r"[{}]|,,|;;", found.message + found.remedy)


def test_every_row_is_reached_by_a_sample() -> None:
    def row_of(stderr: str) -> openssh_errors.Row:
        return next(row for row in TABLE if re.search(row.pattern, stderr))

    assert [row.pattern for row in TABLE if row not in [row_of(stderr) for stderr, *_ in SAMPLES]] == []


MADE: dict[str, Callable[[], Exception]] = {
    "BadHostKeyException": lambda: paramiko.BadHostKeyException("h", paramiko.RSAKey.generate(1024),
                                                                paramiko.RSAKey.generate(1024)),
    "BadAuthenticationType": lambda: paramiko.BadAuthenticationType("no", ["password"]),
    "PartialAuthentication": lambda: paramiko.ssh_exception.PartialAuthentication(["password"]),
    "ChannelException": lambda: paramiko.ChannelException(2, "Connect failed"),
    "ProxyCommandFailure": lambda: paramiko.ProxyCommandFailure("false", "it ended"),
    "NoValidConnectionsError": lambda: paramiko.ssh_exception.NoValidConnectionsError(
        {("192.0.2.9", 22): ConnectionRefusedError(111, "Connection refused")}),
    "CouldNotCanonicalize": lambda: paramiko.ssh_exception.CouldNotCanonicalize("no"),
    "ConfigParseError": lambda: paramiko.ssh_exception.ConfigParseError("no"),
}
OURS = [identities.LoginRefused(["id"], [], ["publickey"]), exceptions.KeyRefused("changed"),
        exceptions.KeyRefused("revoked"), exceptions.KeyRefused("not known"), socket.gaierror(-2, "Name not known"),
        EOFError(), TimeoutError("timed out"), OSError(113, "No route to host"), ConnectionResetError(104, "reset")]
THEIRS = [kind for _, kind in inspect.getmembers(paramiko.ssh_exception, inspect.isclass)
          if issubclass(kind, Exception) and kind.__module__ == "paramiko.ssh_exception"]


def made(kind: type[Exception]) -> Exception:
    return MADE[kind.__name__]() if kind.__name__ in MADE else kind("it went wrong")


@pytest.mark.parametrize("error", [*OURS, *map(made, THEIRS)], ids=lambda error: type(error).__name__)
def test_every_exception_of_a_login_is_an_error_with_its_hop_and_the_next_command(error: Exception) -> None:
    found = exceptions.refusal(error, HOST, HOST, JUMP)
    assert isinstance(found, RdtopsError)
    assert "gpu" in found.message
    assert found.remedy
    assert "<" not in found.message
    assert "Traceback" not in found.message
