"""Every file that rdtops reads, broken in every way: no reader of ours raises anything but what it says it does, nobody
waits for a FIFO, and the other run stays what it was."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugins.checkpoint_guard import guard_on_host as guard
from plugins.slurm import slurm_on_host as slurm
from proofs.staging.corruptions import WAYS, corrupt
from rdtops import answers
from rdtops.contract import diagnosis, overrides
from rdtops.contract.diagnosis import Evidence
from rdtops.contract.evaluation import EvalSpec
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec, RunState
from rdtops.delivery import releases
from rdtops.errors import ConfigError, RunError, UsageError
from rdtops.hostlib import digests
from rdtops.on_host import checkpoint_verifier, detacher, release_keeper, run_reporter, training_starter
from rdtops.porter.file_digests import Digests
from rdtops.report import curve, page, readme
from rdtops.report.folder import RunFolder
from rdtops.runs import evaluations, overview, records
from rdtops.runs.poller import Cursor
from rdtops.runs.records import HookRecord, RunRecords
from rdtops.runs.results import PNG, SVG
from rdtops.runs.story import Story
from rdtops.supervisor import evidence_on_host
from tests.runs import broken
from tests.runs.broken import GOOD, HOST, OLD, RELEASE

pytestmark = pytest.mark.timeout(60)  # somebody waits for a FIFO otherwise

# of a run on its host, below its folder; those fetched lie below results/<host>/<run> likewise
RUN = ("config.json", "journal.jsonl", "train.log", "exit", "process", "supervisor", "stop", "refused", "checks.json",
       "launch.sh", "overrides.json", "metrics.jsonl", "statistics.json", "assets.json", "slurm.json",
       "slurm-end.json", "ended",
       "checkpoints/step_000002/manifest.json", "checkpoints/step_000002/trainer.json",
       "checkpoints/step_000002/statistics.json", "checkpoints/step_000002/codec.json",
       "checkpoints/step_000002/config.json",
       *(f"eval/{{evaluation}}/{name}" for name in (
           "eval.json", "report.json", "trials.jsonl", "eval.log", "exit", "process", "stop", "lock")))
WORKSPACE = (".deployed", ".rolled-back", "releases/{release}/snapshot.json")
FETCHED = ("run.json", "report.html", "README.md", "loss.svg", "loss.png", *RUN)
STATE = ("last_host", *(f"runs/{{host}}/{{run}}/{name}" for name in ("cursor", "start", "hooks.jsonl", "lock")))
CACHE = ("digests.jsonl",)  # of either machine


def told(answer: object) -> object:
    """As it arrives on the laptop."""
    return json.loads(json.dumps(answer))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("w") / "w"
    broken.make_workspace(folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither journalctl nor nvidia-smi, which take their time."""
    monkeypatch.setenv("PATH", "/nowhere")


@contextmanager
def broken_in(path: Path, way: str) -> Iterator[None]:
    """For a while: the next case has the file as it was."""
    content = path.read_bytes() if path.is_file() else None
    corrupt(path, way)
    try:
        yield
    finally:
        corrupt(path, "empty")
        path.unlink() if content is None else path.write_bytes(content)


def refusal(read: Callable[[], object], *ours: type[Exception]) -> str:
    """What the error of ours says; '' where there is none, and any other is one of the test."""
    try:
        read()
    except ours as error:
        return str(error)
    return ""


def place(workspace: Path, file: str, run_id: str = OLD) -> Path:
    name = broken.evaluation_of(broken.spec_of(workspace, run_id)).name
    return workspace / "runs" / run_id / file.format(evaluation=name)


def seen(workspace: Path) -> dict[str, object]:
    """Everything that the laptop learns of the runs of a host, by run."""
    where, each = str(workspace), {}
    for view in overview.views(HOST, told(run_reporter.list_runs(where))):
        each[view.run_id] = [view]
    for run_id, found in each.items():
        files = {"journal.jsonl": {"cursor": [0, 0, ""], "steps": 100}, "train.log": {"cursor": [0, 0, ""],
                                                                                      "last_lines": 10}}
        told(run_reporter.news(where, run_id, files))
        spec = broken.spec_of(workspace, run_id)
        found.append(answers.checkpoints(HOST, told(run_reporter.checkpoints(where, run_id)), spec.paths))
        facts = answers.evaluations(HOST, told(run_reporter.evaluations(where, [run_id])))
        found.append([evaluations._view(HOST, where, one) for one in facts])
        found.append(guard.listed(str(spec.paths.checkpoints)))
        found.append(guard.wrong(str(spec.paths.checkpoints / "step_000002"), "0" * 32))
        found.append(checkpoint_verifier.state_of(str(spec.paths.checkpoints / "step_000002"), Digests(), True))
        found.append(slurm.facts(str(spec.paths.root), [], "slurm is down"))
        why = told(evidence_on_host.answer(where, run_id))
        found.append(diagnosis.diagnose(Evidence.of(HOST, {**why["facts"], "now_s": 0.0, "disk_free_bytes": 1 << 40,
                                                           "disk_free_inodes": 9})))
        found.append([event.kind for event in Journal(spec.paths.journal).events(steps=10)])
    another = {"train_digest": "another"}
    assert training_starter.duplicate_of(str(workspace / "runs"), another, "new", again=False) is None
    each["releases"] = told(release_keeper.listed(where))
    return each


@pytest.fixture(scope="module")
def before(workspace: Path) -> dict[str, object]:
    return seen(workspace)


@pytest.mark.parametrize("file", RUN)
def test_a_broken_file_of_one_run_changes_nothing_of_another(workspace, before, file):
    for way in WAYS:
        with broken_in(place(workspace, file), way):
            after = seen(workspace)
            assert after[GOOD] == before[GOOD], way
            assert after[OLD][0].run_id == OLD
            assert isinstance(detacher.refused_by(str(place(workspace, "refused"))), list)


@pytest.mark.parametrize("file", ["config.json", "overrides.json"])
def test_what_a_training_does_is_read_or_refused_in_our_words(workspace, file):
    spec = broken.spec_of(workspace, OLD)
    for way in WAYS:
        with broken_in(place(workspace, file), way):
            said = refusal(lambda: overrides.used(RunSpec.load(spec.paths.config)), ConfigError, OSError)
        assert not said or file in said, way


@pytest.mark.parametrize("way", WAYS)
def test_an_evaluation_is_read_or_refused_in_our_words(workspace, way):
    file = place(workspace, "eval/{evaluation}/eval.json")
    with broken_in(file, way):
        said = refusal(lambda: EvalSpec.from_json(run_reporter.text_of(file)), ConfigError)
    assert not said or "eval.json" in said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", WORKSPACE)
def test_what_a_workspace_keeps_of_releases_is_read_or_said(workspace, file, way):
    path = workspace / file.format(release=RELEASE)
    with broken_in(path, way):
        answer = told(release_keeper.listed(str(workspace)))
        assert [release["name"] for release in answer["releases"]] == [RELEASE]
        text = path.read_text(errors="replace") if path.is_file() else ""
    if file == ".rolled-back" and text.strip():
        said = refusal(lambda: releases._rolled_back(HOST, str(path), text), RunError)
        assert not said or str(path) in said


@pytest.fixture(scope="module")
def folder(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return broken.fetched(workspace, tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("file", FETCHED)
def test_a_fetched_run_with_a_broken_file_has_its_report(workspace, folder, file):
    name = broken.evaluation_of(broken.spec_of(workspace, OLD)).name
    for way in WAYS:
        with broken_in(folder / file.format(evaluation=name), way):
            said = refusal(lambda: RunFolder.read(folder), UsageError)
            assert not said or (file == "config.json" and str(folder) in said), way
            if not said and (way != "a folder" or file not in ("report.html", "README.md")):
                assert "</html>" in page.write(RunFolder.read(folder)).read_text(), way
                assert OLD in readme.write(RunFolder.read(folder)).read_text(), way


def test_a_curve_is_drawn_of_what_a_broken_journal_still_tells(workspace, tmp_path):
    for way in WAYS:
        with broken_in(place(workspace, "journal.jsonl"), way):
            (tmp_path / way).mkdir()
            events = Journal(place(workspace, "journal.jsonl")).events(steps=10)
            curve.draw(Story.from_events(events), tmp_path / way, OLD)
        assert (tmp_path / way / PNG).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / way / SVG).read_text().rstrip().endswith("</svg>")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", STATE)
def test_a_broken_state_is_said_once_and_the_work_goes_on(tmp_path, monkeypatch, file, way):
    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path))
    record = HookRecord("after_checkpoint", "md5", "step_000002", "d", 0.1)
    before = RunRecords(HOST, OLD)
    with before.alone():
        before.advance(Cursor(1, 2, "m"))
        before.started(3.0)
        before.add(record)
    assert records.remember_launch(HOST) == before.problem == ""
    path = tmp_path / file.format(host=HOST, run=OLD)
    corrupt(path, way)
    after = RunRecords(HOST, OLD)
    with after.alone():
        assert isinstance(after.cursor, Cursor)
        assert after.start >= 0 or way == "wrong kinds"
        after.advance(Cursor(4, 5, "n"))
        after.started(6.0)
        after.add(record)
    assert (after.cursor, after.start) == (Cursor(4, 5, "n"), 6000)
    assert after.hooks()[-1] == record
    assert "\n" not in after.problem
    assert not after.problem or str(path) in after.problem
    assert isinstance(records.last_launch(), str)
    assert records.remember_launch(HOST) == "" or way == "a folder"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", CACHE)
def test_a_broken_cache_is_made_again_without_a_word(tmp_path, file, way):
    data = tmp_path / "data"
    data.write_bytes(b"one")
    os.utime(data, (1_000_000, 1_000_000))
    cache, md5 = str(tmp_path / file), hashlib.md5(b"one").hexdigest()
    assert digests.remembered([data], cache) == {data: md5}
    corrupt(Path(cache), way)
    assert digests.remembered([data], cache) == {data: md5}
    theirs = Digests(cache)
    assert theirs.of(bytes(data), 3) == md5
    theirs.save()
    if way not in ("a folder", "a FIFO"):
        digests.remembered([data], cache)
        assert digests.known([data], cache) == {data: md5}


def test_a_home_without_room_costs_a_warning_and_nothing_else(monkeypatch):
    monkeypatch.setenv("RDTOPS_STATE", "/dev/null/state")  # nobody can make it, root neither
    record = HookRecord("after_checkpoint", "md5", "step_000002", "d", 0.1)
    kept = RunRecords(HOST, OLD)
    with kept.alone():
        kept.advance(Cursor(1, 2, "m"))
        kept.add(record)
        assert kept.knows("md5", "d")
    assert kept.cursor == Cursor(1, 2, "m")
    assert kept.problem.startswith("/dev/null/state/runs/lab/")
    assert records.remember_launch(HOST).startswith("/dev/null/state/last_host cannot be written")
    assert records.last_launch() == ""


def test_a_curve_is_drawn_where_matplotlib_finds_no_place_of_its_own(tmp_path):
    program = ("import sys, tempfile; tempfile.tempdir = '/dev/null/tmp'\n"
               "from pathlib import Path; from rdtops.report import curve; from rdtops.runs.story import Story\n"
               "curve.draw(Story(), Path(sys.argv[1]), 'a run')")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], text=True, check=False,
                          capture_output=True, env={"HOME": "/dev/null", "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "loss.svg"]


def test_a_run_whose_config_cannot_be_read_is_unknown_and_says_why(workspace):
    with broken_in(place(workspace, "config.json"), "a FIFO"):
        old, good = overview.views(HOST, told(run_reporter.list_runs(str(workspace))))
    assert (old.state, good.state) == (RunState.UNKNOWN, RunState.STOPPED)
    assert "config.json is not a regular file" in old.problem


def test_what_lies_among_the_runs_and_is_none_is_left_out(workspace):
    others = (workspace / "runs" / "backup of mine", workspace / "runs" / OLD / "eval" / "..notes")
    for other in others:
        other.mkdir()
    assert [view.run_id for view in overview.views(HOST, told(run_reporter.list_runs(str(workspace))))] == [OLD, GOOD]
    assert len(answers.evaluations(HOST, told(run_reporter.evaluations(str(workspace), [OLD])))) == 1
    assert evidence_on_host.answer(str(workspace), "")["names"] == [OLD, GOOD]
    for other in others:
        other.rmdir()
