"""A run that the version before launched is the same training exactly when that can be shown."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.contract.run import RunSpec, RunState
from rdtops.delivery import plan, snapshot
from rdtops.hostlib import processes
from rdtops.on_host import run_reporter, training_starter
from rdtops.runs import admission, overview
from tests.lab import recorded


@pytest.fixture
def workspace(tmp_path: Path):
    """With the recorded run, which is running again."""
    folder = recorded.restored(tmp_path / "w")
    (folder / "exit").unlink()
    with subprocess.Popen(["sleep", "60"]) as process:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (folder / "process").write_text(f"{process.pid} {processes.start_time(process.pid)} {boot}\n")
        yield tmp_path / "w"
        process.kill()


def found(workspace: Path, spec: RunSpec) -> tuple[str, object]:
    """The duplicate of `spec` that the laptop sees, and the one that the host does."""
    answer = json.loads(json.dumps(run_reporter.list_runs(str(workspace))))
    view = admission.duplicate_of(spec, overview.views("lab", answer))
    there = training_starter.duplicate_of(str(workspace / "runs"), admission.request_key(spec), "new", again=False)
    assert view is None or view.state is RunState.RUNNING
    return view.run_id if view else "", there


def test_what_is_launched_from_its_own_release_is_the_same(workspace):
    spec = RunSpec.load(workspace / "runs" / recorded.RUN / "config.json")
    assert spec.snapshot == recorded.RELEASE
    assert found(workspace, replace(spec, run_id="new", created_at="later")) == (
        recorded.RUN, {"duplicate": recorded.RUN, "state": "running"})


def test_what_is_launched_from_another_release_is_not(workspace):
    spec = RunSpec.load(workspace / "runs" / recorded.RUN / "config.json")
    today = snapshot.take().name
    fresh = replace(spec, run_id="new", snapshot=today, release=plan.release_folder(str(workspace), today))
    assert found(workspace, fresh) == ("", None)
