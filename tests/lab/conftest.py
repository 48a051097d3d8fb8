"""The lab the tests share. It has ports of its own, so that it disturbs no other lab on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from rdtops.errors import LabError
from rdtops.lab.ports import Ports
from rdtops.lab.site import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that is up. Tests that break it put it right again with `lab.up()`."""
    yield from running_lab(tmp_path_factory, os.environ.get("RDTOPS_LAB_BACKEND", "auto"))


def running_lab(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), Ports.free())
    try:
        lab.up(backend)
    except LabError as error:
        lab.down()
        if os.environ.get("CI") == "true":  # there a lab that cannot come up is a failure, not an excuse
            pytest.fail(f"{error.message}; {error.remedy}")
        pytest.skip(f"no lab here: {error.message}; {error.remedy}")
    yield lab
    lab.down()
