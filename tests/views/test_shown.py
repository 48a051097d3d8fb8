"""What tasks show: short when all is well, whole where something is not, and commands that can be pasted."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from rdtops.checks import CheckResult, Report
from rdtops.contract.journal import KINDS, Event
from rdtops.contract.run import Checkpoint, RunState
from rdtops.delivery.deploy import Delivery
from rdtops.porter.entries import Entry
from rdtops.runs.overview import RunView
from rdtops.runs.records import HookRecord
from rdtops.transfer.transfer_plan import Item, Plan
from rdtops.views import journal_output
from rdtops.views.checkpoint_output import CheckpointRow, CheckpointsOutput
from rdtops.views.delivery_output import DeployOutput
from rdtops.views.preflight_output import CheckOutput
from rdtops.views.run_output import RunStatus, StatusOutput
from rdtops.views.terminal import Terminal


def shown(output: Any, width: int = 100) -> list[str]:
    terminal = Terminal(file=io.StringIO(), width=width, soft_wrap=False)
    terminal.print(output, crop=False)
    return [line.rstrip() for line in terminal.file.getvalue().splitlines()]


REMEDY = "inv deploy --host a800   # " + "words that go on " * 8
GOOD = tuple(CheckResult(f"check {n}", CheckResult.ok("", "").status, "all is well with it", group=group)
             for group in ("connection", "assets", "gpu") for n in range(12))
BAD = (CheckResult.fail("dataset", "two files differ", "a.hdf5", REMEDY),
       CheckResult.fail("md5", "two files differ", "", REMEDY), CheckResult.warn("clock", "3 s apart", "", "ntpdate"))


def test_a_check_that_is_well_takes_a_line_a_group() -> None:
    lines = shown(CheckOutput(Report("a800", GOOD, ("disk",))))
    assert len(lines) <= 3 * 3 + 4
    assert "ready to train: 36 OK" in lines
    assert "each finding: inv check --host a800 --all" in " ".join(lines)
    every = shown(CheckOutput(Report("a800", GOOD, ("disk",)), everything=True))
    assert len(every) >= 36
    assert sum("all is well with it" in line for line in every) == 36


@pytest.mark.parametrize("width", [60, 100, 200])
def test_findings_of_one_remedy_stand_together_and_the_remedy_is_one_line(width: int) -> None:
    lines = shown(CheckOutput(Report("a800", (*GOOD, *BAD))), width)
    text = "\n".join(lines)
    assert text.count("-> inv deploy") == 1
    assert f"  -> {REMEDY}".rstrip() in lines  # wrapped by the terminal alone
    assert text.index("dataset: two files") < text.index("md5: two files") < text.index("-> inv deploy")
    assert text.index("-> inv deploy") < text.index("clock: 3 s apart")
    assert "not ready: 2 FAIL; 1 WARN; 36 OK" in lines


def test_a_dry_run_tells_folders_not_every_file() -> None:
    entry = Entry("f", "file", 10, "", 0, False)
    items = tuple(Item(f"rdtops/trainer/data/m{n}.py", 1000, "", "send", "new", entry) for n in range(90))
    plan = Plan("here", "there", (*items, Item("README", 5, "", "send", "changed", entry)), "up")
    before = "/w/releases/3f2a-90d1"
    copied = tuple(replace(item, action="copy", reason=f"missing, same MD5 as {before}/{path}", path=path,
                           origin=f"{before}/{path}") for item in items[:30] for path in [f"copied/{item.path}"])
    plan = replace(plan, items=(*plan.items, *copied))
    lines = shown(DeployOutput("a800", (Delivery("code", "there", plan),), dry_run=True))
    assert len(lines) <= 8
    assert any("copy   copied/rdtops/  30 files  30 kB  from 3f2a-90d1, the same MD5" in line for line in lines), lines
    assert any("send   rdtops/trainer/  90 files  90 kB  new" in line for line in lines), lines
    assert any("send   README  5 bytes  changed" in line for line in lines), lines


def test_checkpoints_take_a_line_each_at_100_columns() -> None:
    run = RunView("20261128-101530-tiny-3fa9", "a800", RunState.RUNNING, None, None, 200, 400, 0.1, 8.0, 60.0, "", 0.0,
                  "", "")
    checkpoint = Checkpoint(200, "step_000200", "/w/runs/r/checkpoints/step_000200", 19_000_000_000,
                            "0123456789abcdef0123456789abcdef", 0.012345)
    records = (HookRecord("after_checkpoint", "md5", "step_000200", "", 0.1, value={"files": 9}),
               HookRecord("after_checkpoint", "video_download", "step_000200", "", 0.1, error="no ffmpeg"))
    rows = (CheckpointRow(checkpoint, latest=True, best=True, state="verified", records=records),)
    lines = shown(CheckpointsOutput(run, rows, ()))
    line = next(line for line in lines if checkpoint.name in line)
    assert all(word in line for word in ("verified", "0123456789ab", "md5", "best, latest"))
    assert "0123456789abc" not in line
    assert f"{checkpoint.name}: video_download: no ffmpeg" in lines


@pytest.mark.parametrize(("mfu", "words"), [(0.412, "MFU 41 %"), (None, "")])
def test_mfu_is_shown_where_it_is_known(mfu, words) -> None:
    run = RunView("20261128-101530-tiny-3fa9", "a800", RunState.RUNNING, None, None, 200, 400, 0.1, 148.2, 600.0,
                  "step_000200", 1.0, "", "", mfu=mfu)
    head, details = shown(StatusOutput("a800", (RunStatus(run, ()),)))[1:]
    assert head.endswith("step 200 of 400  loss 0.1000  148.2 samples/s  10 min to go")
    assert ("MFU" in details) == bool(words)
    assert words in details
    step = Event("step", 0.0, {"step": 7, "loss": 0.5, "samples_per_s": 148.2, "mfu": mfu, "eta_s": 600.0})
    assert f"148.2 samples/s{words and ', '}{words}  10 min to go" in journal_output.words_of(step, 10)


def test_every_event_has_words_of_its_own() -> None:
    assert set(KINDS) - set(journal_output.WORDS) == set()
