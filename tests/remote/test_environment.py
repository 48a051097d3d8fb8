"""Activation, run by a real sh in a real folder."""

import os
import subprocess

import pytest

from rdtops.remote import environment
from rdtops.remote.hosts import Environment, Host


def host(**declared):
    return Host(name="h", address="192.0.2.1", environment=Environment(**declared))


def run(declared, home, command='which python; echo "$CONDA_PREFIX$VIRTUAL_ENV"'):
    line = environment.activation(host(**declared)) + command
    return subprocess.run(["sh", "-c", line], env={"HOME": str(home), "PATH": os.environ["PATH"]}, capture_output=True,
                          text=True, check=False)


def make(prefix):
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").write_text("#!/bin/sh\necho this one\n")
    (prefix / "bin" / "python").chmod(0o755)


def test_no_environment_adds_nothing():
    assert environment.activation(host()) == ""
    assert environment.python(host()) == "python3"


@pytest.mark.parametrize(("place", "declared"), [
    ("miniconda3/envs/rdt", {"conda": "rdt"}),
    (".conda/envs/rdt", {"conda": "rdt"}),
    ("my envs/rdt's", {"conda": "~/my envs/rdt's"}),
    ("venvs/rdt", {"venv": "~/venvs/rdt"}),
])
def test_the_declared_environment_comes_first_on_the_path(tmp_path, place, declared):
    make(tmp_path / place)
    done = run(declared, tmp_path)
    assert done.stdout.splitlines() == [str(tmp_path / place / "bin/python"), str(tmp_path / place)], done.stderr
    assert environment.python(host(**declared)) == "python"


def test_conda_s_activation_scripts_are_sourced(tmp_path):
    prefix = tmp_path / "miniconda3/envs/rdt"
    make(prefix)
    scripts = prefix / "etc/conda/activate.d"
    scripts.mkdir(parents=True)
    (scripts / "cuda.sh").write_text("export CUDA_HOME=$CONDA_PREFIX/cuda\n")
    assert run({"conda": "rdt"}, tmp_path, 'echo "$CUDA_HOME"').stdout.strip() == str(prefix / "cuda")


@pytest.mark.parametrize(("declared", "words"), [
    ({"conda": "rdt"}, "there is no conda environment rdt; looked in ~/miniconda3/envs/rdt"),
    ({"venv": "~/venvs/rdt"}, "there is no venv ~/venvs/rdt"),
])
def test_a_missing_environment_ends_the_line_and_says_where_it_was_looked_for(tmp_path, declared, words):
    done = run(declared, tmp_path, "which python")
    assert done.returncode != 0
    assert done.stdout == ""
    assert words in done.stderr
