"""`inv bench gpu`, where there is no GPU: what it measures and how it says it, on a model that fits this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine

pytestmark = pytest.mark.lab
PARTS = {"numbers": ("ceilings", "numbers"), "speed": ("ceilings", "speed")}


@pytest.fixture
def inv(tiny_hosts: Path, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, tiny_hosts)


@pytest.mark.parametrize("part", PARTS)
def test_a_host_measures_with_the_code_that_is_deployed_there(inv: CommandLine, lab: Lab, part: str) -> None:
    assert inv("deploy --host lab --only code").code == 0
    done = inv(f"bench gpu --host lab --only {part} --json")
    rows = done.rows()
    assert done.code == 0, done.said
    assert {row["where"] for row in rows} == {"lab"}
    assert tuple(dict.fromkeys(row["part"] for row in rows)) == PARTS[part]
    assert not list((lab.home("lab") / "rdtops" / "cache" / "gpu-bench").glob("gpu-bench-*"))  # what it made is gone


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_where_no_gpu_is_seen_it_says_so_and_what_to_type(inv: CommandLine) -> None:
    done = inv("bench gpu")
    assert done.code == 1
    assert "sees no GPU here" in done.err
    assert "inv bench gpu --host HOST" in done.err


def test_another_bench_does_not_run_on_a_host(inv: CommandLine) -> None:
    done = inv("bench trainer --host lab")
    assert done.code == 2
    assert "the bench 'trainer' runs on this machine" in done.err


@pytest.mark.slow
def test_a_killed_training_and_the_whole_preset_are_part_of_it(inv: CommandLine, lab: Lab) -> None:
    assert inv("deploy --host lab --only code").code == 0
    rows = [row for only in ("resume", "preset", "bits")
            for row in inv(f"bench gpu --host lab --only {only} --json", timeout_s=300).rows()]
    kept = {row["name"]: row["holds"] for row in rows if row["expected"] is not None}
    assert kept == {"kill and resume of tiny": True, "the preset, tiny, 4 steps": True,
                    "attention's gradients, 67 x 4,374 tokens": True, "gradients of tiny, batch 4": True}
