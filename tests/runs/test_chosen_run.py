"""Without a name the newest run that runs is meant, on the laptop and on the host alike: a resumed run need not be the
newest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rdtops.contract.run import RunState
from rdtops.hostlib import processes
from rdtops.on_host import run_reporter
from rdtops.runs import overview, why
from rdtops.supervisor import evidence_on_host
from rdtops.testing import ScriptedConnection, make_host, said
from tests.runs import broken
from tests.runs.broken import GOOD, HOST, OLD


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    broken.make_workspace(tmp_path / "w")
    return tmp_path / "w"


@pytest.mark.parametrize(("running", "chosen"), [((), GOOD), ((OLD,), OLD), ((OLD, GOOD), GOOD)])
def test_the_run_that_runs_is_meant(workspace, running, chosen):
    for name in running:
        folder = workspace / "runs" / name
        (folder / "process").write_text(f"{os.getpid()} {processes.start_time(os.getpid())} {processes.boot_id()}\n")
        (folder / "exit").unlink()
    answer = json.dumps(evidence_on_host.answer(str(workspace), ""))
    connection = ScriptedConnection(make_host(), evidence_on_host=said(answer))
    found = overview.views(HOST, json.loads(json.dumps(run_reporter.list_runs(str(workspace)))))
    assert [view.run_id for view in found if view.state is RunState.RUNNING] == list(running)
    assert overview.pick(connection, found).run_id == chosen
    assert (why.ask(connection).run_id, json.loads(answer)["facts"]["run_id"]) == (chosen, chosen)
    assert overview.pick(connection, found, GOOD[-4:]).run_id == GOOD
