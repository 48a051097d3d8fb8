"""A training on the lab's host whose processes are killed, in its short form; `inv drill survive` is the long one. And
what `inv why` says of causes planted in real trainings; `inv drill why` plants them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proofs.drills import survive_drill, why_drill
from proofs.staging.plants import plants
from rdtops.hostlib import manifest
from rdtops.lab.site import Lab
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture
def connection(lab: Lab, tmp_path: Path) -> Iterator[Connection]:
    lab.up()
    lab.write_inventory(tmp_path / "hosts.toml", {})
    host = inventory.load(tmp_path / "hosts.toml").host("lab2")
    with Connection(replace(host, workspace=str(lab.home("lab2") / tmp_path.name))) as opened:
        yield opened


@pytest.fixture
def assets(tiny_hosts: Path) -> dict[str, str]:
    made = tiny_hosts.parent
    return {"dataset": str(made / "libero_tiny"), "pretrained": str(made / "rdt-tiny"),
            "text_encoder": str(made / "t5-tiny"), "vision_encoder": str(made / "siglip-tiny")}


def test_a_training_outlives_its_loader_worker_its_supervisor_and_its_tmux_server(connection, assets, tmp_path) -> None:
    drilled = survive_drill.drill_survive(connection, assets, 3, lambda _: None, trainings=1, steps=60,
                                    victims=(survive_drill.WORKER, survive_drill.SUPERVISOR, survive_drill.TMUX))
    assert drilled.problems == ()
    assert {row.killed: row.times for row in drilled.rows} == {
        survive_drill.WORKER: 1, survive_drill.SUPERVISOR: 1, survive_drill.TMUX: 1}


@pytest.mark.slow
def test_a_training_outlives_all_of_them(connection, assets) -> None:
    drilled = survive_drill.drill_survive(connection, assets, len(survive_drill.VICTIMS), lambda _: None, trainings=1)
    assert drilled.problems == ()
    assert sum(row.times for row in drilled.rows) == len(survive_drill.VICTIMS)


def test_the_drill_sees_a_wrong_bit(connection, assets) -> None:
    left_alone, other = (survive_drill.DrillTraining(connection, assets, steps=60) for _ in range(2))
    for training in (left_alone, other):
        last = Path(training.spec.paths.checkpoints) / "step_000060"
        last.mkdir(parents=True)
        (last / "model.safetensors").write_bytes(b"\x00" if training is left_alone else b"\x01")
        manifest.seal(last)
    assert survive_drill.differences(left_alone.subject, other.subject) == [
        "model.safetensors: its MD5 is not that of the undisturbed training"]


def test_planted_causes_are_named(lab, connection, assets) -> None:
    wanted = {"bad_sample", "killed", "config"}
    chosen = {plant.cause: plant for plant in plants() if plant.cause in wanted}
    drilled = why_drill.drill_why(lab, connection, assets, list(chosen.values()), lambda _: None)
    assert {row.planted: row.named for row in drilled.rows} == {cause: cause for cause in wanted}


@pytest.mark.slow
def test_every_planted_cause_is_named(lab, connection, assets) -> None:
    drilled = why_drill.drill_why(lab, connection, assets, plants(), lambda _: None)
    assert len({row.planted for row in drilled.rows}) >= 16
    assert [row for row in drilled.rows if not row.passed] == []
