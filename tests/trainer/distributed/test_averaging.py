"""What two, three and four real processes share out between them, beside the same done by each alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from rdtops.trainer.model.rdt import RDTPolicy
from tests.trainer.conftest import ALONE, REPOSITORY
from tests.trainer.distributed import group_results
from tests.trainer.distributed.group_results import MICRO_BATCHES, STEPS, WORLDS

DIES = 1  # rank of the largest group


@pytest.fixture(scope="module")
def groups(assets, tmp_path_factory) -> dict[int, list[dict[str, Any]]]:
    """Results by size of the group and rank."""
    folder = tmp_path_factory.mktemp("groups")
    wanted = [assets[role] for role in ("dataset", "pretrained", "text_encoder", "vision_encoder")]
    program = [sys.executable, "-m", "tests.trainer.distributed.group_results", str(folder)]
    members = [subprocess.Popen([*program, str(rank), *wanted], cwd=REPOSITORY, text=True, stderr=subprocess.PIPE,
                                env={**os.environ, "OMP_NUM_THREADS": "1"}) for rank in range(max(WORLDS))]
    try:
        complaints = [member.communicate(timeout=240)[1] for member in members]
    finally:
        for member in members:
            member.kill()
    codes = [member.returncode for member in members]
    assert codes == [-signal.SIGKILL if rank == DIES else 0 for rank in range(len(members))], complaints
    return {world: [json.loads((folder / f"{world}-{rank}.json").read_text()) for rank in range(world)
                    if (world, rank) != (max(WORLDS), DIES)] for world in WORLDS}


@pytest.mark.parametrize("world", WORLDS)
def test_gradients_averaged_during_the_backward_pass_have_the_bits_of_those_averaged_after_it(groups, world) -> None:
    """Also where the training is resumed after a step, whose first backward pass overlaps with nothing."""
    digests = {found[how]["digest"] for found in groups[world] for how in ("afterwards", "overlapped", "resumed")}
    assert len(digests) == 1


@pytest.mark.parametrize("world", WORLDS)
def test_only_the_last_micro_batch_sends_and_it_sends_while_it_computes(groups, world) -> None:
    for found in groups[world]:
        sent, count = found["overlapped"]["sent"], found["overlapped"]["buckets"]
        assert len(sent) == STEPS * MICRO_BATCHES
        assert count > 5
        assert sent == [0, 0, *[0, count] * (STEPS - 1)]  # the first step learns the order


@pytest.mark.parametrize("world", WORLDS)
def test_processes_whose_gradients_come_in_other_orders_send_in_one(groups, world) -> None:
    assert all(found["crossed"] for found in groups[world])


@pytest.mark.parametrize("world", WORLDS)
def test_ema_weights_that_are_shared_out_are_those_of_one_process(groups, world) -> None:
    for found in groups[world]:
        ema = found["ema"]
        assert ema["share"] == pytest.approx(1 / world, rel=0.1)
        assert ema["is_whole"]
        assert ema["is_apart_again"]
        assert ema["is_saved"]


def test_evaluations_have_the_same_bits_with_any_number_of_processes(groups, assets, tmp_path) -> None:
    model = RDTPolicy.from_pretrained(assets["pretrained"]).eval()
    alone = [ALONE.evaluate(model, evaluation) for evaluation in group_results.evaluations(
        tmp_path, assets["dataset"], assets["text_encoder"], assets["vision_encoder"])]
    assert {tuple(found["evaluated"]) for world in WORLDS for found in groups[world]} == {tuple(alone)}


def test_a_process_killed_in_the_backward_pass_ends_the_others_within_seconds(groups) -> None:
    for found in groups[max(WORLDS)]:
        assert found["bereaved"]["step"] == 1
        assert "lost contact with the other processes: " in found["bereaved"]["error"]
        assert found["bereaved"]["seconds"] < 20
