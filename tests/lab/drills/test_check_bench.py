"""The benchmark of checks measures a real check beside a real ssh, and hides no failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from proofs.benches import check_bench
from proofs.benches.check_bench import Route
from rdtops.lab.site import Lab
from rdtops.ui.repository import StepFailed

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture
def route(lab: Lab, tiny_hosts: Path, tmp_path: Path) -> Route:
    lab.up()
    env = {"RDTOPS_HOSTS": str(tiny_hosts), "RDTOPS_STATE": str(tmp_path)}
    return Route("no delay", (), lab.ssh_config, "lab2", env)


@pytest.mark.slow
def test_a_check_is_held_against_ssh_and_its_slowest_probe(route: Route) -> None:
    check_bench._run(route, route.inv("deploy"), {})
    row = check_bench._compared(route, "some", {}, 1, lambda _: None)
    assert 0.5 < row.value < 10
    assert row.holds is (row.value <= check_bench.GOAL)
    assert "slowest probe (" in row.how


@pytest.mark.slow
def test_a_warm_check_is_held_against_a_fresh_one_and_a_training_against_it(route: Route) -> None:
    check_bench._run(route, route.inv("deploy"), {})
    warm, train = check_bench._warm(route, 1, lambda _: None)
    assert 0.05 < warm.value < 1.5
    assert 0.2 < train.value < 10


def test_a_check_that_fails_is_no_fast_check(route: Route) -> None:
    with pytest.raises(StepFailed, match="ended with exit 2"):
        check_bench._run(route, route.inv("check --set nonsense=1"), {})


def test_the_goal_is_the_one_that_was_set() -> None:
    assert check_bench.GOAL == 1.5
