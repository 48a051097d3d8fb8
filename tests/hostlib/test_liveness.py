"""Whether a run is alive: whatever of it was killed, all who ask say the same. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.contract.config import preset
from rdtops.contract.run import RunSpec
from rdtops.hostlib import liveness, processes
from rdtops.on_host import detacher, run_reporter, training_starter
from rdtops.runs.admission import request_key
from rdtops.supervisor import evidence_on_host

RUN = "20261128-101530-tiny-3fa9"
# launch.sh -> supervisor -> rank, as a training has them; each leaves its name, and none ends with the one above it
STARTS = """\
import os, subprocess, sys, time
from rdtops.hostlib import files, processes
folder, name, *rest = sys.argv[1:]
if rest:
    subprocess.Popen([sys.executable, __file__, folder, *rest])
files.write_whole(os.path.join(folder, name), processes.name_of(os.getpid()))
time.sleep(600)
"""
SPEC = RunSpec(RUN, "lab", "2026-11-28T10:15:30Z", "/w", "/w/releases/a", "a", {}, preset("tiny"))
KEY = request_key(SPEC)
PARTS = ("process", "supervisor", "rank")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Of a run that has all its processes."""
    run = tmp_path / "runs" / RUN
    run.mkdir(parents=True)
    (run / "config.json").write_text(replace(SPEC, workspace=str(tmp_path)).to_json())
    program = tmp_path / "starts.py"
    program.write_text(STARTS)
    top = subprocess.Popen([sys.executable, str(program), str(run), *PARTS],
                           env={**os.environ, liveness.RUN: RUN})
    latest_s = time.monotonic() + 30
    while not all((run / part).exists() for part in PARTS):
        assert time.monotonic() < latest_s
        time.sleep(0.02)
    yield run
    processes.end(lambda: processes.carrying(f"{liveness.RUN}={RUN}"))
    top.wait()


def answers(run: Path) -> dict[str, bool]:
    """What each of those who ask says, over the program that the host runs."""
    workspace = str(run.parents[1])
    (listed,) = run_reporter.list_runs(workspace)["runs"]
    duplicate = training_starter.duplicate_of(str(run.parent), KEY, "20261128-101531-tiny-aaaa", again=False)
    return {
        "contract": liveness.read(str(run), f"{liveness.RUN}={RUN}").alive,
        "status": listed["alive"],
        "news": run_reporter.news(workspace, RUN, {})["run"]["alive"],
        "launch": duplicate == {"duplicate": RUN, "state": "running"},
        "launcher": detacher.state(str(run), f"{liveness.RUN}={RUN}")["alive"],
        "why": evidence_on_host.facts(workspace, RUN)["alive"]}


def kill(run: Path, *parts: str) -> None:
    for part in parts:
        name = (run / part).read_text()
        os.kill(int(name.split()[0]), signal.SIGKILL)
        latest_s = time.monotonic() + 20
        while processes.is_alive(name):
            assert time.monotonic() < latest_s
            time.sleep(0.02)


@pytest.mark.parametrize(("killed", "is_alive"), [
    ((), True), (("process",), True), (("supervisor",), True), (("process", "supervisor"), True),
    (("rank",), True), (PARTS, False)])
def test_whatever_was_killed_all_who_ask_say_the_same(folder, killed, is_alive):
    kill(folder, *killed)
    found = answers(folder)
    assert found == dict.fromkeys(found, is_alive)


def test_a_run_with_an_exit_code_has_ended_for_all_though_a_process_of_it_is_left(folder):
    kill(folder, "process", "supervisor")
    (folder / "exit").write_text("137\n")
    found = answers(folder)
    assert found == dict.fromkeys(found, False)


def test_an_exit_file_without_a_number_ends_nothing(folder):
    kill(folder, "process", "supervisor")
    (folder / "exit").write_text("\n")
    found = answers(folder)
    assert found == dict.fromkeys(found, True)


def test_what_is_prepared_is_not_alive(tmp_path):
    (tmp_path / "exit").touch()
    found = liveness.read(str(tmp_path), "RDTOPS_RUN=nobody")
    assert (found.launched, found.alive, found.exit_code, found.stop_requested) == (False, False, None, False)


def test_a_program_that_stays_sees_that_the_last_process_has_gone(folder):
    """`inv watch` asks the same program for hours."""
    kill(folder, "process", "supervisor")
    asking = subprocess.Popen([sys.executable, "-m", "rdtops.on_host.run_reporter"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    with asking:
        assert asking.stdin
        assert asking.stdout
        seen = []
        for killed in ((), ("rank",)):
            kill(folder, *killed)
            asking.stdin.write(json.dumps({"op": "list", "workspace": str(folder.parents[1])}) + "\n")
            asking.stdin.flush()
            seen.append(json.loads(asking.stdout.readline())["runs"][0]["alive"])
        asking.stdin.close()
    assert seen == [True, False]
