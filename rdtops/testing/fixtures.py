"""pytest fixtures with a real host: `pytest_plugins = ["rdtops.testing.fixtures"]` in a test module or root conftest.

The lab starts when the first test needs it (a second), needs no root, and ends with the session. Where it cannot
start, its tests are skipped; with CI=true they fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.contract.run import RunSpec
from rdtops.errors import LabError
from rdtops.lab.ports import Ports
from rdtops.lab.site import Lab
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.testing.scripted import make_spec


@pytest.fixture(scope="session")
def rdtops_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start a jump host and two GPU hosts on separate ports. A test that breaks the lab calls `rdtops_lab.up()`."""
    yield from running_lab(tmp_path_factory, os.environ.get("RDTOPS_LAB_BACKEND", "auto"))


@pytest.fixture
def lab_host(rdtops_lab: Lab, tmp_path: Path) -> Host:
    """Return a GPU host of the lab behind its jump host, with a workspace that no other test uses."""
    rdtops_lab.write_inventory(tmp_path / "hosts.toml", {})
    host = inventory.load(tmp_path / "hosts.toml").host("lab2")
    return replace(host, workspace=str(rdtops_lab.home("lab2") / f"{tmp_path.parent.name}-{tmp_path.name}"))


@pytest.fixture
def lab_connection(lab_host: Host) -> Iterator[Connection]:
    with Connection(lab_host) as connection:
        yield connection


@pytest.fixture
def lab_spec(lab_host: Host) -> Callable[..., RunSpec]:
    """Return a function: `lab_spec("max_steps=10")` is the preset `tiny` in the host's workspace, with settings."""
    def make(*settings: str, name: str = "tiny") -> RunSpec:
        return make_spec(*settings, name=name, host=lab_host.name, workspace=lab_host.workspace)
    return make


def running_lab(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Lab]:
    """Yield a lab that is up, until the generator is closed."""
    lab = Lab(tmp_path_factory.mktemp("lab"), Ports.free())
    try:
        lab.up(backend)
    except LabError as error:
        lab.down()
        if os.environ.get("CI") == "true":  # in CI a lab that cannot start is a failure
            pytest.fail(f"{error.message}; {error.remedy}")
        pytest.skip(f"no lab here: {error.message}; {error.remedy}")
    yield lab
    lab.down()
