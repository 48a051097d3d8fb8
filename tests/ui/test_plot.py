"""Curves in a terminal, and the story a Journal tells."""

from rdtops.contract.journal import Event
from rdtops.runs.story import Story
from rdtops.ui.dashboard.plot import Curve, plot


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
