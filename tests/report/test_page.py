"""The report of a run: complete, self-contained, and made of whatever the folder holds."""

import json
import re
import shlex
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from rdtops import report
from rdtops.contract.config import override, preset
from rdtops.contract.journal import Event, Journal
from rdtops.contract.run import RunSpec
from rdtops.errors import UsageError
from rdtops.hostlib.provenance import Provenance
from rdtops.report import breaks, page
from rdtops.report.chart import ChartLine, curves
from rdtops.report.folder import RunFolder

RUN = "20261124-101530-tiny-3fa9"
SHARED = Path(report.__file__).parents[1] / "pages" / "templates"
PHASES = {"data_s": 0.1, "encode_s": 0.2, "forward_s": 0.1, "backward_s": 0.4, "optimiser_s": 0.1, "save_s": 0.0,
          "evaluation_s": 0.0, "step_s": 1.0, "samples_per_s": 8.0, "learning_rate": 1e-3, "tflop_per_s": 128.04}


@pytest.fixture
def folder(tmp_path):
    return fetched_run(tmp_path / "results" / "lab", RUN)


def fetched_run(host, run_id):
    """A fetched run with everything in it, two videos among it."""
    root = host / run_id
    evaluated = root / "eval" / "step_000020-libero_90-1f3a9c20"
    (evaluated / "videos").mkdir(parents=True)
    spec = RunSpec(run_id, "lab", "2026-11-24T10:15:30Z", "/w", "/w/releases/a", "abc123", {}, preset("tiny"))
    values = json.loads(spec.to_json())
    values["train"]["learning_rate"] = 0.5
    (root / "config.json").write_text(json.dumps(values))
    journal = Journal(root / "journal.jsonl")
    journal.append("started", world_size=1, device="cpu", parameters=1e6)
    for step in range(1, 41):
        journal.append("step", step=step, loss=1.0 / step, **PHASES)
    journal.append("heldout", step=20, loss=0.0625)
    journal.append("checkpoint", step=20, name="step_000020", size_bytes=5_000_000, digest="d1g3st",
                   heldout_loss=0.0625)
    (root / "gpus.jsonl").write_text("".join(json.dumps(
        {"time_s": 60 * minute, "index": [0, 1], "utilization_percent": [90, 50], "power_w": [300, 280.5],
         "temperature_c": [60, 60 + minute]}) + "\n" for minute in range(5)))
    (root / "exit").write_text("0\n")
    (root / "train.log").write_text("<b>a line of the log</b>\n" * 3)
    (root / "statistics.json").write_text(json.dumps({"files": {"a_demo.hdf5": "fcd998"}}))
    (root / "assets.json").write_text(json.dumps({"tokenizer": {"spiece.model": "0" * 32}}))
    (root / "checks.json").write_text(json.dumps({"results": [
        {"name": "disk", "status": "WARN", "summary": "12 GB free", "evidence": "df says", "remedy": "rm something"},
        {"name": "gpu", "status": "OK", "summary": "8 x A800"}]}))
    row = {"successes": 17, "trials": 20, "errors": 1, "success_rate": 0.85, "wilson_95": [0.64, 0.948],
           "mean_steps_to_success": 143.0}
    (evaluated / "report.json").write_text(json.dumps(
        {"tasks": [{"language": "close the <top> drawer", **row}], "total": row, "notes": ["another codec"]}))
    (evaluated / "videos" / "small.mp4").write_bytes(b"small film")
    (evaluated / "videos" / "large.mp4").write_bytes(bytes(page.EMBEDDED_BYTES + 1))
    return root


def text_of(folder):
    return report.describe(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(("mfu", "words"), [(0.4104, "128 TFLOP/s, MFU 41 %"), (None, "128 TFLOP/s, MFU unknown")])
def test_the_useful_arithmetic_is_told_and_its_share_where_it_is_known(folder, mfu, words):
    Journal(folder / "journal.jsonl").append("step", step=41, loss=0.1, **PHASES, mfu=mfu)
    assert words in text_of(folder)


def test_the_page_has_every_section_and_what_belongs_into_it(folder):
    text = text_of(folder)
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Loss", "Evaluations", "Device", "Time of a step: 1.000 s", "Checkpoints", "Results of inv check at the launch",
        "Events", "Configuration", "Digests", "Log"]
    for words in (RUN, "finished", "40 of 150", "0.062500", "d1g3st", "backward 0.400 s, 40 %", "17 of 20", "85.0 %",
                  "64.0 to 94.8 %", "note: another codec", "12 GB free", "rm something", "1 WARN, 1 OK",
                  "learning_rate", "preset: 0.002", "abc123", "a_demo.hdf5", "fcd998", "tokenizer: t5-tiny",
                  Provenance({"tokenizer": {"spiece.model": "0" * 32}}).identity("tokenizer"), "training on 1 x cpu",
                  "70 % on average, 50 % of the least busy GPU", "290 W for each GPU", "64 °C", "load in % by hour"):
        assert words in text, words


def test_the_page_needs_no_network_and_no_script_and_says_the_same_twice(folder):
    text = text_of(folder)
    assert not re.search(r"<link|@import|url\(|https?://", text)
    assert re.findall(r"<script>(.*?)</script>", text, re.DOTALL) == [(SHARED / "films.js").read_text()]
    assert {s.partition(":")[0] for s in re.findall(r'src="([^"]*)"', text)} == {
        "data", "eval/step_000020-libero_90-1f3a9c20/videos/large.mp4"}
    before = (folder / "report.html").stat().st_mtime_ns, (folder / "README.md").stat().st_mtime_ns
    assert text_of(folder) == text
    assert before == ((folder / "report.html").stat().st_mtime_ns, (folder / "README.md").stat().st_mtime_ns)


def test_what_comes_from_files_is_escaped_and_the_markup_is_whole(folder):
    text = text_of(folder)
    assert "&lt;b&gt;a line of the log" in text
    assert "close the &lt;top&gt; drawer" in text
    body = re.sub(r"<!doctype html>|<meta[^>]*>|<br>", "", text)
    body = re.sub(r" (controls muted loop playsinline|checked|selected|hidden|open)(?=[ />])", "", body)
    ET.fromstring(re.sub(r"class=number", 'class="number"', body))  # every tag that was opened is closed


def test_a_readme_says_what_was_run_and_how_to_go_on(folder):
    report.describe(folder)
    text = (folder / "README.md").read_text()
    for words in (RUN, "finished on lab", "snapshot `abc123`", "`a_demo.hdf5` MD5 `fcd998`", "`learning_rate = 0.5`",
                  "17 of 20 succeeded, 95 % interval 64.0 to 94.8 %", f"inv train --host lab --resume {RUN}",
                  "best validation loss 0.062500, at step_000020", "`train.log`"):
        assert words in text, words


@pytest.mark.parametrize("missing", ["journal.jsonl", "exit", "train.log", "statistics.json", "checks.json", "eval"])
def test_a_folder_that_lacks_something_still_has_its_report(folder, missing):
    target = folder / missing
    if target.is_dir():
        target.rename(folder / "elsewhere")
    else:
        target.write_bytes(b"\xff{ torn")
    assert RUN in text_of(folder)


def test_a_run_of_an_older_version_with_settings_of_its_own_is_described(folder):
    values = json.loads((folder / "config.json").read_text())
    values["train"]["a_setting_of_then"] = 7
    (folder / "config.json").write_text(json.dumps(values))
    assert "a_setting_of_then = 7" in text_of(folder)


def test_a_failed_run_shows_its_error_first_and_an_empty_folder_says_what_it_is_not(folder, tmp_path):
    (folder / "exit").write_text("1\n")
    Journal(folder / "journal.jsonl").append("failed", step=40, error="CUDA out of memory", remedy="a smaller batch")
    text = text_of(folder)
    assert text.index("CUDA out of memory") < text.index("<h2>")
    assert "-&gt; a smaller batch" in text
    with pytest.raises(UsageError, match="is not a fetched run"):
        report.describe(tmp_path)


def test_the_top_says_the_best_success_the_task_the_command_and_the_revision(folder):
    values = json.loads((folder / "config.json").read_text())
    values["train"].update(image_augmentation=not values["train"]["image_augmentation"], instruction="it's open")
    (folder / "config.json").write_text(json.dumps(values))
    Journal(folder / "journal.jsonl").append("started", world_size=1, device="cpu", instructions=["close the drawer"])
    worse = folder / "eval" / "step_000010-libero_90-00000000"
    shutil.copytree(next((folder / "eval").iterdir()), worse)
    found = json.loads((worse / "report.json").read_text())
    (worse / "report.json").write_text(json.dumps({**found, "total": {**found["total"], "success_rate": 0.1}}))
    run = RunFolder.read(folder)
    assert page.task_words(run) == "close the drawer"
    assert shlex.split(page.command(run)) == [
        "inv", "train", "--host", "lab", "--preset", "tiny", "--set", "learning_rate=0.5",
        "--set", "instruction=it's open", "--set", "image_augmentation=false"]
    assert override(preset("tiny"), shlex.split(page.command(run))[7::2]).to_json() == run.train
    text = text_of(folder)
    assert f"<title>{RUN}: finished, 85.0 % success</title>" in text
    top = text[:text.index("<h2>")]
    for words in ("85.0 % success", "17 of 20 trials", "close the drawer", "--set learning_rate=0.5", "abc123"):
        assert words in top, words
    assert text.index("<h3>step_000020") < text.index("<h3>step_000010")


def test_a_stop_a_resume_and_a_restart_are_marked_in_the_curve_and_told_below(folder):
    journal, now = Journal(folder / "journal.jsonl"), 1795874567.0
    for kind, after_s, data in (
            ("stopped", 0, {"step": 30, "signal": "SIGTERM"}), ("started", 7200, {"resumed_from_step": 30}),
            ("step", 7201, {"step": 35, "loss": 0.03}),
            ("failed", 7300, {"step": 35, "error": "CUDA out of memory\nTried"}),
            ("attempt_ended", 7301, {"cause": "cuda_memory", "summary": "GPU 0 is full", "restart_in_s": 10.0}),
            ("started", 7311, {"resumed_from_step": 20}), ("step", 7400, {"step": 40, "loss": 0.02}),
            ("attempt_ended", 7401, {"cause": "finished", "summary": "all steps are done", "restart_in_s": None}),
            ("launched", 7405, {}), ("started", 7410, {"resumed_from_step": 40})):
        journal.write(Event(kind, now + after_s, data))
    story = RunFolder.read(folder).story
    assert [(one.step, one.label, one.words) for one in breaks.breaks(story)] == [
        (30, "stopped", "at step 30 on SIGTERM"), (30, "resumed", "at step 30 after 2.0 h"),
        (35, "failed", "at step 35: CUDA out of memory"), (20, "restarted", "at step 20: GPU 0 is full"),
        (40, "resumed", "at step 40")]
    text = text_of(folder)
    labels = re.findall(r'<g class="break"><line[^>]*><title>[^<]*</title></line>(?:<text[^>]*>(\w+)</text>)?', text)
    assert labels[:4] == ["restarted", "resumed", "", ""]  # by step, where there is room
    assert "<li>resumed at step 30 after 2.0 h</li>" in text
    for _ in range(breaks.LISTED):
        journal.append("stopped", step=40, signal="SIGTERM")
    assert breaks.sentences(RunFolder.read(folder).story)[-1] == "and 5 more, in the events"


def test_an_evaluation_that_failed_says_why(folder):
    home = next((folder / "eval").iterdir())
    found = json.loads((home / "report.json").read_text())
    none = {"successes": 0, "trials": 0, "errors": 3, "success_rate": None, "wilson_95": None}
    (home / "report.json").write_text(json.dumps({**found, "total": none, "notes": ["failed: EGL: no device"]}))
    unwritten = folder / "eval" / "step_000030-libero_90-00000000"
    unwritten.mkdir()
    (unwritten / "eval.json").write_text("{}")
    (unwritten / "eval.log").write_text("Traceback\nMemoryError: 3 GiB\n\n")
    shown = text_of(folder), (folder / "README.md").read_text()
    for words in ("EGL: no device", "no report.json; the last line of eval.log: MemoryError: 3 GiB"):
        assert all(words in text for text in shown), words
    assert '<pre class="fail">EGL: no device</pre>' in shown[0]
    assert "0 of 0" not in "".join(shown)
    Journal(folder / "journal.jsonl").append("eval_failed", name=unwritten.name, error="the disk is full", remedy="")
    assert '<pre class="fail">the disk is full</pre>' in text_of(folder)


def test_a_comparison_has_both_curves_and_what_differs(folder):
    other = fetched_run(folder.parent, "20261125-090011-tiny-bb03")
    values = json.loads((other / "config.json").read_text())
    values["train"]["seed"] = 7
    (other / "config.json").write_text(json.dumps(values))
    report.describe(other)
    written = report.compare([folder, other])
    assert written == folder / "compare_20261125-090011-tiny-bb03.html"
    text = written.read_text()
    assert 'href="../20261125-090011-tiny-bb03/report.html"' in text
    assert text.count('<g class="loss"><polyline') == text.count('<g class="heldout"><polyline') == 4
    settings = text[text.index("Settings that differ"):]
    assert re.findall(r'<td class="first">(.*?)</td>', settings) == ["seed"]
    assert "95 % intervals of the best evaluations overlap" in text
    for wrong, words in (([folder, folder], "with itself"), ([folder], "two to 4 runs can be compared, not 1")):
        with pytest.raises(UsageError, match=words):
            report.compare(wrong)


def test_a_chart_of_many_points_is_small_and_within_its_frame():
    drawn = curves([ChartLine("loss", [(n, 1.0 + (n % 7)) for n in range(100_000)], "loss")])
    assert len(drawn) < 40_000
    xs = [float(pair.split(",")[0]) for pair in re.search(r'points="([^"]*)"', drawn)[1].split()]
    assert min(xs) >= 0
    assert max(xs) <= 1000
    assert curves([ChartLine("loss", [], "loss")]) == ""
