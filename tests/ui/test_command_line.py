"""The words of the command line, through the real `inv` and the real tasks.py: plain runs, misspelt words, `--list`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from invoke import Collection, Exit, Task
from invoke.parser import ParserContext

from rdtops.ui.command_line import ChainParser

ROOT = Path(__file__).parents[2]


def inv(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "invoke", *line.split()], cwd=ROOT, capture_output=True, text=True,
                          check=False, env={**os.environ, "COLUMNS": "100"})


@pytest.mark.parametrize(("line", "words"), [
    ("chek --host lab", "error: there is no task 'chek'; did you mean check?\n-> inv --list"),
    ("stauts", "error: there is no task 'stauts'; did you mean status?\n-> inv --list"),
    ("check --hots lab", "error: inv check: there is no option --hots; did you mean --host?\n-> inv check --help"),
    ("bench startup --quik", "error: inv bench: there is no option --quik; did you mean --quick?"),
])
def test_a_misspelt_word_is_answered_with_the_nearest_and_exit_2(line: str, words: str) -> None:
    done = inv(line)
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith(words)


def test_the_list_fits_a_screen_and_has_every_task_once() -> None:
    done = inv("--list")
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines) <= 30, max(map(len, lines)) <= 100) == (0, True, True), done.stdout
    assert [line for line in lines if not line.startswith(" ")] == [
        "Every day", "Setting up", "Plugins", "This repository", "inv --help TASK shows its options"]
    assert [line.split()[0] for line in lines[1:4]] == ["deploy", "check", "train"]  # in the order of use
    words = " ".join(lines).split()
    assert [name for name in named_tasks() if words.count(name) < 1] == []


def named_tasks() -> list[str]:
    sys.path.insert(0, str(ROOT))
    try:
        from tasks import namespace
    finally:
        sys.path.remove(str(ROOT))
    return list(namespace.task_names)


def parser() -> ChainParser:
    def why(context: object, host: str = "", run: str = "", json_: bool = False) -> None: ...
    def logs(context: object, run: str = "", lines: int = 50, share: float = 0.5) -> None: ...
    def check(context: object, host: str = "", set_: list[str] | None = None) -> None: ...
    def bench(context: object, name: str, only: str = "") -> None: ...

    tasks = [Task(why, auto_shortflags=False), Task(logs, auto_shortflags=False),
             Task(check, auto_shortflags=False, iterable=["set_"]), Task(bench, positional=["name"])]
    return ChainParser(contexts=Collection(*tasks).to_contexts(), initial=ParserContext())


@pytest.mark.parametrize(("line", "given"), [
    ("why 34c8", [("why", {"run": "34c8"})]),
    ("why --host lab 34c8 --json", [("why", {"host": "lab", "run": "34c8", "json": True})]),
    ("why 34c8 logs --lines 7", [("why", {"run": "34c8"}), ("logs", {"lines": 7})]),
    ("why --run=34c8", [("why", {"run": "34c8"})]),
    ("logs tiny", [("logs", {"run": "tiny"})]),  # a part of a run id may be a word
    ("logs logs2", [("logs", {"run": "logs2"})]),
    ("check --set a=1 --set b=-2 why", [("check", {"set": ["a=1", "b=-2"]}), ("why", {})]),
    ("bench check --only 3", [("bench", {"name": "check", "only": "3"})]),  # the word of a task that wants one
    ("why --host check", [("why", {"host": "check"})]),
])
def test_a_plain_word_after_a_task_about_runs_is_a_run(line: str, given: list[tuple[str, dict[str, object]]]) -> None:
    found = parser().parse_argv(line.split())[1:]
    assert [(one.name, {name: arg.value for name, arg in one.args.items() if arg.got_value}) for one in found] == given


@pytest.mark.parametrize(("line", "words"), [
    ("check 34c8", "there is no task '34c8'"),
    ("why 34c8 5d", "there is no task '5d'"),
    ("why --run 3 4", "there is no task '4'"),
    ("why chekc", "there is no task 'chekc'; did you mean check?"),  # rather than a run
    ("why --host", "inv why: --host needs a value"),
    ("why --host a --host b", "inv why: --host is given twice"),
    ("logs --lines many", "inv logs: --lines many: not an integer"),
    ("logs --share half", "inv logs: --share half: not a number"),
    ("--host a why", "inv: there is no option --host"),
    ("bench", "'bench' did not receive required positional arguments: 'name'"),
])
def test_a_command_line_that_cannot_be_meant_is_a_usage_error(line: str, words: str) -> None:
    with pytest.raises(Exit) as refused:
        parser().parse_argv(line.split())
    assert (refused.value.code, refused.value.message.splitlines()[0]) == (2, f"error: {words}")
