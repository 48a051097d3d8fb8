"""The user's own hosts lie over the project's: which file counts, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdtops.errors import ConfigError
from rdtops.ssh import inventory
from rdtops.workflows.fetching import results_folder

PROJECT = """\
required_plugins = ["md5"]
[assets]
shared = "data/shared"
[jumps.gate]
address = "203.0.113.7"
[hosts.a800]
address = "198.51.100.23"
jumps = ["gate"]
gpus = 8
example = true
[hosts.pool]
address = "198.51.100.24"
default = true
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a hosts.toml, in a subfolder of which we are; the user has no hosts yet."""
    folder = tmp_path / "project"
    (folder / "notes" / "today").mkdir(parents=True)
    (folder / "hosts.toml").write_text(PROJECT)
    monkeypatch.chdir(folder / "notes" / "today")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RDTOPS_SSH_CONFIG", str(tmp_path / "ssh_config"))
    monkeypatch.delenv("RDTOPS_HOSTS", raising=False)
    (tmp_path / "ssh_config").write_text("Host gpu7\n  HostName 192.0.2.7\n  User me\n  Port 2207\n")
    return folder


@pytest.fixture
def own(tmp_path: Path, project: Path) -> Path:
    file = tmp_path / "config" / "rdtops" / "hosts.toml"
    file.parent.mkdir(parents=True)
    return file


def test_results_go_beside_the_project_s_hosts_from_a_subfolder_too(project: Path) -> None:
    assert results_folder("").resolve() == project.resolve() / "results"
    assert results_folder("here") == Path("here")


def test_a_subfolder_of_the_project_has_its_hosts(project: Path) -> None:
    known = inventory.load()
    assert (list(known.hosts), known.own_hosts, known.path) == (["a800", "pool"], ["pool"], project / "hosts.toml")
    assert known.asset("shared") == project / "data/shared"


def test_a_table_of_the_users_own_replaces_that_of_the_project_and_both_files_are_known(
        project: Path, own: Path) -> None:
    own.write_text('[hosts.a800]\naddress = "gpu"\nidentity_file = "id"\n[hosts.mine]\naddress = "mine"\n'
                   '[assets]\ndrawer = "drawer"\n')
    known = inventory.load()
    host = known.host("a800")
    assert (host.address, host.jumps, host.gpus, host.example) == ("gpu", (), None, False)
    assert host.files == (str(own), str(project / "hosts.toml"))
    assert host.identity_file == str(own.parent / "id")  # relative to its own file
    assert known.asset("drawer") == own.parent / "drawer"
    assert known.asset("shared") == project / "data/shared"
    assert known.own_hosts == ["a800", "pool", "mine"]
    assert (known.required_plugins, known.path) == (("md5",), own)


def test_the_default_host_of_the_user_goes_before_that_of_the_project(own: Path) -> None:
    own.write_text('[hosts.mine]\naddress = "mine"\ndefault = true\n')
    assert inventory.load().default_host.name == "mine"
    own.write_text(own.read_text() + '[hosts.other]\naddress = "other"\ndefault = true\n')
    with pytest.raises(ConfigError, match="only one host can have `default = true`; it is set for mine, other"):
        inventory.load()


def test_rdtops_hosts_names_the_users_file(project: Path, own: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    own.write_text("this is not read")
    named = tmp_path / "team.toml"
    named.write_text('[hosts.team]\naddress = "team"\n')
    monkeypatch.setenv("RDTOPS_HOSTS", str(named))
    assert inventory.load().own_hosts == ["pool", "team"]
    monkeypatch.setenv("RDTOPS_HOSTS", str(project / "hosts.toml"))
    assert inventory.load().own_hosts == ["pool"]
    named.unlink()
    monkeypatch.setenv("RDTOPS_HOSTS", str(named))
    with pytest.raises(ConfigError, match=r"cannot read .*team\.toml"):
        inventory.load()


def test_the_users_hosts_do_without_a_project(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no hosts\.toml in .* and none of your own") as refused:
        inventory.load()
    assert str(own) in refused.value.remedy
    own.write_text('[hosts.mine]\naddress = "mine"\n')
    assert list(inventory.load().hosts) == ["mine"]


def test_a_table_named_as_an_ssh_alias_means_it(own: Path) -> None:
    own.write_text('[hosts.gpu7]\nworkspace = "/data/me"\nport = 2208\n')
    host = inventory.load().host("gpu7")
    assert (host.where, host.workspace, host.problem) == ("me@192.0.2.7:2208", "/data/me", "")


def test_a_table_without_address_whose_name_is_no_alias_has_a_problem_of_its_own(own: Path, tmp_path: Path) -> None:
    own.write_text("[hosts.gpu8]\ngpus = 4\n")
    known = inventory.load()
    assert known.host("gpu8").problem == (
        f"{own}:1: hosts.gpu8: address is missing, and {tmp_path / 'ssh_config'} has no Host gpu8")
    assert not known.host("pool").problem


def test_a_mistake_names_the_file_and_the_line_of_each_layer(project: Path, own: Path) -> None:
    own.write_text('[hosts.mine]\naddress = "mine"\ngpu = 4\n')
    (project / "hosts.toml").write_text(PROJECT.replace("gpus = 8", "gpus = true"))
    with pytest.raises(ConfigError) as refused:
        inventory.load()
    assert sorted(str(refused.value).splitlines()[:2]) == sorted(str(refused.value).splitlines())
    assert f"{own}:3: hosts.mine.gpu: unknown key; did you mean 'gpus'?" in str(refused.value)
    assert f"{project / 'hosts.toml'}:9: hosts.a800.gpus: " in str(refused.value)


def test_a_jump_of_the_project_serves_a_host_of_the_user(own: Path) -> None:
    own.write_text('[hosts.mine]\naddress = "mine"\njumps = ["gate"]\n[jumps.gate]\naddress = "203.0.113.99"\n')
    known = inventory.load()
    assert {host: known.host(host).jumps[0].address for host in ("mine", "a800")} == {
        "mine": "203.0.113.99", "a800": "203.0.113.99"}
