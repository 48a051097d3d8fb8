"""Whatever a host says, a terminal gets text, and colours of ours."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pkgutil
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.text import Text as Styled

from rdtops import views
from rdtops.contract.journal import KINDS, Event
from rdtops.contract.run import RunState
from rdtops.delivery.build_steps import SHORT, BuildStep
from rdtops.errors import RdtopsError, RunError
from rdtops.options import Option
from rdtops.runs.evaluations import EvalView
from rdtops.runs.inquiries import NormFitted, Replayed, Stats
from rdtops.runs.overview import RunView
from rdtops.ssh.display import log_text, printable
from rdtops.transfer.transfer import TransferProgress
from rdtops.ui import screen
from rdtops.ui.repository import Drilled
from rdtops.ui.screen import Screen
from rdtops.views.checkpoint_output import CheckpointRow
from rdtops.views.gpu_output import GpuSampleOutput
from rdtops.views.journal_output import EventOutput
from rdtops.views.output import WorkflowOutput
from rdtops.views.result_output import ReportOutput
from rdtops.views.run_output import LogOutput
from rdtops.views.terminal import styled
from rdtops.views.words import table_of

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MOVE = re.compile(r"\r|\x1b\[(\?25[lh]|2K|1A)")  # of rich's Live
OSC_52 = "\x1b]52;c;cm0gLXJmIH4=\x07"
# what terminals obey, what rich reads as markup, and what people write
SPICE = st.sampled_from(["\x1b", "\x9b", "\x9d", "\x07", "\r", "\x08", "\x7f", "\u202e", "\u2066", "\u200b", "\ufeff",
                         "\udc80", "\U000e0041", "\x1b[2J", "\x1b[31m", OSC_52, "\x1b]0;title\x07", "\x1bP1$r\x1b\\",
                         "[", "]", "[/]", "[bold]", "[link=x]", "[/x", "\\", ":bomb:", "失败", "e\u0301", "👩\u200d💻"])
words = st.lists(SPICE | st.characters(exclude_characters="\n\t\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e"),
                 min_size=1, max_size=6).map("".join)
slow = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class DrilledRow:
    cut: str
    seconds: float | None = None


LEAVES: dict[Any, Callable[[str], Any]] = {
    str: str, Any: str, bytes: lambda w: w.encode("utf-8", "surrogatepass"), int: lambda _: 3, float: lambda _: 3.0,
    bool: lambda _: False, types.NoneType: lambda _: None,
    Path: lambda _: Path(__file__), RdtopsError: lambda w: RunError(w, remedy=w),
    Event: lambda w: Event(w, 1.7e9, {w: w}), Option: lambda w: Option(str, w, w)}


def filled(kind: Any, word: str) -> Any:
    """A thing of that kind with the word wherever it has text."""
    if kind in LEAVES:
        return LEAVES[kind](word)
    origin, inner = get_origin(kind), get_args(kind)
    if origin:
        return filled_generic(origin, inner, word)
    if hasattr(kind, "__supertype__"):
        return filled(kind.__supertype__, word)
    if issubclass(kind, Enum):
        return next(iter(kind))
    if not is_dataclass(kind):
        return types.SimpleNamespace()
    hints = get_type_hints(kind, vars(sys.modules[kind.__module__]))
    special = SPECIAL[kind](word) if kind in SPECIAL else {}
    return kind(**{f.name: special[f.name] if f.name in special else filled(hints[f.name], word)
                   for f in fields(kind) if f.init})


def filled_generic(origin: Any, inner: tuple[Any, ...], word: str) -> Any:
    if origin in (types.UnionType, Union):
        return filled(inner[0], word)
    if origin is Literal:
        return inner[-1]
    if origin is tuple:
        return tuple(filled(one, word) for one in inner if one is not ...)
    if origin in (dict, Mapping):
        return {filled(inner[0], word): filled(inner[1], word)}
    return [filled(inner[0], word)]


def tally(word: str) -> dict[str, Any]:
    return {"language": word, "successes": word, "trials": 2, "errors": word, "success_rate": word,
            "wilson_95": [word, 1.0], "mean_steps_to_success": None}


SPECIAL: dict[Any, Any] = {  # what has a form of its own
    EvalView: lambda w: {"outcomes": {"success": 1, "failure": 0, "error": 1}, "state": RunState.FAILED,
                         "report": {"planned_trials": 2, "tasks": [tally(w)], "total": tally(w), "notes": [w]}},
    RunView: lambda _: {"spec": None, "state": RunState.FAILED, "error": ""},
    CheckpointRow: lambda _: {"state": "damaged"},
    Drilled: lambda w: {"rows": (DrilledRow(w), DrilledRow(w, 1.5))},
    Replayed: lambda w: {"values": {
        "step": w, "run_id": w, "weights": w, "weights_step": w, "loss": w, "notes": [w], "is_exact": False,
        "recorded": {"first_step": w, "last_step": w, "loss": w},
        "samples": [{"number": w, "rank": w, "loss": 0.5, "timestep": w, "file": w, "episode": w, "observation": w}]}},
    NormFitted: lambda w: {"values": {"loss": {w: 0.5}, "margin": 0.5, "standard_error": 0.1, "samples": w,
                                      "certainty": 5.0, "winner": w, "stated": "other", "better": w}},
    Stats: lambda w: {"values": {"why": w, "is_written": False, "files": [w], "episodes": w, "steps": w, "codec": w,
                                 "observed": [w], "path": w, "is_sound": False,
                                 "unsound": [{"is_wrong": True, "kind": w, "slot": w, "says": w}]}}}


def concrete(kind: type) -> Iterator[type]:
    """Every output that there is, those of the modules of render with them."""
    for child in kind.__subclasses__():
        yield from concrete(child)
        if is_dataclass(child):
            yield child


for module in pkgutil.iter_modules(views.__path__, "rdtops.views."):
    importlib.import_module(module.name)
OUTPUTS = sorted(concrete(WorkflowOutput), key=lambda kind: kind.__name__)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tty, Tty]]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "4000")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with contextlib.redirect_stdout(Tty()) as out, contextlib.redirect_stderr(Tty()) as err:
        yield out, err


def check_text(written: str, *said: str) -> None:
    """Only text, and in it what was said, as it may be printed."""
    text = COLOUR.sub("", written)
    assert printable(text) == text
    seen = "".join(text.split())
    for word in said:
        assert any("".join(form(word).split()) in seen for form in (printable, log_text)), word


@pytest.mark.parametrize("kind", OUTPUTS, ids=lambda kind: kind.__name__)
@slow
@given(word=words)
@example(word=f"[red]x[/red][/]\\ {OSC_52}")
def test_every_output_is_shown_and_nothing_in_it_is_obeyed(kind, word, monkeypatch):
    with on_terminal(monkeypatch) as (out, _):
        shown = Screen()
        shown.show(filled(kind, word))
        shown.close()
    check_text(MOVE.sub("", out.getvalue()) if kind is GpuSampleOutput else out.getvalue(),
               *([] if kind is ReportOutput else [word]))


@pytest.mark.parametrize("kind", OUTPUTS, ids=lambda kind: kind.__name__)
@slow
@given(word=words)
def test_json_of_every_output_is_text_and_the_same_json(kind, word, monkeypatch):
    thing = filled(kind, word)
    with on_terminal(monkeypatch) as (out, _):
        shown = Screen()
        shown.show_json()
        shown.show(thing)
        shown.finish(0)
    assert printable(out.getvalue()) == out.getvalue()
    assert json.loads(out.getvalue()) == json.loads(json.dumps(thing.to_json(), default=str))


@pytest.mark.parametrize("kind", [*KINDS, "of another version"])
@slow
@given(word=words)
def test_every_event_is_shown_whatever_its_fields_hold(kind, word, monkeypatch):
    names = re.findall(r"\w+", KINDS.get(kind, "name"))
    with on_terminal(monkeypatch) as (out, _):
        Screen().show(EventOutput(Event(kind, 1.7e300, dict.fromkeys(names, word)), 10, ()))
    check_text(out.getvalue(), *([] if kind == "requeued" else [word]))


@slow
@given(word=words)
def test_errors_lines_questions_and_tracebacks_are_shown_and_not_obeyed(word, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    with on_terminal(monkeypatch) as (out, err):
        shown = Screen()
        shown.complain(RunError(word, remedy=word))
        shown._say(word)
        screen.say(word)
        assert screen.ask_person(word, echo=True) == "yes"
        screen.show_traceback(ValueError, ValueError(word), None)
    assert "".join(COLOUR.sub("", err.getvalue()).split()).count("".join(printable(word).split())) >= 5
    check_text(err.getvalue(), word)
    check_text(out.getvalue(), word)


def test_a_bar_shows_what_is_moved_and_obeys_nothing(monkeypatch):
    with on_terminal(monkeypatch) as (_, err):
        shown = Screen()
        shown._progressed("[bold]h\x9b", f"what{OSC_52}", TransferProgress(1000, 10, 5, 0, "p\x1b[2J"))
        shown.close()
    check_text(MOVE.sub("", err.getvalue()), f"[bold]h\x9b: what{OSC_52}")


STEPS = [BuildStep("venv", "making the venv", 0.0), BuildStep("pip", "downloading torch 2.6.0", 3.0),
         BuildStep("pip", f"downloading numpy{OSC_52}", 4.0), BuildStep("pip", "downloading h5py 3.12.1", 40.0)]


def test_a_build_is_one_living_line_on_a_terminal(monkeypatch):
    with on_terminal(monkeypatch) as (_, err):
        shown = Screen()
        for step in STEPS:
            shown._progressed("[bold]h", "environment", step)
        shown._progressed("[bold]h", "wheels", TransferProgress(1000, 10, 5, 0, "p"))
        shown.close()
    check_text(MOVE.sub("", err.getvalue()), "[bold]h: downloading h5py 3.12.1")
    assert "bytes" not in MOVE.sub("", err.getvalue()).partition("wheels")[0]


def test_what_is_usually_short_is_a_line_in_a_pipe_once_it_takes_long():
    with contextlib.redirect_stderr(io.StringIO()) as err:
        shown = Screen()
        for words, seconds in (("checking", 0.0), ("checking", 14.0), ("checking", 15.0), ("launching", 16.0),
                               ("launching", 31.0)):
            shown._progressed("h", "training", BuildStep(SHORT, words, seconds))
    assert err.getvalue().splitlines() == ["h: training: checking, 15 s", "h: training: launching, 31 s"]


def test_a_build_is_a_line_for_each_step_and_now_and_then_one_in_a_pipe():
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        shown = Screen()
        for step in STEPS:
            shown._progressed("h", "environment", step)
    assert (out.getvalue(), err.getvalue().splitlines()) == ("", [
        "h: environment: making the venv, 0 s", "h: environment: downloading torch 2.6.0, 3 s",
        "h: environment: downloading h5py 3.12.1, 40 s"])


def test_a_line_of_a_log_is_whole_and_a_long_name_stays_in_its_column(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        Screen().show(LogOutput("x" * 200 + "\n"))
        table = table_of("t", "a", "b")
        table.add_row("\x1b" * 12, "[bold]")
        Screen().out.print(table)
    assert out.getvalue().splitlines()[:1] == ["x" * 200]
    assert max(map(len, out.getvalue().splitlines()[1:])) <= 40
    assert "".join(line.split()[0] for line in out.getvalue().splitlines()[3:]) == "\\x1b" * 12


@given(st.lists(words, min_size=3, max_size=3))
def test_only_the_template_is_markup(values):
    a, b, c = values
    made = styled("{}[bold]{}[/] - [red]x{}", a, Styled(printable(b), "green"), c)
    assert made.plain == f"{printable(a)}{printable(b)} - x{printable(c)}"
    assert {str(span.style) for span in made.spans} <= {"bold", "green", "red"}
