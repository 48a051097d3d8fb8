"""What kept us from a hop is said as what it is."""

from __future__ import annotations

import paramiko
import pytest

from rdtops.errors import AuthenticationFailed, HostError, Unreachable
from rdtops.ssh import exceptions
from rdtops.ssh.hosts import Hop, Host
from rdtops.ssh.login.identities import LoginRefused
from rdtops.ssh.login.openssh_errors import unfit_python

JUMP = Hop(name="bastion", address="10.0.0.1", user="me")
HOST = Host(name="a800", address="10.0.0.2", user="me", jumps=(JUMP,))


@pytest.mark.parametrize(("error", "kind", "words"), [
    (paramiko.AuthenticationException("Authentication timeout."), Unreachable, "stopped answering during the login"),
    (paramiko.AuthenticationException("Authentication failed: transport shut down or saw EOF"), Unreachable,
     "stopped answering during the login"),
    (LoginRefused(["id"], [], ["publickey"]), AuthenticationFailed, "does not accept the user 'me'; keys offered: id"),
    (paramiko.SSHException("Error reading SSH protocol banner"), Unreachable, "does not answer as an SSH server"),
])
def test_a_login_that_was_cut_is_no_refused_key(error: Exception, kind: type[HostError], words: str) -> None:
    """A refused key ends `inv watch`; a hop that went away does not."""
    found = exceptions.refusal(error, JUMP, HOST)
    assert type(found) is kind
    assert "bastion (me@10.0.0.1:22)" in found.message
    assert words in found.message
    assert found.remedy


def test_a_lost_link_names_the_hop_to_blame_and_the_next_command() -> None:
    error = exceptions.lost(HOST, "bastion closed the connection", JUMP)
    assert (error.hop, error.remedy.split("   #")[0]) == ("bastion", "inv hosts --ping --host a800")
    assert error.message == "lost a800 (here -> bastion -> a800): bastion closed the connection"


@pytest.mark.parametrize(("code", "errors"), [
    (127, "sh: 1: python3: not found"), (127, ""), (126, "sh: 1: /opt/python3: Permission denied"),
    (2, "Unknown option: -I\nusage: python [option] ... [-c cmd | -m mod | file | -] [arg] ...\n"),  # Python 2.7
    (1, "  File \"<rdtops>\", line 1\nSyntaxError: future feature annotations is not defined\n"),  # Python 3.6
    (1, "ModuleNotFoundError: No module named 'zlib'\n")])
def test_a_python_that_cannot_run_our_programs_is_told_with_the_way_on(code: int, errors: str) -> None:
    found = unfit_python(HOST, code, errors)
    assert found
    assert found.message == f"a800: {errors.strip() or 'python3: command not found'}"
    assert found.remedy == "set hosts.a800.python in hosts.toml to a Python 3.8 or newer"


def test_a_program_that_failed_by_itself_is_not_the_fault_of_python() -> None:
    assert unfit_python(HOST, 1, "OSError: [Errno 28] No space left on device") is None
