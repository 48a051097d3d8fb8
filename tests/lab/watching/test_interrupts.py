"""Ctrl-C says what was done and what was not; what plugins print is no part of a result."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from rdtops.lab.site import JUMP, Lab
from tests.lab.commandline import CommandLine
from tests.lab.watched import Alive

pytestmark = pytest.mark.lab


@pytest.fixture
def inv(tiny_hosts: Path, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, tiny_hosts)


def interrupted(inv: CommandLine, line: str, when: str, after_s: float = 0.5) -> str:
    """Return what a command says when it is interrupted after it has said `when`."""
    running = inv.started(line)
    try:
        said = ""
        while when not in said:
            said += running.stderr.readline()
        time.sleep(after_s)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert (running.returncode, out) == (130, ""), err
    return err


@pytest.mark.parametrize(("line", "left"), [
    ("check --host lab", "lab: nothing was changed on the host"),
    ("train --host lab", "lab: nothing was changed on the host"),
    ("deploy check train --host lab", "lab: nothing was changed on the host"),
    ("stop --host lab", "lab: nothing was changed on the host"),
    ("fetch-results --host lab", "lab: nothing was changed on the host"),
])
def test_a_command_that_has_not_reached_the_host_has_changed_nothing(
        inv: CommandLine, lab: Lab, line: str, left: str) -> None:
    lab.freeze(JUMP)
    try:
        err = interrupted(inv, line, "connecting to lab")
    finally:
        lab.thaw(JUMP)
    assert "Interrupted." in err
    assert left in err


def test_an_interrupted_stop_does_not_say_that_nothing_happened(inv: CommandLine, lab: Lab) -> None:
    with Alive(lab, "lab", "20980101-000000-kept-0006") as kept:
        err = interrupted(inv, "stop --host lab kept-0006", "asking 20980101", after_s=0)
        assert f"lab: {kept.run_id} may have been asked to save and stop, which it does without this command" in err


PLUGIN = """
import os
from rdtops.api import CheckResult, hookimpl

@hookimpl
def preflight_check(host):
    print("hello from the plugin")
    os.system("echo from its program")
    return [CheckResult.ok("noisy", "said hello")]
"""


def test_what_a_plugin_and_its_programs_print_does_not_break_json(inv: CommandLine, lab: Lab) -> None:
    folder = Path(inv.env["XDG_CONFIG_HOME"]) / "rdtops" / "plugins"
    folder.mkdir(parents=True)
    (folder / "noisy.py").write_text(PLUGIN)
    done = inv("check --host lab --json")
    assert "said hello" in [finding["summary"] for row in done.rows() for finding in row["results"]], done.said
    assert "[noisy] hello from the plugin" in done.err.splitlines()
    assert "from its program" in done.err.splitlines()
    assert "[noisy] hello from the plugin" in inv("check --host lab").err.splitlines()
