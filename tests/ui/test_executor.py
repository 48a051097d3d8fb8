"""`--host` spreads over the chain: through the real `inv`, on a tasks.py that says what it was given."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TASKS = """
from invoke import task

@task(auto_shortflags=False)
def deploy(context, host="", preset="", only=""):
    print("deploy", host or "-", preset or "-")

@task(auto_shortflags=False)
def check(context, host="", preset=""):
    print("check", host or "-", preset or "-")

@task(auto_shortflags=False, iterable=["set_"])
def train(context, host="", preset="", set_=None):
    print("train", host or "-", preset or "-", *(set_ or []))

@task(auto_shortflags=False)
def watch(context, host="", plain=False):
    print("watch", host or "-", "lines" if plain else "dashboard")

@task(auto_shortflags=False)
def plugins(context):
    print("plugins")

@task(auto_shortflags=False)
def send(context, host="", dry_run=False, json_=False):
    print("send", "would" if dry_run else "does", "json" if json_ else "table")

@task(auto_shortflags=False)
def start(context, host="", dry_run=False, json_=False):
    print("start", "would" if dry_run else "does", "json" if json_ else "table")

@task(auto_shortflags=False)
def stop(context, host="", run=""):
    print("stop", run or "-")

@task(auto_shortflags=False)
def fetch(context, run="", checkpoint="latest"):
    print("fetch", run or "-", checkpoint)

@task(auto_shortflags=False)
def replay(context, run="", checkpoint=""):
    print("replay", run or "-", checkpoint or "-")
"""


@pytest.fixture
def inv(tmp_path):
    shutil.copy(ROOT / "invoke.yaml", tmp_path)
    (tmp_path / "tasks.py").write_text(TASKS)

    def run(line):
        return subprocess.run([sys.executable, "-m", "invoke", *line.split()], cwd=tmp_path, capture_output=True,
                              text=True, check=False)
    return run


@pytest.mark.parametrize(("line", "printed"), [
    ("deploy check train --host a800", "deploy a800 -\ncheck a800 -\ntrain a800 -\n"),
    ("train watch check", "train - -\nwatch - lines\ncheck - -\n"),  # a dashboard would wait for a person
    ("train watch", "train - -\nwatch - dashboard\n"),
    ("deploy --host a800 check train", "deploy a800 -\ncheck a800 -\ntrain a800 -\n"),
    ("deploy --host x check train --host x --preset tiny", "deploy x tiny\ncheck x tiny\ntrain x tiny\n"),
    ("deploy plugins train --host a800", "deploy a800 -\nplugins\ntrain a800 -\n"),
    ("deploy check", "deploy - -\ncheck - -\n"),
    ("train --set a=1 --set b=2 --host x", "train x - a=1 b=2\n"),
    ("send start --dry-run", "send would table\nstart would table\n"),
    ("send --json check start", None),
    ("send --dry-run start --json", "send would json\nstart would json\n"),
    ("send check start --dry-run", "send would table\ncheck - -\nstart would table\n"),  # a check changes nothing
    ("stop fetch --run 34c8", "stop 34c8\nfetch 34c8 latest\n"),
    ("fetch replay --checkpoint best", "fetch - best\nreplay - best\n"),
    ("fetch --checkpoint best replay", "fetch - best\nreplay - best\n"),
    ("send stop start --dry-run", None),
    ("fetch --run 1 stop --run 2", None),
])
def test_an_option_of_one_task_is_the_option_of_the_chain(inv, line, printed):
    done = inv(line)
    if printed is None:
        assert (done.stdout, done.returncode) == ("", 2), done.stderr
        assert done.stderr.startswith("error: --")
    else:
        assert (done.stdout, done.returncode) == (printed, 0), done.stderr


@pytest.mark.parametrize("line", ["deploy --host lab check --host lab2", "deploy --preset tiny train --preset other"])
def test_two_values_in_one_chain_are_a_usage_error(inv, line):
    done = inv(line)
    assert done.returncode == 2
    assert "in one chain of tasks" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
