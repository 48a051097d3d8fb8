"""Activation, run by a real sh in a real folder."""

import os
import subprocess

import pytest

from rdtops.ssh import environment
from rdtops.ssh.hosts import Environment, Host


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


@pytest.mark.parametrize(("place", "declared"), [
    ("miniconda3/envs/rdt", {"conda": "rdt"}), ("venvs/rdt", {"venv": "~/venvs/rdt"})])
def test_a_python_that_may_not_be_executed_is_named(tmp_path, place, declared):
    """As on a home that is mounted noexec."""
    make(tmp_path / place)
    (tmp_path / place / "bin" / "python").chmod(0o644)
    done = run(declared, tmp_path, "which python")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{tmp_path / place}/bin/python may not be executed: is its file system mounted noexec?\n"


def test_a_venv_is_used_by_its_real_folder(tmp_path):
    """So that another one may take its place meanwhile."""
    make(tmp_path / "venvs/rdt.d/1")
    (tmp_path / "venvs/rdt").symlink_to("rdt.d/1")
    done = run({"venv": "~/venvs/rdt"}, tmp_path)
    assert done.stdout.splitlines()[1] == str(tmp_path / "venvs/rdt.d/1")


# what Environment Modules 5.2 and Lmod 8.6 do as far as it matters: a function, LOADEDMODULES, words on stderr
MODULE = """\
module() {
  shift
  for m; do
    case $m in
      cuda/12.4) LOADEDMODULES="$LOADEDMODULES${LOADEDMODULES:+:}$m" ;;
      *) echo "ERROR: Unable to locate a modulefile for '$m'" >&2; return 1 ;;
    esac
  done
  export LOADEDMODULES CUDA_HOME=/opt/cuda-12.4
}
LOADEDMODULES=
"""


@pytest.fixture
def with_modules(tmp_path, monkeypatch):
    (tmp_path / "init").mkdir()
    (tmp_path / "init/sh").write_text(MODULE)

    def go(modules, command, home=str(tmp_path)):
        line = environment.activation(host(modules=modules, venv="~/v")) + command
        return subprocess.run(["sh", "-c", line], env={"HOME": home, "PATH": os.environ["PATH"], "MODULESHOME": home},
                              capture_output=True, text=True, check=False)
    make(tmp_path / "v")
    return go


def test_modules_are_loaded_before_the_venv(with_modules):
    done = with_modules(("cuda/12.4",), 'echo "$CUDA_HOME $LOADEDMODULES"; which python')
    assert done.stdout.splitlines()[0] == "/opt/cuda-12.4 cuda/12.4", done.stderr
    assert done.stdout.splitlines()[1].endswith("/v/bin/python")


def test_a_module_that_is_not_there_ends_the_line_and_is_named(with_modules):
    done = with_modules(("cuda/12.4", "cuda/99"), "echo on")
    assert (done.stdout, done.returncode != 0) == ("", True)
    assert "the module cuda/99 could not be loaded: module avail" in done.stderr


def test_a_host_without_modules_says_so(tmp_path):
    done = run({"modules": ("cuda/12.4",)}, tmp_path, "echo on")
    if "there is no `module` command" in done.stderr:  # this machine may have it
        assert done.stdout == ""
    else:
        assert "could not be loaded" in done.stderr
