"""The losses compared in the real simulator."""

from __future__ import annotations

import json

import pytest

from proofs.closed_loop import loss_comparison
from tests.trainer.worlds import needs_simulator


@pytest.mark.slow
@needs_simulator
def test_a_policy_trained_with_each_loss_drives_and_an_untrained_one_gets_nowhere(capsys) -> None:
    assert loss_comparison.main(["--steps", "400", "--every", "400", "--seeds", "1", "--trials", "2"]) == 0
    untrained, published, normalised = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (untrained["loss"], untrained["successes"]) == ("untrained", 0)
    assert (published["loss"], normalised["loss"]) == ("published", "normalised")
    assert published["successes"] + normalised["successes"] > 0
    for row in (published, normalised):
        assert row["action_mse"] < 0.3
        assert sum(steps is not None for steps in row["steps_to_success"]) == row["successes"]
