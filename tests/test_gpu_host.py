"""`python -m pytest -m gpu` starts where a training runs, with the trainer's packages and pytest, not the laptop's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import OF_THE_LAPTOP

ROOT = Path(__file__).parents[1]
MISSING = {*OF_THE_LAPTOP, "_hypothesis_pytestplugin", "xdist", "pytest_xdist", "pytest_cov"}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The folder of this environment's packages, but for those that a GPU host lacks."""
    here, there = Path(sysconfig.get_path("purelib")), tmp_path / "packages"
    there.mkdir()
    for entry in here.iterdir():
        name = re.sub(r"[-.].*", "", entry.name).lower()
        if name not in MISSING and not name.startswith("__editable__"):
            (there / entry.name).symlink_to(entry)
    return there


def pytest_there(packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-S", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": f"{packages}:{ROOT}"}, capture_output=True, text=True,
                          check=False)


@pytest.mark.parametrize("where", [
    ("tests/on_host", "tests/trainer/loop", "tests/trainer/model/test_determinism.py"),
    pytest.param(("tests",), marks=pytest.mark.slow),
])
def test_the_gpu_tests_start_without_fabric(packages: Path, where: tuple[str, ...]) -> None:
    done = pytest_there(packages, "-m", "gpu", "-rs", *where)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "paramiko is not installed; these tests need the laptop's packages" in done.stdout
    assert "tests/trainer/model/test_determinism.py" in done.stdout  # chosen; skipped where there is no GPU


def test_the_trainers_tests_run_without_fabric(packages: Path) -> None:
    done = pytest_there(packages, "tests/trainer/loop/test_ema.py")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\d passed", done.stdout)
