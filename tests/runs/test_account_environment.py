"""What the account of the host has in its environment, and what of it reaches a run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rdtops.contract import variables
from rdtops.contract.variables import Act
from rdtops.runs import launch
from rdtops.ssh.hosts import Environment, Host
from tests.runs.test_runs import SPEC

REPOSITORY = Path(__file__).parents[2]
HOST = Host(name="h", address="192.0.2.1")
SHELLS = [shell for shell in ("dash", "bash", "ksh", "mksh", "busybox sh") if shutil.which(shell.split()[0])]
ALL_OF_THE_ACCOUNT = {
    (variable.name[:-1] + "X" if variable.name.endswith("*") else variable.name): "of the account"
    for variable in variables.LIST if variable.name not in ("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH")}


def exported(host: Host, account: dict[str, str], shell: str = "sh") -> dict[str, str]:
    """Return the environment of what launch.sh starts."""
    lines = launch._environment(host, SPEC.workspace, "/w/releases/r", {"RDTOPS_RUN": SPEC.run_id})
    done = subprocess.run([*shell.split(), "-c", f"{lines}\nexec env -0"], env={"PATH": os.environ["PATH"], **account},
                          capture_output=True, check=True)
    return dict(entry.decode().split("=", 1) for entry in done.stdout.split(b"\0") if entry)


@pytest.mark.parametrize("shell", SHELLS)
def test_launch_sh_drops_sets_and_passes_on_what_the_list_says(shell):
    found = exported(HOST, ALL_OF_THE_ACCOUNT, shell)
    for variable in variables.LIST:
        name = variable.name[:-1] + "X" if variable.name.endswith("*") else variable.name
        if variable.act is Act.DROP and not variable.name.endswith("*"):
            assert name not in found
            assert name in found[variables.DROPPED].split()
        elif variable.name == "PYTHONPATH":
            assert found[name] == "/w/releases/r"
        elif variable.act is Act.SET and variable.value != variables.WITH_ENVIRONMENT:
            assert found[name] == variable.value
        elif name in ALL_OF_THE_ACCOUNT:
            assert found[name] == "of the account"


def test_what_hosts_toml_says_wins():
    declared = {"OMP_NUM_THREADS": "4", "CUDA_LAUNCH_BLOCKING": "1", "PYTHONNOUSERSITE": "", "NCCL_DEBUG": "INFO"}
    found = exported(Host(name="h", address="192.0.2.1", env=declared), ALL_OF_THE_ACCOUNT)
    assert {name: found[name] for name in declared} == declared
    assert found[variables.DECLARED].split() == ["OMP_NUM_THREADS", "CUDA_LAUNCH_BLOCKING", "PYTHONNOUSERSITE"]
    kept, dropped = variables.kept({**found, "PET_NNODES": "2", "RANK": "3", "MKL_NUM_THREADS": "9"})
    assert {name: kept[name] for name in declared} == declared
    assert not {"PET_NNODES", "RANK", "MKL_NUM_THREADS"} & kept.keys()
    assert {"PET_NNODES", "RANK", "MKL_NUM_THREADS", "PYTHONHOME"} <= set(dropped)


def test_an_outer_process_group_is_left_also_where_hosts_toml_names_it():
    kept, _ = variables.kept({variables.DECLARED: "RANK ACCELERATE_X", "RANK": "3", "ACCELERATE_X": "1"})
    assert "RANK" not in kept
    assert kept["ACCELERATE_X"] == "1"  # sharding.check_launcher then says what it thinks of it


@pytest.mark.parametrize("place", [{"venv": "~/v"}, {"conda": "rdt"}, {"container": "/i.sif"}])
def test_packages_of_the_home_directory_do_not_hide_those_of_an_environment(place):
    declared = Host(name="h", address="192.0.2.1", environment=Environment(**place))
    assert exported(declared, {})["PYTHONNOUSERSITE"] == "1"
    assert "PYTHONNOUSERSITE" not in exported(HOST, {})  # who owns no environment has `pip install --user`


def test_a_package_in_the_home_directory_is_hidden_from_an_environment_that_would_see_it(tmp_path):
    """As a conda environment does, this one looks into ~/.local."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(tmp_path / "env")],
                   check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    package = tmp_path / ".local" / "lib" / version / "site-packages" / "rdt_shadow.py"
    package.parent.mkdir(parents=True)
    package.write_text("")
    found = {}
    for environment in (Environment(), Environment(conda=str(tmp_path / "env"))):
        given = exported(Host(name="h", address="192.0.2.1", environment=environment), {"HOME": str(tmp_path)})
        done = subprocess.run([tmp_path / "env" / "bin" / "python", "-c", "import rdt_shadow"], env=given,
                              capture_output=True, text=True, check=False)
        found[environment.conda] = done.returncode
    assert found == {None: 0, str(tmp_path / "env"): 1}


def test_the_document_has_the_list():
    text = (REPOSITORY / "docs" / "launch.md").read_text(encoding="utf-8")
    section = text.partition("## Variables")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (`.+`) \| (.+) \| (.+) \|$", section, re.MULTILINE) == list(variables.rows())
