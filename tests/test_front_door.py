"""tasks.py hands functions to the command line, so mypy reads the product's main door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.commandline import CommandLine

ROOT = Path(__file__).parents[1]
MISTAKES = {  # what tasks.py says -> what mypy must refuse
    "workflows.rollback, to=to": "workflows.rollback, release=to",
    "workflows.hosts, ping=ping": "workflows.hosts, ping=host",
    "workflows.why, run_id=run": "workflows.why",
    "workflows.attach, run_id": "workflows.atach, run_id",
    "workflows.normfit, request=cli.request(preset, set_)": "workflows.normfit, request=cli.request(set_, preset)",
    "cli.on_laptop(workflows.plugins": "cli.on_laptop(workflows.gpu",
    "repository.lab_up(session.say, backend, door)": "repository.lab_up(session.say, back_end=backend)",
    "drills.drill(session.say, name, kills=kills,": "drills.drill(session.say, name, kills=only,",
}


def test_a_wrong_argument_of_a_task_fails_mypy(tmp_path: Path) -> None:
    text = (ROOT / "tasks.py").read_text()
    for right, wrong in MISTAKES.items():
        assert text.count(right) == 1, right
        text = text.replace(right, wrong)
    file = tmp_path / "mistaken.py"
    file.write_text(text)
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    refused = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line}
    wanted = {text[:text.index(wrong)].count("\n") + 1 for wrong in MISTAKES.values()}
    assert refused == wanted, done.stdout


def test_no_name_of_a_function_is_looked_up() -> None:
    for file in ("tasks.py", "rdtops/ui/cli.py"):
        called = [ast.unparse(node.func) for node in ast.walk(ast.parse((ROOT / file).read_text()))
                  if isinstance(node, ast.Call)]
        assert not {"getattr", "importlib.import_module", "__import__"} & set(called), file


@pytest.mark.parametrize("task", ["hosts --ping", "status", "check"])
def test_an_inventory_with_examples_alone_says_where_hosts_belong(task: str, tmp_path: Path) -> None:
    (tmp_path / "hosts.toml").touch()
    CommandLine(tmp_path, tmp_path / "hosts.toml").refused(task, 2, "there is no host yet", "docs/hosts.md")
