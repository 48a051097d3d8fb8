import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.errors import ConfigError, UsageError
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import OPENSSH
from rdtops.ssh.inventory import load
from rdtops.ssh.login.ssh_config import transport

GOOD = """\
[assets]
rdt-1b = "models/rdt-1b"

[jumps.gate]
address = "203.0.113.7"
user = "robot"

[hosts.a800]
address = "198.51.100.23"
jumps = ["gate"]
identity_file = "keys/id"
environment = { conda = "rdt" }
default = true

[hosts.a800.env]
WANDB_MODE = "offline"
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    return file


def test_a_good_file_gives_hosts_with_their_routes(tmp_path):
    inventory = load(written(tmp_path, GOOD))
    host = inventory.host("a800")
    assert host.route_words == "here -> gate -> a800"
    assert host.route[0].where == "robot@203.0.113.7:22"
    assert host.identity_file == str(tmp_path / "keys/id")
    assert inventory.default_host is host
    assert inventory.asset("rdt-1b") == tmp_path / "models/rdt-1b"
    assert inventory.asset("unknown") is None


def test_the_file_of_this_repository_is_good(tmp_path):
    inventory = load(written(tmp_path, (Path(__file__).parents[2] / "hosts.toml").read_text()))
    assert (set(inventory.hosts), inventory.own_hosts) == ({"a800"}, [])  # the lab's are there while it is up
    assert inventory.host("a800").route_words == "here -> gate -> a800"


def test_an_included_file_comes_first_key_by_key_and_may_be_missing(tmp_path):
    file = written(tmp_path, 'include = "own/hosts.toml"\n' + GOOD)
    assert load(file).host("a800").port == 22
    (tmp_path / "own").mkdir()
    own = tmp_path / "own/hosts.toml"
    own.write_text('[jumps.gate]\nport = 2222\n[hosts.a800]\nport = 2022\n[hosts.b800]\naddress = "b"\n')
    host = load(file).host("a800")
    assert [hop.where.partition("@")[2] for hop in host.route] == ["203.0.113.7:2222", "198.51.100.23:2022"]
    assert (host.identity_file, host.default) == (str(tmp_path / "keys/id"), True)
    assert set(load(file).hosts) == {"a800", "b800"}
    own.write_text("[hosts.a800]\nprot = 7\n")
    with pytest.raises(ConfigError, match=r"a800\.prot: unknown key; did you mean 'port'") as raised:
        load(file)
    assert str(own) in raised.value.remedy


@pytest.mark.parametrize(("broken", "line", "words"), [
    (GOOD.replace("jumps =", "jump ="), 10, "hosts.a800.jump: unknown key; did you mean 'jumps'"),
    (GOOD.replace('["gate"]', '["gata"]'), 10, "no [jumps.gata]; did you mean 'gate'"),
    (GOOD.replace('user = "robot"', "user = 7"), 6, "jumps.gate.user: must be a text in quotes"),
    (GOOD.replace('user = "robot"', "port = 0"), 6, "jumps.gate.port: input should be greater than or equal to 1"),
    (GOOD.replace('address = "203.0.113.7"\n', ""), 4, "jumps.gate.address: is missing"),
    (GOOD.replace("conda =", "konda ="), 12, "hosts.a800.environment.konda: unknown key; did you mean 'conda'"),
    (GOOD.replace('conda = "rdt"', 'conda = "rdt", venv = "v"'), 12, "conda and venv cannot be used together"),
    (GOOD.replace("WANDB_MODE", '"WANDB MODE"'), 15, "not a valid environment variable name: WANDB MODE"),
    (GOOD.replace("[hosts.a800]", "[host.a800]").replace("[hosts.a800.env]", "[host.a800.env]"), 8,
     "host: unknown key; did you mean 'hosts'"),
    (GOOD + '\n[hosts.b]\naddress = "192.0.2.9"\ndefault = true\n', 0, "only one host can have `default = true`"),
    ("[hosts\n", 0, "is not valid TOML"),
])
def test_a_mistake_is_answered_with_file_line_key_and_the_nearest_name(tmp_path, broken, line, words):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, broken))
    assert words in str(caught.value)
    assert "hosts.toml" in str(caught.value)
    if line:
        assert f"hosts.toml:{line}:" in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, GOOD.replace("conda", "konda").replace('user = "robot"', "user = 7")))
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_is_said_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match="cannot read") as caught:
        load(tmp_path / "none.toml")
    assert "RDTOPS_HOSTS" in caught.value.remedy


def test_unknown_host_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'a800'") as caught:
        load(written(tmp_path, GOOD)).host("a80")
    assert "a800" in caught.value.remedy


def test_no_host_and_no_default_names_the_hosts(tmp_path):
    inventory = load(written(tmp_path, GOOD.replace("default = true\n", "")))
    with pytest.raises(UsageError, match="hosts: a800"):
        _ = inventory.default_host


SSH_CONFIG = """\
Host bastion
  HostName 203.0.113.7
  User me
Host gpu
  HostName 198.51.100.9
  Port 2222
  ProxyJump bastion
  IdentityFile ~/.ssh/gpu_key
Host viacommand
  ProxyCommand nc %h %p
Host mid
  HostName 192.0.2.5
  ProxyJump bastion
Host listed
  HostName 192.0.2.6
  ProxyJump bastion,mid
Host literal
  ProxyJump ssh://hop@127.0.0.1:24101
Host bracketed
  ProxyJump hop@[::1]:22
Host keyless
  UserKnownHostsFile none
Host loop
  ProxyJump back
Host back
  ProxyJump loop
Host *
  User somebody
"""


@pytest.fixture(params=["ssh -G", "paramiko"])
def ssh_config(tmp_path, monkeypatch, request):
    """Read by OpenSSH itself, and where it is not installed."""
    file = tmp_path / "ssh_config"
    file.write_text(SSH_CONFIG)
    monkeypatch.setenv("RDTOPS_SSH_CONFIG", str(file))
    if request.param == "paramiko":
        monkeypatch.setattr("shutil.which", lambda _: None)


def test_an_alias_of_ssh_config_is_a_host(tmp_path, ssh_config):
    host = load(written(tmp_path, GOOD)).host("gpu")
    assert host.route_words == "here -> bastion -> gpu"
    assert [hop.where for hop in host.route] == ["me@203.0.113.7:22", "somebody@198.51.100.9:2222"]
    assert host.identity_file == str(Path("~/.ssh/gpu_key").expanduser())


def test_without_an_identity_file_ssh_may_choose(tmp_path, ssh_config):
    assert load(written(tmp_path, GOOD)).host("bastion").identity_file is None


def test_an_entry_takes_its_route_from_an_alias_and_keeps_its_own_values(tmp_path, ssh_config):
    text = GOOD + '\n[hosts.mine]\nssh_alias = "gpu"\nworkspace = "/data/me"\nuser = "root"\n'
    host = load(written(tmp_path, text)).host("mine")
    assert (host.address, host.port, host.user, host.workspace) == ("198.51.100.9", 2222, "root", "/data/me")
    assert host.route_words == "here -> bastion -> mine"


@pytest.mark.parametrize(("alias", "route"), [
    ("listed", ["me@203.0.113.7:22", "somebody@192.0.2.5:22", "somebody@192.0.2.6:22"]),  # mid's own jump is overridden
    ("literal", ["hop@127.0.0.1:24101", "somebody@literal:22"]),
    ("bracketed", ["hop@::1:22", "somebody@bracketed:22"])])
def test_a_list_of_jumps_is_the_route_that_ssh_takes(tmp_path, ssh_config, alias, route):
    assert [hop.where for hop in load(written(tmp_path, GOOD)).host(alias).route] == route


def test_no_file_of_known_hosts_is_no_file_of_that_name(tmp_path, ssh_config):
    assert load(written(tmp_path, GOOD)).host("keyless").known_hosts == os.devnull


def test_a_loop_of_jumps_is_said(tmp_path, ssh_config):
    with pytest.raises(ConfigError, match="is a loop"):
        load(written(tmp_path, GOOD)).host("loop")


def test_what_fabric_cannot_honour_needs_openssh(tmp_path, ssh_config):
    host = load(written(tmp_path, GOOD)).host("viacommand")
    assert host.only_openssh == "proxycommand of viacommand"
    if shutil.which("ssh"):
        assert transport(host) == OPENSSH
    else:
        with pytest.raises(ConfigError, match="there is no `ssh` on PATH"):
            transport(host)
    with pytest.raises(ConfigError, match="Fabric cannot honour proxycommand"):
        transport(replace(host, transport="fabric"))


def test_an_alias_that_cannot_be_read_stands_in_no_other_host_s_way(tmp_path, ssh_config):
    inventory = load(written(tmp_path, GOOD + '\n[hosts.lost]\nssh_alias = "loop"\n'))
    assert inventory.host("a800").problem == ""
    assert inventory.default_host.name == "a800"
    assert "is a loop" in inventory.host("lost").problem
    with Connection(inventory.host("lost")) as connection, pytest.raises(ConfigError, match="is a loop"):
        connection.open()


@pytest.mark.parametrize("name", ["gpu", "gpu-7.lab", "in-a-file"])
def test_what_ssh_config_says_anything_of_is_a_host(tmp_path, monkeypatch, name):
    (tmp_path / "more").write_text("Host in-a-file\n  User me\n")
    config = tmp_path / "ssh_config"
    config.write_text(f"Include {tmp_path}/mo*\nHost gpu\n  HostName 192.0.2.1\nHost *.lab\n  User me\n"
                      "Host *\n  Port 2222\n")
    monkeypatch.setenv("RDTOPS_SSH_CONFIG", str(config))
    inventory = load(written(tmp_path, GOOD))
    assert inventory.host(name).port == 2222
    with pytest.raises(UsageError, match="did you mean 'in-a-file'"):
        inventory.host("in-afile")
