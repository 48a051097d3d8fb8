"""`inv attach` in a real terminal, for users of every login shell."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.lab.site import Lab
from rdtops.on_host import detacher
from rdtops.ssh.command import Command, quoted
from tests.lab.commandline import CommandLine
from tests.lab.watched import Alive

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="sshd without root may have no terminals"),
              pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")]
RUN = "20260101-000000-attached-0001"


@pytest.fixture
def run(lab: Lab) -> Iterator[Alive]:
    lab.up()
    session = lab.folder("lab") / "session"
    before = session.read_text(encoding="utf-8")
    with Alive(lab, "lab", RUN) as alive:
        (alive.folder / "train.log").write_text("step 7 of 9\n", encoding="utf-8")
        log = Command("tail", "-F", str(alive.folder / "train.log")).shell()
        tmux = f"tmux -L {detacher.socket_of(RUN)} -f /dev/null"
        on_host(lab, f"{tmux} new-session -d -x 90 -y 20 -s {RUN} {quoted(log)}")
        yield alive
        session.write_text(before, encoding="utf-8")
        on_host(lab, f"{tmux} kill-server")


def on_host(lab: Lab, line: str) -> None:
    subprocess.run(["ssh", "-F", str(lab.ssh_config), "lab", line], check=True, timeout=30)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_attach_shows_the_window_and_detaches(lab: Lab, run: Alive, tmp_path: Path, shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    session = lab.folder("lab") / "session"
    lines = session.read_text(encoding="utf-8").replace("\n", f"\nexport SHELL={path}\n", 1)
    session.write_text(lines, encoding="utf-8")
    lab.write_inventory(tmp_path / "hosts.toml", {})
    inv = CommandLine(tmp_path, tmp_path / "hosts.toml")
    person, terminal = pty.openpty()
    with subprocess.Popen(["setsid", "--ctty", "--wait", sys.executable, "-m", "invoke", "attach", "--host", "lab",
                           "--run", RUN], cwd=inv.root, env={**inv.env, "TERM": "xterm"}, stdin=terminal,
                          stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        try:
            read_until(person, "step 7 of 9", f"[{RUN[:8]}")  # of the log, and of tmux
            for key in (b"\x02", b"d"):
                os.write(person, key)
                time.sleep(0.3)  # tmux takes what comes faster for pasted text
            read_until(person, f"detached (from session {RUN})")
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(person)


@pytest.mark.parametrize(("launched", "ends", "words"), [
    (True, 0, "has ended (finished)"), (True, 1, "has ended (failed)"), (False, None, "was never launched")])
def test_a_run_without_a_terminal_is_told_at_once(lab: Lab, tmp_path: Path, launched: bool, ends: int | None,
                                                  words: str) -> None:
    lab.up()
    lab.write_inventory(tmp_path / "hosts.toml", {})
    inv = CommandLine(tmp_path, tmp_path / "hosts.toml")
    with Alive(lab, "lab", RUN) as alive:
        alive.ends(ends or 0)
        if not launched:
            for name in ("exit", "process"):
                (alive.folder / name).unlink()
        inv.refused(f"attach --host lab --run {RUN}", 1, f"lab: {RUN} {words}: there is no terminal to attach to",
                    f"inv logs --host lab --run {RUN}")


def test_without_tmux_attach_ends_with_the_run(lab: Lab, tmp_path: Path) -> None:
    lab.up()
    lab.write_inventory(tmp_path / "hosts.toml", {})
    inv = CommandLine(tmp_path, tmp_path / "hosts.toml")
    with Alive(lab, "lab", RUN) as alive:
        (alive.folder / "train.log").write_text("step 7 of 9\n", encoding="utf-8")
        with inv.started(f"attach --host lab --run {RUN}") as process:
            try:
                assert process.stdout
                lines = itertools.takewhile(lambda line: "step 7 of 9" not in line, process.stdout)
                assert any("attached to" in line for line in lines)
                alive.ends()
                assert process.wait(30) == 0
            finally:
                process.kill()


def read_until(person: int, *words: str) -> None:
    seen, end_s = "", time.monotonic() + 30
    with contextlib.suppress(OSError):  # the other end is closed
        while not all(word in seen for word in words) and time.monotonic() < end_s:
            if select.select([person], [], [], 1)[0]:
                seen += os.read(person, 4096).decode("utf-8", "replace")
    assert [word for word in words if word not in seen] == [], seen
