"""Two clones on one machine, as two people have them: each has a lab of its own, and trains in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine, clone_into

pytestmark = pytest.mark.lab


@pytest.fixture
def clones(tmp_path: Path, named_assets: dict[str, str]) -> Iterator[list[CommandLine]]:
    """Two copies of this tree, with the tiny assets made; neither lab is up."""
    lines = []
    for name in ("one", "two"):
        clone = clone_into(tmp_path / name / "rdtops", named_assets)
        lines.append(CommandLine(tmp_path / name, clone / "hosts.toml", clone))
    yield lines
    for line in lines:
        Lab(line.root / ".lab").down()


def test_each_clone_reaches_its_own_lab_and_is_never_told_to_trust_the_others(clones: list[CommandLine]) -> None:
    one, two = clones
    one.good("lab.up")
    assert "inv trust" not in two.refused("hosts --ping --host lab", 2, "inv lab.up").said  # its own is not up
    two.good("lab.up")
    first_hops = [line.good("hosts --ping --host lab --json").rows()[0]["route"][0] for line in clones]
    ports = [Lab(line.root / ".lab").ports for line in clones]
    assert [hop.partition("@")[2] for hop in first_hops] == [f"127.0.0.1:{port.jump}" for port in ports]
    assert ports[0] != ports[1]


@pytest.mark.slow
def test_both_clones_train_side_by_side(clones: list[CommandLine]) -> None:
    for line in clones:
        line.good("lab.up")
        line.good("deploy check train --host lab --set max_steps=4")
    assert [len(line.good("status --host lab --json").rows()) for line in clones] == [1, 1]
