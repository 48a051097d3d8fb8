"""The dashboard over the real lab, driven as a person would, and once in a real terminal."""

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from textual.widgets import DataTable, RichLog, Static, TabbedContent

from rdtops.lab.fake_gpus import FakeGpuProcess, Gpus
from rdtops.ui import dashboard
from rdtops.ui.dashboard.app import Dashboard
from rdtops.ui.dashboard.feed import Refresh
from rdtops.workflows.session import Session
from tests.lab.commandline import ROOT, CommandLine
from tests.lab.watched import Alive, checkpoint, wait_until

pytestmark = pytest.mark.lab
PHASES = {"data_s": 0.1, "encode_s": 0.2, "forward_s": 0.1, "backward_s": 0.4, "optimiser_s": 0.1, "save_s": 0.0,
          "evaluation_s": 0.0, "step_s": 1.0, "samples_per_s": 8.0, "eta_s": 90.0}
NOTES = """
from rdtops.api import hookimpl
import os

@hookimpl
def after_checkpoint(checkpoint):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{checkpoint.step}\\n")
    return {"noted": checkpoint.step}
"""


@pytest.fixture
def laptop(lab, lab_hosts, tmp_path, monkeypatch):
    """What `inv` finds of its own on this laptop, and a plugin that notes each checkpoint."""
    inv = CommandLine(tmp_path, lab_hosts)
    inv.env["NOTES"] = str(tmp_path / "notes")
    plugins = tmp_path / "config" / "rdtops" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "notes.py").write_text(NOTES)
    for name, value in inv.env.items():
        monkeypatch.setenv(name, value)
    return inv


@pytest.fixture
def two(lab):
    with Alive(lab, "lab", "20991231-000000-one-0001") as one, Alive(lab, "lab2", "20991231-000000-two-0002") as two:
        for run in (one, two):
            run.journal.append("started", world_size=1, device="cpu", parameters=1e6, resumed_from_step=0)
            for step in range(1, 21):
                run.journal.append("step", step=step, loss=1.0 / step, **PHASES)
            run.journal.append("heldout", step=20, loss=0.0625)
            (run.folder / "train.log").write_text("".join(f"line {n}\n" for n in range(20)))
        checkpoint(one.journal, 20)
        yield one, two
    lab.set_gpus("lab", Gpus())


def text(app, selector):
    widget = app.query_one(selector)
    if isinstance(widget, RichLog):
        return "\n".join(strip.text for strip in widget.lines)
    if isinstance(widget, DataTable):
        return "\n".join("  ".join(str(cell) for cell in widget.get_row_at(n)) for n in range(widget.row_count))
    assert isinstance(widget, Static)
    return "\n".join("".join(segment.text for segment in widget.render_line(y)) for y in range(widget.size.height))


def driven(hosts, drive, size=(80, 24)):
    """Open the dashboard of these hosts and let `drive(app, pilot, until)` use it."""
    async def run() -> Dashboard:
        session = Session(lambda _: None, lambda *_: None)
        app = dashboard.of_hosts(session.hosts(",".join(hosts)), "")
        app.refresh_s = 0.1

        async def until(holds, limit_s=30.0):
            latest = time.monotonic() + limit_s
            while not holds():
                assert time.monotonic() < latest, text(app, "Head")
                await pilot.pause(0.05)

        async with app.run_test(size=size) as pilot:
            await drive(app, pilot, until)
        session.close()
        return app

    return asyncio.run(run())


def test_a_run_is_seen_with_its_curve_its_split_and_its_checkpoints_while_plugins_act(laptop, lab, two, tmp_path):
    one, _ = two
    lab.set_gpus("lab", Gpus(memory_used_mib=(4, 71_680), utilization_percent=(0, 97),
                             processes=(FakeGpuProcess(1, one.process.pid, "python", 71_000),)))

    async def drive(app, pilot, until):
        await until(lambda: "● live" in text(app, "Head"))
        assert "20 of 150" in text(app, "Head")
        assert "90 s to go" in text(app, "Head")
        curve = text(app, "CurvePanel")
        assert any("\u2801" <= letter <= "\u28ff" for letter in curve)
        assert str(app.query_one("CurvePanel").border_title) == "loss 0.0500, validation 0.0625"
        assert "backward" in text(app, "SplitPanel")
        assert "0.400 s 40 %" in text(app, "SplitPanel")
        assert "checkpoint step_000020" in text(app, "#event-lines")
        await pilot.press("2")
        await until(lambda: "line 19" in text(app, "#log-lines"))
        await pilot.press("3")
        assert "best" not in text(app, "#checkpoint-rows")
        assert "noted 20" in text(app, "#checkpoint-rows")
        await pilot.press("4")
        await until(lambda: "97 %" in text(app, "#large-gpus"))
        await until(lambda: re.search(r"CPU . \d+ %.*RAM [\d.]+/\d+ GiB.*disk .* free", text(app, "MachinePanel")))
        assert re.search(r"GPU 1 +█ 97 % +70 of 80 GiB +63 °C +372 W", text(app, "MachinePanel"))
        assert app.query_one("#large-gpus").border_title == "GPUs of the run"
        one.journal.append("step", step=21, loss=0.01, **PHASES)
        checkpoint(one.journal, 30)
        with (one.folder / "train.log").open("a") as file:
            file.write("a new line\n")
        assert len(app.query_one("#event-lines").lines) < 20  # nothing is broken at the width of a hidden tab
        await pilot.press("1")
        await until(lambda: "checkpoint step_000030" in text(app, "#event-lines"))
        await pilot.press("2")
        await until(lambda: "a new line" in text(app, "#log-lines"))

    driven(["lab"], drive)
    assert (tmp_path / "notes").read_text().split() == ["20", "30"]


def test_news_that_come_while_it_is_closed_draw_nothing(laptop, two):
    async def drive(app, pilot, until):
        await until(lambda: "● live" in text(app, "Head"))

    app = driven(["lab"], drive)
    app.on_dashboard_updated(app.Updated(Refresh(*app.current)))  # its panels are gone


def test_runs_of_several_hosts_are_chosen_by_keys_and_in_the_list(laptop, lab, two):
    one, other = two

    async def drive(app, pilot, until):
        await until(lambda: one.run_id in text(app, "Head"))
        await pilot.press("n")
        await until(lambda: other.run_id in text(app, "Head") and "line 19" in "\n".join(app.known[app.current].log))
        await pilot.press("5")
        assert app.query_one("#tabs", TabbedContent).active == "runs"
        rows = text(app, "#run-rows")
        assert one.run_id in rows
        assert f"▶  lab2  {other.run_id}" in rows
        app.query_one("#run-rows").focus()
        await pilot.press("home", "enter")
        await until(lambda: app.current != ("lab2", other.run_id))

    driven(["lab", "lab2"], drive, size=(150, 44))


def test_a_second_run_is_laid_over_without_its_plugins_until_it_is_followed(laptop, lab, two, tmp_path):
    one, _ = two
    older = "20200101-000000-older-0009"
    with Alive(lab, "lab", older) as second:
        second.journal.append("step", step=1, loss=2.5, **PHASES)
        second.journal.append("step", step=40, loss=0.5, **PHASES)
        checkpoint(second.journal, 40)
        second.ends()

        async def drive(app, pilot, until):
            await until(lambda: one.run_id in text(app, "Head") and "● live" in text(app, "Head"))
            await pilot.press("c")
            await until(lambda: app.screen.query("OptionList"))
            options = app.screen.query_one("OptionList")
            rows = [str(options.get_option_at_index(n).id) for n in range(options.option_count)]
            assert rows[:2] == ["none", f"lab/{older}"]
            await pilot.press("enter")
            await until(lambda: len(app.known["lab", older].story.loss) == 2)
            await until(lambda: "step 40" in text(app, "CurvePanel"))
            assert f"{older} of lab" in str(app.query_one("CurvePanel").border_subtitle)
            assert (tmp_path / "notes").read_text().split() == ["20"]
            await pilot.press("5")
            app.query_one("#run-rows").focus()
            await pilot.press("ctrl+end", "enter")
            await until(lambda: older in text(app, "Head") and "■ ended" in text(app, "Head"))
            await until(lambda: "noted 40" in text(app, "#checkpoint-rows"))
            assert app.known["lab", older].story.loss == [(1, 2.5), (40, 0.5)]

        driven(["lab"], drive, size=(150, 44))
    assert (tmp_path / "notes").read_text().split() == ["20", "40"]


def test_a_cut_link_is_shown_and_taken_up_again_and_the_end_too(laptop, lab, two, tmp_path):
    one, _ = two

    async def drive(app, pilot, until):
        await until(lambda: "● live" in text(app, "Head"))
        lab.stop_server("lab-jump")
        await until(lambda: "trying again in" in text(app, "Head"))
        assert re.match(r"\d\d:\d\d:\d\d +GPU", text(app, "MachinePanel"))
        checkpoint(one.journal, 40)
        lab.start_server("lab-jump")
        await until(lambda: "● live" in text(app, "Head"))
        await until(lambda: "step_000040" in text(app, "#event-lines"))
        one.ends()
        await until(lambda: "■ ended" in text(app, "Head"))
        assert "finished" in text(app, "Head")

    driven(["lab"], drive)
    assert (tmp_path / "notes").read_text().split() == ["20", "40"]


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_in_a_terminal_inv_watch_is_the_dashboard_and_leaves_the_screen_as_it_was(laptop, two, tmp_path):
    one, _ = two
    socket = str(tmp_path / "tmux")
    tmux = ["tmux", "-S", socket, "-f", "/dev/null"]
    environment = {**laptop.env, "TERM": "xterm-256color"}
    line = (f"cd {ROOT} && {shlex.quote(sys.executable)} -m invoke watch --host lab; echo ended with $?; sleep 60")
    subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24", line], check=True,
                   env={k: v for k, v in environment.items() if k not in ("TMUX", "COLUMNS", "LINES")})

    def screen() -> str:
        return subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=False).stdout

    try:
        wait_until(lambda: "● live" in screen(), 60)
        seen = screen()
        assert one.run_id in seen
        assert "20 of 150" in seen
        assert "q quit" in seen
        assert max(len(line) for line in seen.splitlines()) <= 80
        subprocess.run([*tmux, "send-keys", "q"], check=True)
        wait_until(lambda: "ended with 0" in screen(), 30)
        assert "running" in screen()
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
