"""`inv deploy --env` with real pip, real venvs and wheels of our own, on a host that reaches no index."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rdtops.delivery import provision
from rdtops.delivery.provision import Provisioned, Recipe
from rdtops.errors import RunError, UsageError
from rdtops.lab.fake_gpus import Gpus
from rdtops.ssh import environment
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Environment
from tests import package_index
from tests.lab.commandline import CommandLine
from tests.package_index import wheel

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simple")
    for version in ("1.0", "2.0", "3.0"):
        wheel(folder, "rdttoy", version, "rdtdep>=1")
    for version in ("1.0", "1.5"):
        wheel(folder, "rdtdep", version)
    return folder


@pytest.fixture
def way(lab_host, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    host = replace(lab_host, environment=Environment(venv=f"{lab_host.workspace}/venvs/rdt"))
    Path(host.workspace).mkdir()
    with Connection(host) as connection:
        yield connection


def recipe(index: Path, toy: str, dep: str = "1.0") -> Recipe:
    return Recipe((f"rdttoy=={toy}",), (f"rdtdep=={dep}",), {"PIP_INDEX_URL": index.as_uri()}, offline=True)


def made(way: Connection, wanted: Recipe, **options: Any) -> Provisioned:
    return provision.provision(way, provision.look(way), wanted, **options)


def imported(way: Connection, what: str = "rdttoy") -> str:
    code = f"import {what}, rdtdep; print({what}.VERSION, rdtdep.VERSION)"
    return way.run_shell(f"{environment.activation(way.host)}python -c '{code}'").out.strip()


@pytest.mark.slow
def test_an_environment_is_made_updated_and_never_broken(way, index):
    place = Path(way.host.environment.venv)
    assert made(way, recipe(index, "1.0"), dry_run=True).state == "would be made"
    assert not place.exists()
    half = place.with_name("rdt.d") / recipe(index, "1.0").digest("3.11")[:12]
    half.mkdir(parents=True)  # of an install that was killed: no marker
    done = made(way, recipe(index, "1.0"))
    assert (done.state, done.packages) == ("made", 2)
    assert imported(way) == "1.0 1.0"  # rdtdep 1.5 is in the index, and constraints.txt says 1.0
    assert not (Path(way.workspace) / "wheelhouse").exists()
    first = place.resolve()
    assert made(way, recipe(index, "1.0")).state == "was up to date"

    with pytest.raises(RunError, match="this laptop could not download the wheels"):
        made(way, recipe(index, "9.9"))
    wanting = replace(recipe(index, "2.0"), offline=False, variables={"PIP_INDEX_URL": "file:///nowhere"})
    with pytest.raises(RunError,
                       match=r"pip could not install the requirements .*; the previous environment is unchanged"):
        made(way, wanting)
    assert place.resolve() == first
    assert imported(way) == "1.0 1.0"

    code = "import rdttoy; input(); import rdttoy.late; print(rdttoy.late.VERSION)"
    line = f"{environment.activation(way.host)}exec python -c '{code}'"
    with subprocess.Popen(["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as training:
        assert made(way, replace(recipe(index, "2.0"), offline=False)).state == "made"  # from an index
        assert made(way, recipe(index, "3.0")).state == "made"
        assert imported(way) == "3.0 1.0"
        assert training.communicate("\n")[0] == "1.0\n"  # it keeps what it was started with


CONDA = """\
#!/bin/sh
# as much of `conda create` as is asked of it
[ "$1" = create ] || exit 2
while [ "$1" != --prefix ]; do shift; done
[ "$3 $4" = "python=3.11 pip" ] && exec python3 -m venv "$2"
"""


@pytest.mark.slow
def test_a_conda_environment_is_made_by_conda_and_used_by_its_name(lab_host, tmp_path, monkeypatch, index):
    """With a stand-in for conda."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Connection(replace(lab_host, environment=Environment(conda="rdtops-test"))) as way:
        home = Path(way.home)
        program = home / "miniconda3" / "bin" / "conda"
        with pytest.raises(RunError, match="there is no conda; looked for"):
            made(way, replace(recipe(index, "1.0"), offline=False))
        program.parent.mkdir(parents=True)
        program.write_text(CONDA)
        program.chmod(0o755)
        try:
            done = made(way, replace(recipe(index, "1.0"), offline=False))
            assert (done.place, done.state) == ("~/.conda/envs/rdtops-test", "made")
            assert imported(way) == "1.0 1.0"
            (home / "miniconda3" / "envs" / "rdtops-test").mkdir(parents=True)
            with pytest.raises(RunError, match="was not made by `inv deploy --env`"):
                made(way, recipe(index, "2.0"))
        finally:
            shutil.rmtree(home / "miniconda3")


def test_what_somebody_else_made_is_left_alone(way, index):
    place = Path(way.host.environment.venv)
    place.mkdir(parents=True)
    (place / "theirs").touch()
    with pytest.raises(RunError, match="was not made by `inv deploy --env`") as refused:
        made(way, recipe(index, "1.0"))
    assert refused.value.remedy.startswith("mv ")
    assert (place / "theirs").exists()


def test_a_host_that_declares_no_venv_is_told_how(lab_connection, index):
    with pytest.raises(UsageError, match="declares no environment") as refused:
        made(lab_connection, recipe(index, "1.0"))
    assert refused.value.remedy == ('environment = { venv = "~/venvs/rdt" } under [hosts.lab2] in hosts.toml, then '
                                    "inv deploy --env --host lab2")


@pytest.mark.slow
def test_a_host_without_internet_is_told_what_to_declare(way, index):
    nowhere = replace(recipe(index, "1.0"), offline=False, variables={
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1", "PIP_TIMEOUT": "2"})
    with pytest.raises(RunError, match="pip cannot reach its index") as refused:
        made(way, nowhere)
    assert "offline = true under [hosts.lab2.environment]" in refused.value.remedy


@pytest.mark.parametrize(("driver", "code", "words"), [
    ("535.129.03", 0, ["torch==2.6.0: torch 2.13.0 was built for CUDA 13, which needs driver 580", "would be made"]),
    ("580.65.06", 0, ["torch==2.13.0;", "would be made"]),
    ("470.256.02", 1, ["470.256.02 is too old for CUDA 12", 'requirements = ["torch==2.6.0+cu118"]'])])
def test_deploy_env_says_which_torch_the_driver_of_the_host_runs(lab, lab_hosts, tmp_path, driver, code, words):
    text = lab_hosts.read_text()
    lab_hosts.write_text(text.replace("[hosts.lab2]\n", '[hosts.lab2]\nenvironment = { venv = "~/venvs/none" }\n'))
    lab.set_gpus("lab2", Gpus(driver=driver))
    said = CommandLine(tmp_path, lab_hosts)("deploy --env --dry-run --only code --host lab2")
    assert said.code == code, said.said
    flat = " ".join((said.out + said.err).split())
    assert [one for one in words if one not in flat] == [], said.said
    assert not (lab.home("lab2") / "venvs").exists()


@pytest.fixture
def served_index(tmp_path) -> Iterator[package_index.Served]:
    with package_index.served(package_index.of_proven_environments(tmp_path / "served")) as index:
        yield index


STEPS = ["looking at the driver and the Python", "making the venv", "asking the index", "installing 10 packages",
         "checking that the packages fit each other", "importing"]


def test_deploy_env_shows_its_steps_and_makes_what_check_asks_for(lab, tiny_hosts, tmp_path, served_index):
    """Short of the wheels, which are stand-ins: real pip and venv, an index, a driver of 2023."""
    hosts = tmp_path / "hosts.toml"
    wheel(served_index.folder, "rdttoy", "1.0")
    own = f"rdttoy @ {served_index.url('bob:s3cret@')}/rdttoy/rdttoy-1.0-py3-none-any.whl"
    declared = f'{{ venv = "~/venvs/rdt", index_url = "{served_index.url()}", requirements = ["{own}"] }}'
    hosts.write_text(tiny_hosts.read_text().replace("[hosts.lab2]\n", f"[hosts.lab2]\nenvironment = {declared}\n"))
    lab.set_gpus("lab2", Gpus(driver="535.129.03"))
    inv = CommandLine(tmp_path, hosts)
    line = "deploy --env --only code --host lab2"
    try:
        done = inv.good(f"{line} --json")
        assert [row["torch"] for row in done.rows() if "torch" in row] == ["torch==2.6.0"]
        shown = re.findall(r"^lab2: environment: (.*), \d+ s$", done.err, re.MULTILINE)
        assert [step for step in shown if step in STEPS] == STEPS, done.said
        assert "it takes torch==2.6.0: torch 2.13.0 was built for CUDA 13" in done.err
        assert "s3cret" not in done.said
        assert "was up to date" in inv.good(line).out
        results = inv("check --host lab2 --json").rows()[0]["results"]
        (packages,) = [row for row in results if row["name"] == "packages"]
        assert (packages["status"], "torch 2.6.0, " in packages["summary"]) == ("OK", True)
    finally:
        shutil.rmtree(lab.home("lab2") / "venvs")


@pytest.mark.slow
def test_an_environment_is_finished_when_the_laptop_goes_away_meanwhile(lab, tiny_hosts, tmp_path, served_index):
    hosts = tmp_path / "hosts.toml"
    declared = f'{{ venv = "~/venvs/rdt", index_url = "{served_index.url()}" }}'
    hosts.write_text(tiny_hosts.read_text().replace("[hosts.lab2]\n", f"[hosts.lab2]\nenvironment = {declared}\n"))
    inv = CommandLine(tmp_path, hosts)
    place = lab.home("lab2") / "venvs" / "rdt"
    try:
        with inv.started("deploy --env --only code --host lab2") as laptop:
            while "making the venv" not in laptop.stderr.readline():
                assert laptop.poll() is None
            laptop.kill()
        deadline_s = time.monotonic() + 120
        while not place.exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        assert "was up to date" in inv.good("deploy --env --only code --host lab2").out
    finally:
        shutil.rmtree(lab.home("lab2") / "venvs")
