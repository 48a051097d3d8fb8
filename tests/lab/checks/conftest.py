"""A host with a workspace that is only for checks, and what they ask of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdtops.contract.config import override, preset
from rdtops.contract.run import RunSpec
from rdtops.lab.site import Lab
from rdtops.plugging import registry
from rdtops.ssh.connection import Connection
from rdtops.ssh.inventory import load


@pytest.fixture(scope="module")
def plugins() -> dict[str, Any]:
    return {p.name: p.module for p in registry.load().loaded}


@pytest.fixture(scope="module")
def inventory(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hosts of the lab, of a laptop that has none of the assets."""
    file = tmp_path_factory.mktemp("checks") / "hosts.toml"
    lab.write_inventory(file, {name: str(file.parent / "not there" / name) for name in (
        "libero_tiny", "rdt-tiny", "t5-tiny", "siglip-tiny")})
    return file


@pytest.fixture(scope="module")
def link(inventory: Path) -> Iterator[Connection]:
    with Connection(load(inventory).host("lab2")) as opened:
        yield opened


@pytest.fixture
def workspace(lab: Lab) -> Iterator[Path]:
    """A workspace on the host that no other test uses."""
    folder = lab.home("lab2") / "checks"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def spec(workspace: Path):
    def make(*settings: str, name: str = "libero_single_task") -> RunSpec:
        train = override(preset(name), settings)
        assets = {role: f"{workspace}/assets/{getattr(train, role)}"
                  for role in ("dataset", "pretrained", "text_encoder", "vision_encoder")}
        return RunSpec("20261124-101530-x-3fa9", "lab2", "now", str(workspace), f"{workspace}/releases/s", "s", assets,
                       train)
    return make
