from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rdtops.errors import WeightsError
from rdtops.trainer.data import rotations
from rdtops.trainer.data.actions import CODECS, AbsolutePose, DeltaVelocity, codec, slot_name
from rdtops.trainer.data.rotations import rotation_6d

CODEC = codec("delta_velocity")
UNIT = st.floats(-1, 1, width=32)
POSE = arrays(np.float64, (3, 6), elements=st.floats(-3, 3))  # 3 m is more than any arm reaches
EACH = pytest.mark.parametrize("using", CODECS.values(), ids=CODECS)


@EACH
@given(actions=arrays(np.float32, (3, 7), elements=UNIT), pose=POSE)
def test_decoding_gives_back_what_was_encoded(using, actions, pose) -> None:
    """Up to what float32 slots can hold: 1e-5 of a unit is 0.5 micrometres."""
    decoded = using.decode_actions(using.encode_actions(actions, pose), pose)
    np.testing.assert_allclose(decoded, actions, rtol=0, atol=1e-5)


@EACH
@given(actions=arrays(np.float32, (3, 7), elements=UNIT), pose=POSE)
def test_only_the_slots_of_the_masks_are_used(using, actions, pose) -> None:
    assert not using.encode_actions(actions, pose)[:, ~using.action_mask].any()
    state = using.encode_state(np.ones((3, 7)), np.full((3, 2), 0.03), pose[:, :3], pose[:, 3:])
    assert not state[:, ~using.state_mask].any()


def test_a_unit_action_is_one_metre_and_ten_radians_a_second() -> None:
    """0.05 m and 0.5 rad a step, at 20 Hz, in the slots of velocities and not in those of poses."""
    slots = CODEC.encode_actions(np.array([[1, 0, -1, 0, 1, 0, -1]]))[0]
    assert slots[39:42].tolist() == [1, 0, -1]
    assert slots[42:45].tolist() == [0, 10, 0]
    assert not slots[30:39].any()


def test_the_gripper_opens_at_minus_one() -> None:
    assert CODEC.encode_actions(np.array([[0.0] * 6 + [-1], [0.0] * 6 + [1]]))[:, 10].tolist() == [1, 0]


def state(fingers=(0.04, -0.04), rotation=(0.0, 0.0, 0.0)) -> np.ndarray:
    return CODEC.encode_state(np.arange(7)[None], np.array([fingers]), np.array([[7, 8, 9]]), np.array([rotation]))[0]


def test_the_state_fills_its_slots() -> None:
    slots = state()
    assert slots[0:7].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert slots[30:33].tolist() == [7, 8, 9]
    assert slots[33:39].tolist() == [1, 0, 0, 0, 1, 0]
    assert not slots[~CODEC.state_mask].any()


@pytest.mark.parametrize(("fingers", "openness"), [((0.04, -0.04), 1), ((0.0, 0.0), 0), ((0.03, -0.01), 0.5)])
def test_the_gripper_state_is_the_width_between_both_fingers(fingers, openness) -> None:
    """Their mean would always be 0, and one of them says nothing about the other."""
    assert state(fingers=fingers)[10] == pytest.approx(openness)


@given(arrays(np.float64, (4, 3), elements=st.floats(-7, 7)))
def test_a_rotation_is_the_first_two_columns_of_its_matrix(axis_angles) -> None:
    for vector, six in zip(axis_angles, rotation_6d(axis_angles), strict=True):
        x, y, z = vector
        matrix = torch.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)).numpy()
        np.testing.assert_allclose(six, matrix[:, :2].T.flatten(), atol=1e-9)


@given(arrays(np.float64, (4, 3), elements=st.floats(-1.8, 1.8)))
def test_axis_angle_comes_back_from_its_matrix_and_from_two_columns(axis_angles) -> None:
    """The largest of these is 3.12 rad, just below half a turn."""
    matrix = rotations.matrix(axis_angles)
    np.testing.assert_allclose(rotations.axis_angle(matrix), axis_angles, atol=1e-6)
    np.testing.assert_allclose(rotations.from_columns(rotations.columns(matrix)), matrix, atol=1e-9)


@pytest.mark.parametrize("vector", [(np.pi, 0, 0), (0, -np.pi, 0), (2.2, 2.2, 0.4), (0, 0, 1e-9), (0, 0, 0)])
def test_half_a_turn_and_none_have_an_axis_angle(vector) -> None:
    there = rotations.axis_angle(rotations.matrix([vector]))
    np.testing.assert_allclose(rotations.matrix(there), rotations.matrix([vector]), atol=1e-9)


@given(arrays(np.float64, (4, 3), elements=st.floats(-1.5, 1.5)))
def test_euler_angles_come_back_from_their_matrix(angles) -> None:
    np.testing.assert_allclose(rotations.euler(rotations.from_euler(angles)), angles, atol=1e-6)


def test_euler_angles_turn_about_fixed_axes_x_first() -> None:
    """What scipy calls `xyz`: a quarter about x takes y to z, one about y then takes z to x."""
    there = rotations.from_euler([[np.pi / 2, np.pi / 2, 0]])[0] @ [0, 1, 0]
    np.testing.assert_allclose(there, [1, 0, 0], atol=1e-12)


def test_a_prediction_that_is_no_rotation_is_made_one() -> None:
    matrix = rotations.from_columns([[2.0, 0.1, 0, 0.3, 0.5, 0]])[0]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_a_rotation_has_no_jump_at_half_a_turn() -> None:
    just_below, just_above = rotation_6d([[3.14, 0.01, 0], [3.14 - 2 * np.pi, -0.01, 0]])
    np.testing.assert_allclose(just_below, just_above, atol=0.05)


def test_an_absolute_target_is_the_pose_moved_and_turned_about_the_bases_axes() -> None:
    """The hand points down (half a turn about x); a turn about the base's z is then one about the hand's -z."""
    pose = np.array([[0.1, 0.2, 1.0, np.pi, 0, 0]])
    slots = AbsolutePose().encode_actions(np.array([[1, 0, -1, 0, 0, 1, -1]]), pose)[0]
    assert slots[30:33] == pytest.approx([0.15, 0.2, 0.95])
    assert slots[33:39] == pytest.approx([np.cos(0.5), np.sin(0.5), 0, np.sin(0.5), -np.cos(0.5), 0], abs=1e-6)
    assert slots[10] == 1


def test_an_absolute_target_that_was_not_reached_is_still_the_goal_of_the_next_step() -> None:
    using, start = AbsolutePose(), np.array([[0, 0, 1, np.pi, 0, 0]])
    target = using.encode_actions(np.array([[0.8, 0, 0, 0, 0, 0.4, 1]]), start)
    halfway = np.concatenate([start[:, :3] + [0.02, 0, 0], rotations.axis_angle(
        rotations.matrix([[0, 0, 0.1]]) @ rotations.matrix(start[:, 3:]))], axis=1)
    np.testing.assert_allclose(using.decode_actions(target, halfway), [[0.4, 0, 0, 0, 0, 0.2, 1]], atol=1e-6)
    assert using.decode_actions(target, start - [0.5, 0, 0, 0, 0, 0])[0, 0] == 1  # too far for one step


def test_only_the_absolute_codec_is_decoded_step_by_step() -> None:
    assert [name for name, using in CODECS.items() if using.closed_loop] == ["absolute_pose"]


def test_the_seeds_encoding_is_reproduced_with_its_quirks() -> None:
    seed = codec("seed_compat")
    slots = seed.encode_actions(np.array([[1, -0.5, 0, 0.2, 0, 0, 1]]))[0]
    assert slots[30:33] == pytest.approx([1.2, -0.6, 0])
    assert slots[33:39] == pytest.approx([1, 0, 0, 0, np.cos(0.1), np.sin(0.1)])
    assert slots[10] == 1  # closing
    told = seed.encode_state(np.zeros((1, 7)), [[0.03, -0.01]], [[1, 2, 3]], [[0.1, 0.2, 0.3]])[0]
    assert told[10] == pytest.approx(0.03)
    assert told[33:39] == pytest.approx(rotations.columns(rotations.from_euler([[0.1, 0.2, 0.3]]))[0])
    assert codec("seed_compat_m").encode_actions(np.array([[1, 0, 0, 0, 0, 0, 1]]))[0, 30] == pytest.approx(0.012)


@pytest.mark.parametrize(("slot", "name"), [
    (10, "slot 10, gripper open (0 to 1)"), (41, "slot 41, velocity 2 (m/s)"), (100, "slot 100, unused")])
def test_a_slot_has_a_name_and_a_unit(slot, name) -> None:
    assert slot_name(slot) == name


def test_state_and_actions_share_no_slot_but_the_gripper() -> None:
    assert np.flatnonzero(CODEC.state_mask & CODEC.action_mask).tolist() == [10]


@pytest.mark.parametrize(("name", "digest"), [
    ("delta_velocity", "4b4cc7827ac8ef988b4f0ec1445cf3b5"), ("absolute_pose", "b8d79e702d54bc69aa78775367a56047"),
    ("seed_compat", "e5a4cc2c8be86385e668b32f905f2a64"), ("seed_compat_m", "c8b355c7fb0309b462afd2db4d9c45cc")])
def test_the_hash_is_stable_and_tells_codecs_apart(name, digest) -> None:
    """Changing a literal makes every checkpoint and every statistics file of before unusable: raise `version`."""
    assert codec(name).hash == digest
    assert DeltaVelocity(angular_velocity_gain=0.5).hash != CODEC.hash


@EACH
def test_a_codec_reproduces_its_golden_vectors_through_json(using) -> None:
    saved = json.loads(json.dumps(using.to_json()))
    using.check_golden(saved)
    np.testing.assert_allclose(saved["golden"]["decoded_actions"], saved["golden"]["actions"], atol=1e-5)


def test_golden_vectors_hold_what_the_codec_is_known_to_do() -> None:
    golden = CODEC.to_json()["golden"]
    assert golden["encoded_actions"][1] == pytest.approx([0, 1, -1, 0.5, 1, -2, 3])
    assert golden["encoded_state"][1][7] == pytest.approx(0.03 / 0.08)


@pytest.mark.parametrize(("saved", "says"), [
    (DeltaVelocity(velocity_gain=100.0), "velocity_gain 100.0 in the checkpoint, 1.0 here"),
    (DeltaVelocity(control_hz=10, version=2), "version 2 in the checkpoint, 1 here; control_hz 10 in the checkpoint"),
    (AbsolutePose(), "name absolute_pose in the checkpoint, delta_velocity here")])
def test_a_codec_of_other_units_is_refused_with_what_differs(saved, says) -> None:
    with pytest.raises(WeightsError, match="actions would be decoded wrongly") as caught:
        CODEC.check_golden(saved.to_json())
    assert says in caught.value.message
    assert "hash" not in caught.value.message


def test_another_codec_of_ours_is_named_in_the_remedy() -> None:
    with pytest.raises(WeightsError) as caught:
        CODEC.check_golden(codec("seed_compat").to_json())
    assert caught.value.remedy == "--set codec=seed_compat"


def test_a_field_that_this_code_does_not_know_is_named() -> None:
    with pytest.raises(WeightsError, match="wrist_gain 2 in the checkpoint, nothing here"):
        CODEC.check_golden({**CODEC.to_json(), "wrist_gain": 2})


def test_changed_code_under_the_same_name_is_refused_with_the_number() -> None:
    saved = CODEC.to_json()
    saved["golden"]["encoded_state"][0][3] += 0.01
    saved["golden"]["decoded_actions"] = saved["golden"]["decoded_actions"][:2]
    with pytest.raises(WeightsError, match=r"encoded_state \[0, 3\] -2.39 in the checkpoint, -2.4 here") as caught:
        CODEC.check_golden(saved)
    assert "golden decoded_actions is (2, 7) in the checkpoint, (3, 7) here" in caught.value.message
