"""Faults planted into real demonstrations and into codecs: each is named, and clean data raise none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from rdtops.contract.config import CONVENTIONS
from rdtops.trainer.conventions import NAMES as JUDGED_NAMES
from rdtops.trainer.conventions import Verdict, __main__, check, coding, gripper, motion, pose
from rdtops.trainer.conventions.panda import gripper_pose
from rdtops.trainer.data import libero, rotations
from rdtops.trainer.data.actions import GRIPPER_OPEN, AbsolutePose, DeltaVelocity, SeedCompat, codec
from rdtops.trainer.simulation import simulator
from tests.trainer.conftest import HERE, RECORDING
from tests.trainer.conventions import teleoperation
from tests.trainer.worlds import DRAWER, needs_simulator

MOTIONS = HERE / "fixtures" / "motions.hdf5"
CODEC = codec("delta_velocity")
Arrays = dict[str, np.ndarray]
NAMES = {"actions_T7": "actions", "joint_rad_T7": "obs/joint_states", "finger_m_T2": "obs/gripper_states",
         "position_m_T3": "obs/ee_pos", "axis_angle_rad_T3": "obs/ee_ori"}


def motions(change: Callable[[Arrays], None] = lambda _: None) -> list[libero.Episode]:
    """The episodes of motions.hdf5, see motions.md; `change` plants a fault into the arrays of each."""
    return read(MOTIONS, change)


def read(path: Path, change: Callable[[Arrays], None] = lambda _: None) -> list[libero.Episode]:
    episodes = []
    with h5py.File(path) as file:
        for name, demo in file["data"].items():
            arrays = {field: demo[path][()].astype(np.float64) for field, path in NAMES.items()}
            change(arrays)
            episodes.append(libero.Episode(path.name, name, str(demo.attrs["kind"]), "after", **arrays))
    return episodes


def of_numbers(episodes, using=CODEC):
    """All findings that need no image."""
    return [*pose.findings(episodes), *motion.findings(episodes, using), *gripper.findings(episodes, using),
            *coding.findings(episodes, using)]


def broken(findings) -> dict[str, str]:
    return {f.convention: f.says for f in findings if f.verdict is Verdict.BROKEN}


# --- clean data ---

@pytest.mark.parametrize("using", [CODEC, codec("absolute_pose")], ids=lambda c: c.name)
def test_clean_data_break_nothing_and_show_everything_when_every_axis_moves(using) -> None:
    findings = of_numbers(motions(), using)
    assert {f.verdict for f in findings} == {Verdict.HOLDS}


@pytest.mark.parametrize("number", range(8))
def test_a_single_clean_episode_breaks_nothing(number) -> None:
    assert broken(of_numbers(motions()[number:number + 1])) == {}


@pytest.mark.parametrize("steps", [2, 6])
def test_an_episode_too_short_to_tell_is_no_fault(steps) -> None:
    short = [replace(e, **{field: getattr(e, field)[:steps] for field in NAMES}) for e in motions()[:1]]
    assert broken(of_numbers(short)) == {}
    assert {f.verdict for f in motion.findings(short, CODEC)} == {Verdict.UNKNOWN}


@pytest.mark.parametrize(("kind", "told"), [
    ("down", {motion.AXES["position"]: "checked for z"}), ("yaw", {motion.AXES["rotation"]: "checked for z"})])
def test_of_an_axis_that_is_not_moved_nothing_is_said(kind, told) -> None:
    episode = next(e for e in motions() if e.instruction.startswith(kind))
    findings = {f.convention: f for f in motion.findings([episode], CODEC)}
    for convention, says in told.items():
        assert (findings[convention].verdict, findings[convention].says) == (Verdict.HOLDS, says)
        assert "cannot tell: x, y" in findings[convention].evidence
    assert {f.verdict for name, f in findings.items() if "position" in name or "rotation" in name} != {Verdict.HOLDS}


def test_fingers_that_stay_together_do_not_show_how_they_are_written() -> None:
    dataset = libero.index(RECORDING)
    closed = [replace(e, finger_m_T2=np.zeros_like(e.finger_m_T2)) for e in dataset.episodes]
    fingers = {f.convention: f.verdict for f in gripper.findings(closed, CODEC)}
    assert fingers[gripper.FINGERS] is Verdict.UNKNOWN


def test_an_arm_that_stands_still_tells_nothing_of_motion() -> None:
    still = next(e for e in motions() if e.instruction.startswith("still"))
    assert {f.verdict for f in motion.findings([still], CODEC)} == {Verdict.UNKNOWN}


@pytest.mark.parametrize("episodes", [slice(0, 1), slice(1, 2), slice(0, 2)])
def test_the_recorded_demonstrations_break_nothing(episodes) -> None:
    """They push in one direction; whether an action is one step off cannot be told from them, and is not."""
    dataset = libero.index(RECORDING)
    findings = {f.convention: f for f in check(replace(dataset, episodes=dataset.episodes[episodes]), CODEC)}
    assert broken(findings.values()) == {}
    assert findings[motion.TIMING].verdict is Verdict.UNKNOWN
    unknown = [f.convention for f in findings.values() if f.verdict is Verdict.UNKNOWN]
    assert len(unknown) <= 4, unknown


def test_the_arm_of_the_check_is_the_arm_of_the_recordings() -> None:
    """The base stands at (-0.66, 0, 0.912) m in these scenes."""
    for e in motions():
        position, rotation = gripper_pose(e.joint_rad_T7)
        np.testing.assert_allclose(position + np.array([-0.66, 0, 0.912]), e.position_m_T3, atol=0.002)
        np.testing.assert_allclose(rotations.columns(rotation), rotations.rotation_6d(e.axis_angle_rad_T3), atol=0.01)


# --- clean data in the manner of people: fixtures/teleoperated.hdf5, see teleoperation.py ---

def teleoperated() -> list[libero.Episode]:
    return read(HERE / "fixtures" / "teleoperated.hdf5")


def observed_before(e: libero.Episode) -> libero.Episode:
    """The same motion, as files have it whose obs are of the moment before the action."""
    obs = {field: getattr(e, field)[:-1] for field in NAMES if field != "actions_T7"}
    return replace(e, observed="before", actions_T7=e.actions_T7[1:], **obs)


@pytest.mark.parametrize("as_observed", [lambda e: e, observed_before], ids=["after", "before"])
@pytest.mark.parametrize("using", [CODEC, codec("absolute_pose")], ids=lambda c: c.name)
def test_people_raise_no_alarm_alone_in_twos_or_together(using, as_observed) -> None:
    """Pauses, saturated bursts, very slow motion, an arm that only turns, a gripper that never closes, pushing into
    things: three of each."""
    episodes = [as_observed(e) for e in teleoperated()]
    assert len(episodes) == 30
    groups = [*([e] for e in episodes), *(episodes[i:i + 2] for i in range(29)), episodes]
    alarms = {e[0].name: found for e in groups if (found := broken(of_numbers(e, using)))}
    assert alarms == {}
    assert {f.verdict for f in of_numbers(episodes, using)} == {Verdict.HOLDS}


@pytest.mark.slow
@needs_simulator
def test_people_raise_no_alarm_with_other_draws_and_in_other_scenes_with_images(tmp_path) -> None:
    simulator.load(images=True)  # before a world without: a process has one kind
    for number, (suite, name) in enumerate([("libero_90", DRAWER), ("libero_object", "1,"), ("libero_goal", "2,")]):
        out = tmp_path / suite / "a.hdf5"
        out.parent.mkdir()
        teleoperation.write(out, simulator.tasks(suite, name)[0], 10, seed=100 + number)
        dataset = libero.index(out.parent)
        assert {e.name: found for e in dataset.episodes if (found := broken(of_numbers([e])))} == {}
        teleoperation.write(out, simulator.tasks(suite, name)[0], 1, seed=200 + number, see=True, steps=60)
        assert broken(check(libero.index(out.parent), CODEC)) == {}


# --- faults in the data ---

def scaled(field: str, columns: slice, factor) -> Callable[[Arrays], None]:
    return lambda a: a.__setitem__(field, np.concatenate(
        [a[field][:, :columns.start], a[field][:, columns] * factor, a[field][:, columns.stop:]], axis=1))


def reordered(field: str, order: list[int]) -> Callable[[Arrays], None]:
    return lambda a: a.__setitem__(field, a[field][:, order])


def rolled(field: str, steps: int) -> Callable[[Arrays], None]:
    return lambda a: a.__setitem__(field, np.roll(a[field], steps, axis=0))


def rewritten(write: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    """ee_ori, written in another way."""
    return lambda a: a.__setitem__("axis_angle_rad_T3", write(a["axis_angle_rad_T3"]))


def quaternion_w_first(axis_angle: np.ndarray) -> np.ndarray:
    """w, x, y, z handed to a function that takes x, y, z, w."""
    angle = np.linalg.norm(axis_angle, axis=1, keepdims=True)
    x, y, z = (axis_angle / angle * np.sin(angle / 2)).T
    wrong = np.stack([np.cos(angle[:, 0] / 2), x, y, z], axis=1)
    half = np.arccos(wrong[:, 3:])
    return 2 * half * wrong[:, :3] / np.sin(half)


def in_the_hands_frame(a: Arrays) -> None:
    """The action of a row follows the pose of the row before."""
    turn = rotations.matrix(a["axis_angle_rad_T3"])[:-1]
    a["actions_T7"][1:, 3:6] = np.einsum("tji,tj->ti", turn, a["actions_T7"][1:, 3:6])


def frozen(a: Arrays) -> None:
    a["position_m_T3"][:] = a["position_m_T3"][0]


def gripper_from_0_to_1(a: Arrays) -> None:
    a["actions_T7"][:, 6] = (a["actions_T7"][:, 6] + 1) / 2


def gripper_averaged(a: Arrays) -> None:
    a["actions_T7"][:, 6] = a["actions_T7"][:, 6].mean()


def mean_of_fingers(a: Arrays) -> None:
    a["finger_m_T2"][:] = a["finger_m_T2"].mean(1, keepdims=True)


def width_twice(a: Arrays) -> None:
    a["finger_m_T2"][:] = (a["finger_m_T2"][:, :1] - a["finger_m_T2"][:, 1:]) / 2


X, Y, Z = (np.array(signs) for signs in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))
DATA_FAULTS = [
    ("centimetres", scaled("position_m_T3", slice(0, 3), 100), pose.POSITION, "centimetres"),
    ("millimetres", scaled("position_m_T3", slice(0, 3), 1000), pose.POSITION, "millimetres"),
    ("position y flipped", scaled("position_m_T3", slice(0, 3), Y), pose.POSITION, "axis y flipped"),
    ("positions reordered", reordered("position_m_T3", [1, 0, 2]), pose.POSITION, "axes in the order y, x, z"),
    ("Euler", rewritten(lambda r: rotations.euler(rotations.matrix(r))), pose.ROTATION, "Euler angles (fixed x, y, z)"),
    ("degrees", rewritten(np.rad2deg), pose.ROTATION, "degrees"),
    ("inverse", rewritten(np.negative), pose.ROTATION, "the base seen from the hand"),
    ("quaternion", rewritten(quaternion_w_first), pose.ROTATION, "quaternion in the wrong order"),
    ("pose late", rolled("position_m_T3", 1), pose.TIMING, "off by 1: late"),
    ("pose frozen", frozen, pose.TIMING, "frozen"),
    ("action x flipped", scaled("actions_T7", slice(0, 3), X), motion.AXES["position"], "position axis x flipped"),
    ("action z flipped", scaled("actions_T7", slice(0, 3), Z), motion.AXES["position"], "position axis z flipped"),
    ("actions reordered", reordered("actions_T7", [1, 0, 2, 3, 4, 5, 6]), motion.AXES["position"],
     "position axes swapped: x as y, y as x"),
    ("turn z flipped", scaled("actions_T7", slice(3, 6), Z), motion.AXES["rotation"], "rotation axis z flipped"),
    ("hand's frame", in_the_hands_frame, motion.FRAME, "in the hand's frame"),
    ("metres", scaled("actions_T7", slice(0, 3), 0.05), motion.SCALE["position"], "in metres: they were multiplied by"),
    ("rad", scaled("actions_T7", slice(3, 6), 0.5), motion.SCALE["rotation"], "in rad: they were multiplied by"),
    ("degrees twice", scaled("actions_T7", slice(3, 6), np.pi / 180), motion.SCALE["rotation"], "to rad twice"),
    ("action late", rolled("actions_T7", 1), motion.TIMING, "off by 1: motion is that of the action after it"),
    ("action early", rolled("actions_T7", -1), motion.TIMING, "off by 1: motion is that of the action before it"),
    ("gripper inverted", scaled("actions_T7", slice(6, 7), -1), gripper.SIGN, "inverted"),
    ("gripper 0 to 1", gripper_from_0_to_1, gripper.RANGE, "from 0 to 1"),
    ("gripper averaged", gripper_averaged, gripper.RANGE, "averaged"),
    ("mean of fingers", mean_of_fingers, gripper.FINGERS, "never move"),
    ("width twice", width_twice, gripper.FINGERS, "both columns are the same"),
    ("fingers swapped", reordered("finger_m_T2", [1, 0]), gripper.FINGERS, "swapped"),
]


@pytest.mark.parametrize(("change", "convention", "says"), [pytest.param(*f[1:], id=f[0]) for f in DATA_FAULTS])
def test_a_fault_in_the_numbers_is_named_and_nothing_else_is(change, convention, says) -> None:
    found = broken(of_numbers(motions(change)))
    assert list(found) == [convention], found
    assert says in found[convention]


PEOPLES_FAULTS = ("centimetres", "position y flipped", "Euler", "pose late", "action x flipped", "action z flipped",
                  "turn z flipped", "hand's frame", "metres", "action late", "action early", "gripper inverted",
                  "width twice")


@pytest.mark.parametrize(("change", "convention", "says"),
                         [pytest.param(*f[1:], id=f[0]) for f in DATA_FAULTS if f[0] in PEOPLES_FAULTS])
def test_the_same_faults_are_named_in_what_people_do(change, convention, says) -> None:
    found = broken(of_numbers(read(HERE / "fixtures" / "teleoperated.hdf5", change)))
    assert list(found) == [convention], found
    assert says in found[convention]


@pytest.mark.parametrize(("change", "is_certain"), [
    ("centimetres", True), ("millimetres", True), ("degrees", True), ("pose frozen", True), ("mean of fingers", True),
    ("width twice", True), ("gripper inverted", False), ("action x flipped", False), ("action late", False),
    ("gripper averaged", False)])
def test_only_what_no_demonstration_could_look_like_is_certain(change, is_certain) -> None:
    plant = next(f[1] for f in DATA_FAULTS if f[0] == change)
    assert {f.is_certain for f in of_numbers(motions(plant)) if f.verdict is Verdict.BROKEN} == {is_certain}


def test_joints_in_degrees_are_certain_and_nothing_is_concluded_from_them() -> None:
    (found,) = pose.findings(motions(scaled("joint_rad_T7", slice(0, 7), 180 / np.pi)))
    assert (found.convention, found.verdict, found.is_certain) == (pose.JOINTS, Verdict.BROKEN, True)


def test_a_codec_that_breaks_its_promise_is_certain() -> None:
    assert all(f.is_certain for f in coding.findings(motions(), EulerState()) if f.verdict is Verdict.BROKEN)


def test_what_is_judged_can_be_taken_on_trust_and_what_is_certain_cannot() -> None:
    dataset = libero.index(RECORDING)
    wrong = replace(dataset, episodes=tuple(
        replace(e, actions_T7=e.actions_T7 * [1, 1, 1, 1, 1, 1, -1], axis_angle_rad_T3=np.rad2deg(e.axis_angle_rad_T3))
        for e in dataset.episodes))
    assert set(broken(check(wrong, CODEC))) == {gripper.SIGN, pose.ROTATION}
    assert set(broken(check(wrong, CODEC, trusted=["gripper_sign", "pose_rotation"]))) == {pose.ROTATION}


def test_every_judgement_has_a_name_that_the_configuration_knows() -> None:
    assert set(JUDGED_NAMES.values()) == set(CONVENTIONS)
    judged = {f.convention for f in check(libero.index(RECORDING), CODEC)}
    assert judged - set(JUDGED_NAMES) == {pose.JOINTS, coding.ROUND_TRIP, coding.SLOT_UNITS, coding.STATE, coding.MASKS}


def test_a_fault_in_one_of_several_files_is_named_with_the_file() -> None:
    dataset = libero.index(RECORDING)
    (stored,) = dataset.images.values()
    dataset = replace(dataset, images={**dataset.images, "good.hdf5": stored, "bad.hdf5": stored})
    both = [replace(e, file=name, **({"position_m_T3": 100 * e.position_m_T3} if name == "bad.hdf5" else {}))
            for e, name in zip(dataset.episodes, ("good.hdf5", "bad.hdf5"), strict=True)]
    found = check(replace(dataset, episodes=tuple(both)), CODEC, Pictures(dataset))
    assert [(f.convention, f.files) for f in found if f.verdict is Verdict.BROKEN] == [(pose.POSITION, ("bad.hdf5",))]


# --- faults of what is seen and said ---

class Pictures(libero.Frames):
    """Frames of the recording, whatever an episode says its file is; `change` edits the (C, S, S, 3) of each step."""

    def __init__(self, dataset, change=lambda frames: frames, when=lambda step: step) -> None:
        super().__init__(dataset)
        self.change, self.when, self.recorded = change, when, {e.name: e for e in dataset.episodes}

    def read(self, episode, step):
        return self.change(super().read(self.recorded[episode.name], self.when(step)))


SIGHT_FAULTS = [
    ("flipped", lambda f: f[:, ::-1], None, {"agentview is upright": "upside down",
                                             "the wrist's image is upright": "upside down"}),
    ("agentview flipped", lambda f: np.stack([f[0, ::-1], f[1]]), None, {"agentview is upright": "upside down"}),
    ("mirrored", lambda f: f[:, :, ::-1], None, {"agentview is not mirrored": "mirrored, left for right"}),
    ("cameras swapped", lambda f: f[::-1], None, {"each camera's images are under its name": "swapped"}),
    ("BGR", lambda f: f[..., ::-1], None, {"colours are red, green, blue": "(BGR)"}),
    ("history repeated", None, lambda step: step - step % 2, {"every step has images of its own": "is repeated"}),
    ("frozen", None, lambda _: 7, {"every step has images of its own": "frozen"}),
]


@pytest.mark.parametrize(("change", "when", "says"), [pytest.param(*f[1:], id=f[0]) for f in SIGHT_FAULTS])
def test_a_fault_in_the_images_is_named_and_nothing_else_is(change, when, says) -> None:
    dataset = libero.index(RECORDING)
    frames = Pictures(dataset, change or (lambda f: f), when or (lambda step: step))
    found = broken(check(dataset, CODEC, frames))
    assert list(found) == list(says), found
    assert all(says[convention] in found[convention] for convention in says)


@pytest.mark.parametrize(("declared", "wrong"), [
    ("upright", {"agentview is upright", "the wrist's image is upright"}),
    ("turned", {"agentview is not mirrored"}),
    ("mirrored", {"agentview is upright", "the wrist's image is upright", "agentview is not mirrored"})])
def test_images_declared_wrongly_are_found_out_and_the_right_value_is_named(declared, wrong) -> None:
    read = libero.index(RECORDING, declared=libero.Declared(images=declared))
    found = [f for f in check(read, CODEC) if f.verdict is Verdict.BROKEN]
    assert {f.convention for f in found} == wrong
    assert {f.remedy for f in found} == {"--set images=upside_down"}


@pytest.mark.parametrize("text", ["KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet", "close_the_drawer",
                                  "KITCHEN SCENE10 close the drawer"])
def test_a_tasks_name_is_no_instruction(text) -> None:
    dataset = libero.index(RECORDING)
    named = replace(dataset, episodes=tuple(replace(e, instruction=text) for e in dataset.episodes))
    assert broken(check(named, CODEC)) == {"the instruction is a sentence": "the instruction is a task's name"}


# --- faults of the codec ---

class Wrong(DeltaVelocity):
    """A codec whose code is wrong in one place."""


def mask(**changed) -> type[DeltaVelocity]:
    return type("Mask", (Wrong,), {name: property(lambda _, m=m: m) for name, m in changed.items()})


class InvertedSlot(Wrong):
    def encode_actions(self, actions_T7, pose_T6=None):
        return super().encode_actions(actions_T7 * [1, 1, 1, 1, 1, 1, -1])

    def decode_actions(self, slots_TA, pose_T6=None):
        return super().decode_actions(slots_TA) * [1, 1, 1, 1, 1, 1, -1]


class InvertedOnTheWayBack(Wrong):
    def decode_actions(self, slots_TA, pose_T6=None):
        return super().decode_actions(slots_TA) * [1, 1, 1, 1, 1, 1, -1]


class FlippedOnTheWayBack(Wrong):
    def decode_actions(self, slots_TA, pose_T6=None):
        return super().decode_actions(slots_TA) * [-1, 1, 1, 1, 1, 1, 1]


class NormalisedTwice(Wrong):
    def decode_actions(self, slots_TA, pose_T6=None):
        return super().decode_actions(slots_TA) * [20, 20, 20, 1, 1, 1, 1]


class MeanAction(Wrong):
    def encode_actions(self, actions_T7, pose_T6=None):
        slots = super().encode_actions(actions_T7)
        slots[:, GRIPPER_OPEN] = slots[:, GRIPPER_OPEN].mean()
        return slots


class MeanState(Wrong):
    def encode_state(self, joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3):
        slots = super().encode_state(joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3)
        slots[:, GRIPPER_OPEN] = np.mean(finger_m_T2, axis=1, keepdims=True)
        return slots


class EulerState(Wrong):
    def encode_state(self, joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3):
        slots = super().encode_state(joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3)
        slots[:, 33:39] = rotations.columns(rotations.from_euler(axis_angle_rad_T3))
        return slots


class CentimetreState(Wrong):
    def encode_state(self, joint_rad_T7, finger_m_T2, position_m_T3, axis_angle_rad_T3):
        return super().encode_state(joint_rad_T7, finger_m_T2, 100 * np.asarray(position_m_T3), axis_angle_rad_T3)


class HandsFrame(AbsolutePose):
    """exp(a) on the wrong side."""

    def encode_actions(self, actions_T7, pose_T6=None):
        slots = super().encode_actions(actions_T7, pose_T6)
        slots[:, 33:39] = rotations.columns(rotations.matrix(pose_T6[:, 3:]) @ rotations.matrix(actions_T7[:, 3:6] / 2))
        return slots


WITHOUT_GRIPPER = CODEC.action_mask & (np.arange(128) != 10)
CODEC_FAULTS = [
    (InvertedSlot, coding.SLOT_UNITS, "inverted: 1 is closed"),
    (InvertedOnTheWayBack, coding.ROUND_TRIP, "gripper is decoded with the opposite sign"),
    (FlippedOnTheWayBack, coding.ROUND_TRIP, "position x is decoded with the opposite sign"),
    (NormalisedTwice, coding.ROUND_TRIP, "position y is decoded 20 times as large"),
    (MeanAction, coding.SLOT_UNITS, "perhaps a mean"),
    (MeanState, coding.STATE, "the mean of both fingers"),
    (EulerState, coding.STATE, "read as Euler angles"),
    (CentimetreState, coding.STATE, "position slots are in centimetres"),
    (HandsFrame, coding.SLOT_UNITS, "about the base's axes"),
    (mask(action_mask=np.ones(128, bool)), coding.MASKS, "the action's mask is all ones"),
    (mask(action_mask=WITHOUT_GRIPPER), coding.MASKS, "lacks slots that are filled: slot 10, gripper open"),
    (mask(action_mask=CODEC.state_mask), coding.MASKS, "never filled: slot 0, joint 0 (rad)"),
    (mask(state_mask=CODEC.action_mask), coding.MASKS, "the state's mask lacks slots that are filled"),
]


@pytest.mark.parametrize(("kind", "convention", "says"), CODEC_FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_fault_of_the_codec_is_named(kind, convention, says) -> None:
    found = broken(coding.findings(motions(), kind()))
    assert convention in found, found
    assert says in found[convention]


def test_what_a_codec_does_to_actions_shows_in_the_motion_too() -> None:
    assert motion.AXES["position"] in broken(of_numbers(motions(), FlippedOnTheWayBack()))
    assert gripper.SIGN in broken(of_numbers(motions(), InvertedOnTheWayBack()))


def test_the_seeds_quirks_are_named() -> None:
    found = broken(coding.findings(motions(), SeedCompat()))
    assert "deltas are in the slots of absolute positions" in found[coding.SLOT_UNITS]
    assert "rotation deltas are in the slots of absolute rotations" in found[coding.SLOT_UNITS]
    assert "inverted" in found[coding.SLOT_UNITS]
    assert "read as Euler angles" in found[coding.STATE]
    assert "one finger's position in metres" in found[coding.STATE]
    assert "never filled: slot 0" in found[coding.MASKS]
    assert coding.ROUND_TRIP not in found


# --- the command ---

def test_the_command_says_each_convention_and_exits_0_when_none_is_broken(capsys) -> None:
    assert __main__.main([str(RECORDING)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ok      agentview is upright: the arm comes from above" in lines
    assert sum(line.startswith("?") for line in lines) >= 1


def test_the_command_exits_1_and_names_file_and_remedy(tmp_path, capsys) -> None:
    path = Path(shutil.copy(next(RECORDING.glob("*.hdf5")), tmp_path / "a.hdf5"))
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["actions"][:, 6] *= -1
    assert __main__.main([str(tmp_path)]) == 1
    assert "BROKEN  the gripper opens at -1" in capsys.readouterr().out
    assert __main__.main([str(tmp_path), "--json"]) == 1
    found = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["verdict"] == "broken"]
    assert [(f["convention"], f["files"], f["is_certain"]) for f in found] == [(gripper.SIGN, ["a.hdf5"], False)]
    assert "actions[:, 6]" in found[0]["remedy"]
    assert __main__.main([str(tmp_path), "--trusted", "gripper_sign"]) == 0
    assert "?       the gripper opens at -1 and closes at +1: declared trusted, although:" in capsys.readouterr().out


def test_the_command_looks_at_a_sample_and_says_so(demonstrations, capsys) -> None:
    for name in "abc":
        demonstrations.write(f"{name}.hdf5", episodes=5)
    sampled = libero.sample(demonstrations.folder, 9)
    assert [(e.file, e.name) for e in sampled.episodes if e.file == "b.hdf5"] == [
        ("b.hdf5", "demo_0"), ("b.hdf5", "demo_2"), ("b.hdf5", "demo_4")]
    assert sampled.md5 == {}
    assert {e.file for e in libero.sample(demonstrations.folder, 2).episodes} == {"a.hdf5", "c.hdf5"}
    __main__.main([str(demonstrations.folder), "--episodes", "9"])
    assert "checked 9 episodes in 3 files" in capsys.readouterr().out


def test_the_command_says_that_nothing_was_played_and_with_what_that_could_be(capsys, monkeypatch) -> None:
    assert __main__.main([str(RECORDING)]) == 0
    assert "the arm's kinematics were used: --simulator replays the actions" in capsys.readouterr().out
    monkeypatch.setattr(simulator, "PACKAGES", ("no_such_simulator",))
    assert __main__.main([str(RECORDING), "--simulator"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "LIBERO's simulator is not installed in" in said.err
    assert "pip install -c constraints.txt -e '.[trainer,eval]'" in said.err


def test_a_wrong_name_to_trust_names_the_nearest(capsys) -> None:
    assert __main__.main([str(RECORDING), "--trusted", "griper_sign"]) == 2
    assert "did you mean 'gripper_sign'?" in capsys.readouterr().err


def test_the_command_says_what_cannot_be_read(tmp_path, capsys) -> None:
    assert __main__.main([str(tmp_path)]) == 1
    assert "-> inv deploy --only data" in capsys.readouterr().out
