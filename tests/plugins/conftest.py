"""The bundled plugins as the registry loads them, and recorded output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdtops.contract.run import RunSpec
from rdtops.plugging import registry
from rdtops.ssh.hosts import Host
from rdtops.ssh.probe import Output
from rdtops.testing import BROKEN, ScriptedConnection, make_host, make_spec, said

__all__ = ["BROKEN", "ScriptedConnection", "as_json", "recorded", "said"]
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def plugins() -> dict[str, Any]:
    return {p.name: p.module for p in registry.load().loaded}


@pytest.fixture
def host() -> Callable[..., Host]:
    return make_host


@pytest.fixture
def spec() -> Callable[..., RunSpec]:
    return make_spec


def recorded(name: str) -> Output:
    return said((DATA / name).read_text())


def as_json(values: object) -> str:
    return json.dumps(values)
