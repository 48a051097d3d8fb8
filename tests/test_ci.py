"""A lab test that is skipped under CI=true fails the run; elsewhere it may be skipped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
import pytest
@pytest.mark.lab
def test_of_the_lab():
    pytest.skip("no lab here")
def test_of_something_else():
    pytest.skip("not here")
@pytest.mark.lab
@pytest.mark.simulator
def test_of_the_simulator_in_the_lab():
    pytest.skip("not installed")
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skipped_lab_test_fails_in_ci_only(tmp_path, ci, code, workers):
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  lab: a lab\n  simulator: LIBERO\n")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers], cwd=tmp_path,
                          env={**os.environ, "CI": ci}, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    assert done.stdout.count("a lab test was skipped under CI=true:") == 2 * code  # also in the summary
