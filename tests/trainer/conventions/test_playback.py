"""Actions through the codec and back, played in the real simulator from where they were recorded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.trainer.conventions import Verdict, __main__, playback
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import codec
from rdtops.trainer.simulation import simulator
from tests.trainer.conftest import RECORDING
from tests.trainer.worlds import DRAWER, needs_simulator

pytestmark = needs_simulator
CODEC = codec("delta_velocity")


@pytest.fixture(scope="module", autouse=True)
def one_world():
    """Built once: each takes seconds."""
    simulator.load(images=False)
    world = simulator.Simulator(simulator.tasks("libero_90", DRAWER)[0], images=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "close", lambda: None)
        patch.setattr(playback, "Simulator", lambda *_, **__: world)
        yield
    world._env.close()


def played(using="delta_velocity", columns=(), factor=1.0):
    first = libero.index(RECORDING).episodes[0]
    actions = first.actions_T7.copy()
    actions[:, list(columns)] *= factor
    return {f.convention: f for f in playback.findings(RECORDING, [replace(first, actions_T7=actions)], codec(using))}


@pytest.mark.parametrize("using", ["delta_velocity", "absolute_pose", "seed_compat"])
def test_every_codec_gives_back_motion_and_success(using) -> None:
    found = played(using)
    assert [f.verdict for f in found.values()] == [Verdict.HOLDS, Verdict.HOLDS]
    assert found[playback.SUCCESS].says == "1 of 1"


@pytest.mark.parametrize(("columns", "factor", "says"), [
    ((1,), -1, "the arm does not move as recorded"), ((0, 1, 2), 0.05, "the arm does not move as recorded"),
    ((6,), -1, "the gripper does not move as recorded")], ids=["y flipped", "metres", "gripper inverted"])
def test_another_motion_is_named(columns, factor, says) -> None:
    found = played(columns=columns, factor=factor)[playback.MOTION]
    assert (found.verdict, found.is_certain) == (Verdict.BROKEN, False)
    assert says in found.says


def test_the_command_plays_them(capsys) -> None:
    assert __main__.main([str(RECORDING), "--simulator", "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "ok      played back in the simulator, the task succeeds: 1 of 1" in out
    assert "nothing was played" not in out


def test_a_file_of_no_known_task_is_told_and_the_others_are_played(demonstrations) -> None:
    demonstrations.write("a.hdf5")
    strange = libero.index(demonstrations.folder).episodes
    (found,) = playback.findings(demonstrations.folder, strange, CODEC)
    assert (found.verdict, found.evidence) == (Verdict.UNKNOWN, "a.hdf5")
    demonstrations.write("z.hdf5")
    known = Path(shutil.copy(next(RECORDING.glob("*.hdf5")), demonstrations.folder / "known.hdf5"))
    (first, *_) = libero.index(RECORDING).episodes
    episodes = [strange[0], replace(first, file=known.name), replace(strange[0], file="z.hdf5")]
    motion, success, *untold = playback.findings(demonstrations.folder, episodes, CODEC)
    assert (motion.verdict, success.says) == (Verdict.HOLDS, "1 of 1")
    assert [(f.convention, f.verdict, f.evidence) for f in untold] == [
        (playback.MOTION, Verdict.UNKNOWN, "a.hdf5"), (playback.MOTION, Verdict.UNKNOWN, "z.hdf5")]
