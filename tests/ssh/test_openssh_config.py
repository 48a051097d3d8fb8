"""The ssh_config that OpenSSH's programs get: a hop is reached through the one before it, whatever they are called."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdtops.errors import HostKeyError
from rdtops.ssh import openssh_config, trust
from rdtops.ssh.hosts import Hop, Host

NAMES = st.sampled_from(["big", "jmp", "*", "hop-0", "a b", "-x"])  # two of a route may be the same
PORTS = st.integers(1, 65535)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(st.tuples(NAMES, PORTS), max_size=3), NAMES, PORTS)
def test_each_hop_has_the_one_before_it_as_its_only_jump(tmp_path: Path, jumps, name, port) -> None:
    hops = tuple(Hop(name=jump, address="192.0.2.1", port=at) for jump, at in jumps)
    host = Host(name=name, address="192.0.2.9", port=port, jumps=hops)
    file = tmp_path / "config"
    file.write_text(openssh_config.config_text(host, file))
    for number, hop in enumerate(host.route):
        said = subprocess.run(["ssh", "-G", "-F", str(file), openssh_config.destination(host, number)],
                              capture_output=True, text=True, check=True).stdout.splitlines()
        found = dict(line.partition(" ")[::2] for line in said)
        assert (found["hostname"], found["port"]) == (hop.address, str(hop.port))
        assert found.get("proxyjump", "none") == (f"hop-{number - 1}" if number else "none")


def test_what_keeps_no_keys_is_said_and_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    hop = Hop(name="gpu", address="192.0.2.1", known_hosts="/dev/null")
    with pytest.raises(HostKeyError, match="/dev/null, which is not a file"):
        trust._record(trust.SeenKey(hop, "ssh-ed25519", b"", "new"))
    assert Path("/dev/null").is_char_device()
