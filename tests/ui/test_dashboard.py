"""The dashboard without a host: whatever one says is drawn as text. tests/lab drives it over the lab."""

from __future__ import annotations

import asyncio
import functools
import json
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.color import ColorType
from textual.widgets import DataTable, RichLog

from rdtops.answers import GpuUsage
from rdtops.contract.journal import Event
from rdtops.contract.run import RunState
from rdtops.errors import Unreachable
from rdtops.on_host import run_reporter
from rdtops.plugging.registry import Registry
from rdtops.runs.overview import RunView
from rdtops.runs.poller import Update
from rdtops.runs.records import HookRecord
from rdtops.ssh.display import printable
from rdtops.testing import ScriptedConnection, make_host, make_spec, said
from rdtops.ui import dashboard
from rdtops.ui.dashboard.app import Choice, Dashboard, bindings
from rdtops.ui.dashboard.feed import Refresh
from rdtops.ui.dashboard.metrics import LOSS
from rdtops.ui.dashboard.panels import why_empty
from tests.ui import screens

ROOT = Path(__file__).parents[2]
OSC_52 = "\x1b]52;c;cm0gLXJmIH4=\x07"
HOSTILE = f"[red]x[/red][/] {OSC_52}\x9b2J\u202e失败\udc80"
RUN_ID = "20991231-000000-one-0001"
RUN = RunView(RUN_ID, "lab", RunState.RUNNING, None, None, 3, 10, 0.5, 8.0, 90.0, "step_000003", 1.7e9, "", "",
              gpus=(GpuUsage(0, HOSTILE, HOSTILE, 1, 2, 50, 40, 100.0),))


async def tell(app):
    record = HookRecord("after_checkpoint", HOSTILE, "step_000003", HOSTILE, 1.0, 1.7e9, {HOSTILE: HOSTILE})
    events = ((Event("warning", 1.7e9, {"message": HOSTILE}), [replace(record, error=HOSTILE)]),
              (Event(HOSTILE, 1e300, {HOSTILE: HOSTILE}), []),
              (Event("checkpoint", 1.7e9, {"step": 3, "name": HOSTILE, "size_bytes": 5, "digest": HOSTILE}), [record]))
    log = (HOSTILE, "\x1b[31mred\x1b[0m", "10 %\r20 %")
    app.post_message(app.Updated(Refresh("lab", RUN_ID, events=events, log=log)))
    app.post_message(app.Updated(Refresh("lab", RUN_ID, problem=HOSTILE, again_in_s=3.0)))
    app.query_one("#aside").styles.border = ("round", "ansi_default")
    app.query_one("#aside").border_title = f"title {OSC_52}"
    app.notify(f"notified {OSC_52}", markup=False, timeout=600)


@pytest.fixture(scope="module")
def drawn():
    """What each tab shows of a run and of a host that say hostile things: the lines of the screen; then by its name
    what a widget holds."""
    def unreachable():
        raise Unreachable(f"lab cannot be reached: {HOSTILE}", remedy=HOSTILE)

    async def run():
        lines = []
        app = Dashboard([Choice("lab", (RUN, replace(RUN, run_id=HOSTILE)), unreachable)], [RUN], Registry([]))
        async with app.run_test(size=(200, 60), notifications=True) as pilot:
            await tell(app)
            for key in "12345":
                await pilot.press(key)
                await pilot.pause()
                strips = app.screen._compositor.render_strips()
                lines += ["".join(segment.text for segment in strip) for strip in strips]
            logs = {log.id: "\n".join(strip.text.rstrip() for strip in log.lines) for log in app.query(RichLog)}
            tables = {table.id: "\n".join(" ".join(map(str, table.get_row_at(n))) for n in range(table.row_count))
                      for table in app.query(DataTable)}
        return lines, {**logs, **tables}

    return asyncio.run(run())


def test_nothing_that_is_drawn_is_obeyed(drawn):
    lines, _ = drawn
    text = "\n".join(lines)
    assert printable(text) == text
    assert "notified ]52;c;cm0gLXJmIH4=" in text
    assert "title ]52;c;cm0gLXJmIH4=" in text
    assert {cell_len(line) for line in lines} == {200}


@pytest.mark.parametrize("where", ["event-lines", "log-lines", "run-rows"])
def test_what_a_host_says_is_shown_escaped_and_is_no_markup(drawn, where):
    assert printable(HOSTILE) in drawn[1][where]


def test_a_coloured_log_and_a_progress_bar_are_legible(drawn):
    assert "\nred\n10 %\n20 %" in drawn[1]["log-lines"]


def test_the_gpus_of_a_login_node_are_not_taken_for_those_of_the_job(tmp_path):
    folder = tmp_path / "runs" / RUN_ID
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(replace(make_spec(workspace=str(tmp_path)), run_id=RUN_ID).to_json())
    for launcher, sees_gpus in (("slurm", False), ("auto", True)):
        connection = ScriptedConnection(make_host(workspace=str(tmp_path), launcher=launcher),
                                        run_reporter=said(json.dumps(run_reporter.list_runs(str(tmp_path)))),
                                        slurm_on_host=said(json.dumps({"states": {
                                            f"rdtops-{RUN_ID}": {"id": "4711", "state": "PENDING"}}})))
        session = SimpleNamespace(host=connection.host, connect=lambda found=connection: found, registry=Registry([]))
        app = dashboard.of_hosts([session], "")
        assert [known.sees_gpus for known in app.known.values()] == [sees_gpus]
        words = why_empty(app.known[app.current], LOSS).plain
        assert words.startswith("no step yet; job 4711" if launcher == "slurm" else "no step yet")
        card = GpuUsage(0, "GPU-0", "A800", 1, 2, 50, 40, 100.0)
        app.known[app.current].apply(Refresh("h", RUN_ID, Update(app.known[app.current].run, {}, (card,))))
        assert app.known[app.current].gpus == ((card,) if sees_gpus else ())


# --- what it looks like: `python -m tests.ui.screens` writes the files anew

EVERY = {name: (scene, size) for name, scene, size in screens.every()}


@pytest.fixture(scope="module")
def shown():
    """Return the lines of a screen by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield functools.cache(lambda name: screens.strips(*EVERY[name]))
    time.tzset()


@pytest.mark.parametrize("name", EVERY)
def test_each_screen_is_as_it_was_looked_at(shown, name):
    assert screens.letters(shown(name)) == (screens.HERE / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", screens.SIZES)
def test_no_screen_has_a_pane_that_is_half_empty(shown, size):
    """Of the lines between head and footer at most a fifth are blank on the left, and on the right."""
    lines = screens.letters(shown(f"{size[0]}x{size[1]}")).splitlines()[4:-1]
    assert len(lines) == size[1] - 5
    for half in (slice(0, size[0] // 2), slice(size[0] // 2, None)):
        assert sum(not line[half].strip(" │") for line in lines) <= len(lines) / 5


def colours(lines):
    """Return the kinds of colours of a screen."""
    styles = [segment.style for strip in lines for segment in strip if segment.style]
    return {colour.type for style in styles for colour in (style.color, style.bgcolor) if colour}


@pytest.mark.parametrize("name", ["100x30", "compared", "choice", "help", "ended", "disconnected"])
def test_it_uses_the_terminals_own_16_colours_on_its_own_background(shown, name):
    assert ColorType.STANDARD in colours(shown(name)) <= {ColorType.DEFAULT, ColorType.STANDARD}


def test_with_no_color_it_has_none_and_the_same_letters(shown, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    lines = screens.strips(*EVERY["100x30"])
    assert colours(lines) == {ColorType.DEFAULT}
    assert screens.letters(lines) == screens.letters(shown("100x30"))


def test_the_documented_install_brings_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any(need.startswith("textual") for need in extras["dashboard"])
    assert extras["demo"] == ["rdtops[trainer,lab,dashboard]"]


def test_the_document_names_every_key():
    page = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    table = page.partition("| key | |")[2].partition("\n\n")[0]
    named = {key for row in table.splitlines()[2:] for key in row.split("|")[1].split()}
    assert {key.key_display or key.key for key in bindings()} <= named
