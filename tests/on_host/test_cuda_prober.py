"""The question after CUDA: answered by the driver's library without importing torch, by torch where that does not
answer well."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rdtops.on_host import cuda_prober
from rdtops.ssh import bundle

LIBRARY = """
int cuInit(unsigned flags) { return %(init)d; }
int cuDeviceGetCount(int *count) { *count = %(count)d; return 0; }
int cuDriverGetVersion(int *version) { *version = %(version)d; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device == 0 ? %(first)d : 9) : 0; return 0; }
"""
IMPORTED = {"available": False, "count": 0, "cuda": "asked", "bf16": False}  # what the torch below answers


class Machine:
    """A torch that says when it is imported, and a driver's library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has_torch(self, version: str) -> None:
        torch = self.folder / "torch"
        torch.mkdir()
        (torch / "version.py").write_text(version)
        (torch / "__init__.py").write_text(
            "class cuda:\n    is_available = staticmethod(lambda: False)\n    device_count = staticmethod(lambda: 0)\n"
            "class version:\n    cuda = 'asked'\n")

    def has_driver(self, **facts: int) -> None:
        source = self.folder / "cuda.c"
        source.write_text(LIBRARY % {"init": 0, "count": 8, "version": 12020, "first": 8, **facts})
        subprocess.run(["cc", "-shared", "-fPIC", "-o", self.folder / "libcuda.so.1", source], check=True)

    def answer(self) -> dict:
        env = {**os.environ, "PYTHONPATH": str(self.folder), "LD_LIBRARY_PATH": str(self.folder)}
        done = subprocess.run([sys.executable, "-c", bundle.source(cuda_prober)], env=env, capture_output=True,
                              text=True, check=True, timeout=60)
        return json.loads(done.stdout)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


NEW = "from typing import Optional\n__version__ = '2.8.0'\ncuda: Optional[str] = {}\nhip: Optional[str] = {}\n"


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler, for a driver's library")
@pytest.mark.parametrize(("version", "driver", "answer"), [
    (NEW.format("'12.4'", None), {}, {"available": True, "count": 8, "cuda": "12.4", "bf16": True}),
    ("cuda = '12.1'\nhip = None\n", {"count": 2, "first": 7},
     {"available": True, "count": 2, "cuda": "12.1", "bf16": False}),
    (NEW.format("'13.0'", None), {}, IMPORTED),  # the driver is too old for it
    (NEW.format("'12.4'", None), {"init": 802}, IMPORTED),
    (NEW.format("'12.4'", None), {"count": 0}, IMPORTED),
    (NEW.format(None, "'6.2.41133-dd7f95766'"), {}, IMPORTED)])
def test_the_driver_is_asked_and_torch_only_where_it_fails(machine, version, driver, answer):
    machine.has_torch(version)
    machine.has_driver(**driver)
    assert machine.answer() == answer


def test_a_build_for_cpus_is_known_by_its_version_and_no_driver_is_left_to_torch(machine):
    machine.has_torch(NEW.format(None, None))
    assert machine.answer() == {"available": False, "count": 0, "cuda": None, "bf16": False}
    (machine.folder / "torch" / "version.py").write_text(NEW.format("'12.4'", None))
    assert machine.answer() == IMPORTED


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_driver_says_what_torch_says():
    assert cuda_prober.asked_of_driver(cuda_prober.built_for()) == cuda_prober.asked_of_torch()
