from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rdtops.errors import WeightsError
from rdtops.trainer.actions import DeltaVelocity, codec, rotation_6d

CODEC = codec("delta_velocity")
UNIT = st.floats(-1, 1, width=32)


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.just(7)), elements=UNIT))
def test_decoding_gives_back_what_was_encoded(actions) -> None:
    np.testing.assert_allclose(CODEC.decode_actions(CODEC.encode_actions(actions)), actions, rtol=0, atol=1e-6)


@given(arrays(np.float32, (3, 7), elements=UNIT))
def test_only_the_slots_of_the_mask_are_used(actions) -> None:
    assert not CODEC.encode_actions(actions)[:, ~CODEC.action_mask].any()


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


def test_a_rotation_has_no_jump_at_half_a_turn() -> None:
    just_below, just_above = rotation_6d([[3.14, 0.01, 0], [3.14 - 2 * np.pi, -0.01, 0]])
    np.testing.assert_allclose(just_below, just_above, atol=0.05)


def test_state_and_actions_share_no_slot_but_the_gripper() -> None:
    assert np.flatnonzero(CODEC.state_mask & CODEC.action_mask).tolist() == [10]


def test_the_hash_is_stable_and_tells_codecs_apart() -> None:
    """Changing this literal makes every checkpoint and every statistics file of before unusable: raise `version`."""
    assert CODEC.hash == "4b4cc7827ac8ef988b4f0ec1445cf3b5"
    assert DeltaVelocity(angular_velocity_gain=0.5).hash != CODEC.hash


def test_a_codec_reproduces_its_golden_vectors() -> None:
    saved = CODEC.to_json()
    CODEC.check_golden(saved)
    assert saved["golden"]["encoded_actions"][1] == pytest.approx([0, 1, -1, 0.5, 1, -2, 3])


def test_a_codec_of_other_units_is_refused() -> None:
    with pytest.raises(WeightsError, match="actions would be misread"):
        CODEC.check_golden(DeltaVelocity(velocity_gain=100.0).to_json())


def test_changed_code_under_the_same_name_is_refused() -> None:
    saved = CODEC.to_json()
    saved["golden"]["encoded_state"][0][3] += 0.01
    with pytest.raises(WeightsError, match="golden encoded_state"):
        CODEC.check_golden(saved)
