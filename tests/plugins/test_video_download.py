"""The page that plays an evaluation. The plugin's transfers run in the test of the lab."""

from __future__ import annotations

import re

from rdtops.api import pages

TASK = {"number": 3, "name": "KITCHEN_open", "language": "open <the> drawer"}


def trial(number, outcome, **more):
    return {"task": TASK["name"], "trial": number, "outcome": outcome, "steps": 43, "error": "", "video": "",
            "video_error": "", **more}


def tally(**more):
    return {"successes": 1, "trials": 2, "errors": 1, "success_rate": 0.5, "wilson_95": [0.0945, 0.9055],
            "mean_steps_to_success": 43.0, **more}


REPORT = {
    "checkpoint": {"name": "step_002000"}, "codec": {"name": "seed_compat"}, "notes": ["the codec was named by hand"],
    "protocol": {"benchmark": "libero_90", "max_steps": 200, "exec_horizon": 16, "pred_horizon": 64, "seed": 0},
    "total": tally(), "tasks": [{**TASK, **tally()}],
    "trials": [trial(0, "success", video="videos/03_a_success.mp4"), trial(1, "failure", video_error="no video: full"),
               trial(2, "error", error="ended by SIGSEGV <&>")]}


def test_the_page_plays_every_video_and_names_every_trial():
    page = pages.evaluation_page(REPORT)
    assert re.findall(r'<video [^>]*src="([^"]+)"', page) == ["videos/03_a_success.mp4"]
    assert re.findall(r'<figure class="(\w+)">', page) == ["failure", "error", "success"]
    for words in ("open &lt;the&gt; drawer", "1 of 2", "50.0 %", "9.4 to 90.5 %", "<b>success</b> at step 43, trial 0",
                  "no video: full", "ended by SIGSEGV &lt;&amp;&gt;", "the codec was named by hand", "16 of 64"):
        assert words in page, words
    assert "://" not in page  # it needs nothing but its neighbours


def test_a_task_without_a_trial_that_counts_has_an_empty_rate():
    none = tally(successes=0, trials=0, success_rate=None, wilson_95=None, mean_steps_to_success=None)
    page = pages.evaluation_page({**REPORT, "total": none, "tasks": [{**TASK, **none}]})
    assert "no outcome" in page
    assert "None" not in page
