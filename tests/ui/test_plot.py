"""Curves in a terminal, and the story a Journal tells."""

import pytest

from rdtops.contract.journal import Event
from rdtops.runs.story import POINTS, Story
from rdtops.ui.dashboard.metrics import over_time, resumes
from rdtops.ui.dashboard.plot import Curve, plot, sparkline, value_words


def drawn(*points, columns=30, rows=7, **options):
    return plot([Curve("loss", points, "cyan")], columns, rows, **options).plain.splitlines()


def test_a_falling_loss_falls_from_left_to_right_within_its_size():
    lines = drawn(*((step, 1.0 - step / 100) for step in range(100)), logarithmic=False)
    assert len(lines) == 7
    assert all(len(line) <= 30 for line in lines)
    columns = [{x for x, letter in enumerate(line) if "\u2801" <= letter <= "\u28ff"} for line in lines[:-1]]
    assert [min(c) for c in columns] == sorted(min(c) for c in columns)
    assert lines[0].startswith("  1.0000┤")
    assert lines[-1].split() == ["0", "step", "99"]


def test_a_wide_range_of_values_has_a_logarithmic_axis_and_says_so():
    points = [(step, 10.0 ** -(step / 20)) for step in range(100)]
    assert drawn(*points)[-1].endswith("step 99 (log)")
    assert drawn(*points, logarithmic=False)[-1].endswith("step 99")


def dots(lines):
    return [sum("\u2801" <= letter <= "\u28ff" for letter in line) for line in lines[:-1]]


def test_a_peak_among_a_hundred_thousand_steps_is_seen():
    points = [(step, 40.0 if step == 61_803 else 0.5) for step in range(100_000)]
    assert dots(drawn(*points, logarithmic=False)) == [1, 1, 1, 1, 1, 21]
    assert sparkline(points, 10) == "▁▁▁▁▁▁█▁▁▁"
    assert sparkline([(x, -y) for x, y in points], 10, dips=True) == "██████▁███"


def test_a_second_curve_is_told_from_the_first_without_colours():
    points = [(step, 1.0 if step < 50 else 0.5) for step in range(100)]
    joined, dashed = (plot([Curve("loss", points, "cyan", dashed=dashed)], 60, 12).plain for dashed in (False, True))
    assert 0.4 < weight(dashed) / weight(joined) < 0.6


@pytest.mark.parametrize(("value", "words"), [
    (0.0, "0"), (0.0041, "0.0041"), (148.2, "148.2"), (-12.0, "-12.0"), (1e-4, "1.0e-04"), (4e9, "4.0e+09")])
def test_a_value_fits_beside_the_axis(value, words):
    assert value_words(value) == words
    assert len(words) <= 8


def weight(text):
    return sum((ord(letter) - 0x2800).bit_count() for letter in text if "\u2801" <= letter <= "\u28ff")


def test_a_resume_is_a_line_and_time_has_units():
    lines = drawn((0, 1.0), (7200, 0.0), resumes=[3600], by_time=True)
    assert lines[-1].split() == ["0", "s", "2.0", "h"]
    assert sum(line.find("┊") in (19, 20) for line in lines) >= 4
    assert not any("┊" in line for line in drawn((0, 1.0), (7200, 0.0), resumes=[9000]))


def test_a_plot_of_nothing_of_one_point_and_of_no_number_draws():
    assert drawn() == ["no step yet"]
    assert drawn((1, float("nan"))) == ["no step yet"]
    assert len(drawn((5, 0.25), (6, float("inf")))) == 7
    assert drawn((1, 1.0), columns=5, rows=2) == ["no step yet"]


def step(number, loss, **more):
    return Event("step", 0.0, {"step": number, "loss": loss, **more})


def test_what_a_resumed_run_does_again_replaces_what_it_did():
    story = Story.from_events([step(1, 0.9), step(2, 0.8), step(3, 0.7),
                               Event("started", 0.0, {"resumed_from_step": 1}),
                               step(2, 0.5), Event("heldout", 0.0, {"step": 2, "loss": 0.4})])
    assert story.loss == [(1, 0.9), (2, 0.5)]
    assert story.heldout == [(2, 0.4)]


def test_checkpoints_that_were_deleted_are_gone_and_the_best_is_of_those_that_are_left():
    saved = [Event("checkpoint", 0.0, {"step": n, "name": f"step_{n}", "size_bytes": 1, "digest": "d",
                                       "heldout_loss": loss}) for n, loss in ((10, 0.1), (20, 0.3), (30, None))]
    story = Story.from_events([*saved, Event("checkpoint_deleted", 0.0, {"step": 10, "name": "step_10"})])
    assert (story.best.step, story.latest.step) == (20, 30)


def test_a_story_of_a_hundred_thousand_steps_keeps_its_peaks_in_bounded_memory():
    peaks = {777, 61_803, 99_000}
    story = Story.from_events(Event("step", 1e9 + n, {"step": n, "loss": 9.0 if n in peaks else 0.1 / n,
                                                      "grad_norm": 0.3, "samples_per_s": 2.0 if n == 5 else 148.0})
                              for n in range(1, 100_001))
    for curve in (story.loss, story.grad_norm, story.speed, story.times):
        assert POINTS <= len(curve) <= 2 * POINTS
        assert curve == sorted(curve)
        assert curve[-1][0] == 100_000
    assert {step for step, loss in story.loss if loss > 1} == peaks
    assert min(speed for _, speed in story.speed) == 2.0
    moved = over_time(story.loss, story)
    assert all(abs(time_s - step) < 5 for (time_s, _), (step, _) in zip(moved, story.loss, strict=True))


def test_over_time_a_resumed_run_has_its_pause_and_is_one_curve():
    story = Story.from_events([
        Event("launched", 1000.0, {}), Event("step", 1010.0, {"step": 10, "loss": 0.9}),
        Event("step", 1020.0, {"step": 20, "loss": 0.8}), Event("step", 1030.0, {"step": 30, "loss": 0.7}),
        Event("started", 1600.0, {"resumed_from_step": 20}), Event("step", 1610.0, {"step": 30, "loss": 0.6}),
        Event("heldout", 1611.0, {"step": 25, "loss": 0.65})])
    assert over_time(story.loss, story) == [(10.0, 0.9), (20.0, 0.8), (610.0, 0.6)]
    assert over_time(story.heldout, story) == [(315.0, 0.65)]
    assert (resumes(story, by_time=False), resumes(story, by_time=True)) == ([20], [600.0])


def test_the_parts_of_a_step_and_what_no_phase_has_sum_up_to_it():
    parts = {"data_s": 0.1, "encode_s": 0.2, "forward_s": 0.1, "backward_s": 0.3, "optimiser_s": 0.1, "save_s": 0.0,
             "evaluation_s": 0.0}
    story = Story.from_events([step(1, 0.1, step_s=1.0, **parts)])
    assert abs(sum(story.split.values()) - 1.0) < 1e-9
    assert abs(story.split["other"] - 0.2) < 1e-9


def test_a_line_that_no_trainer_wrote_tells_nothing_and_an_unknown_kind_is_kept():
    story = Story.from_events([Event("step", 0.0, {"step": None}), Event("checkpoint", 0.0, {}),
                      Event("diagnosis", 1.0, {"cause": "stuck rank"})])
    assert story.loss == []
    assert story.others[-1].kind == "diagnosis"
