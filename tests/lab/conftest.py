"""The lab the tests share. It has ports of its own, so that it disturbs no other lab on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proofs import slurm_cluster
from proofs.slurm_cluster import Cluster
from rdtops.contract.journal import Journal
from rdtops.hostlib import liveness, processes
from rdtops.lab.fake_gpus import Gpus
from rdtops.lab.site import HOSTS, Lab
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from rdtops.testing.fixtures import running_lab
from tests.lab.watched import begun

ROOT = Path(__file__).parents[2]


_homes: list[Path] = []  # of the hosts of the session's lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that is up. Tests that break it put it right again with `lab.up()`."""
    for lab in running_lab(tmp_path_factory, os.environ.get("RDTOPS_LAB_BACKEND", "auto")):
        _homes.extend(lab.home(host) for host in HOSTS)
        yield lab


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Leave hosts without trainings, with an empty workspace and the usual GPUs: which file of tests comes next, chance
    decides."""
    yield
    runs = processes.carried(liveness.RUN)
    processes.end(lambda: [pid for home in _homes for pid in processes.carrying(f"HOME={home}")
                           if runs.intersection(processes.environment(pid))])
    for home in _homes:
        shutil.rmtree(home / "rdtops", ignore_errors=True)
        if home.exists():
            Gpus().write(home.parent / "gpus.json")


@pytest.fixture(scope="session")
def rdtops_lab(lab: Lab) -> Lab:
    """The fixtures that plugin authors get, on the lab that is up already."""
    return lab


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own for our side, which keeps its digests there."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def lab_hosts(lab: Lab, tmp_path: Path) -> Path:
    """A hosts.toml for the lab, which is up whatever the test before did to it."""
    lab.up()
    lab.write_inventory(tmp_path / "hosts.toml", {})
    return tmp_path / "hosts.toml"


@pytest.fixture(scope="session")
def tiny_hosts(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hosts.toml for the test lab, with the assets of the preset `tiny` made on the spot."""
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([sys.executable, "-m", "rdtops.trainer.tiny", str(folder)], cwd=ROOT, check=True)
    data = shutil.copytree(ROOT / "rdtops/lab/data", folder / "libero_tiny")  # `inv stats` writes beside them
    assets = {name: str(folder / name) for name in ("rdt-tiny", "t5-tiny", "siglip-tiny")}
    lab.write_inventory(folder / "hosts.toml", {**assets, "libero_tiny": str(data)})
    return folder / "hosts.toml"


@pytest.fixture(scope="session")
def named_assets(tiny_hosts: Path) -> dict[str, str]:
    """The folders of the preset `tiny` by their names in hosts.toml."""
    return {name: str(tiny_hosts.parent / name) for name in ("rdt-tiny", "t5-tiny", "siglip-tiny", "libero_tiny")}


@pytest.fixture
def connection(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """To a GPU host of the lab, with a workspace and a memory of its own."""
    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path / "state"))
    lab.write_inventory(tmp_path / "hosts.toml", {})
    host = replace(inventory.load(tmp_path / "hosts.toml").host("lab2"), workspace=f"~/watch{tmp_path.name}")
    with Connection(host) as opened:
        yield opened


@pytest.fixture
def journal(connection: Connection) -> Journal:
    """Of a run there that the test tells about itself."""
    return begun(connection.workspace)


@pytest.fixture(scope="session")
def cluster(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of a real Slurm behind the host `lab`, which is its login node."""
    if why := slurm_cluster.obstacle():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Slurm here: {why}")
        pytest.skip(f"no Slurm here: {why}")
    cluster = Cluster(tmp_path_factory.mktemp("s"), lab.folder("lab") / "bin")
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def healthy_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """For a test that breaks it: whole again, and empty, before and after."""
    cluster.mend()
    yield cluster
    cluster.mend()
