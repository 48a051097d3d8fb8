"""A training that the kernel refuses memory to goes on with smaller micro-batches and learns the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdtops.contract import overrides
from rdtops.contract.run import RunSpec
from tests.trainer.conftest import REPOSITORY, events, losses, prepare, signals_as_they_were, train_here  # noqa: F401
from tests.trainer.conftest import assets as assets

SPARE_MIB = 150  # 64 samples take some 250, 32 half of it
FEW = ("max_steps=2", "num_processes=1", "batch_size_per_process=64", "heldout_share=0", "sample_every_steps=0")


def supervised(spec: RunSpec) -> int:
    words = [sys.executable, "-m", "rdtops.supervisor", str(spec.paths.config), "restarts=0", "--",
             sys.executable, "-m", "tests.supervisor.limited", str(SPARE_MIB), str(spec.paths.config)]
    with Path(spec.paths.log).open("ab") as log:
        return subprocess.run(words, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "RDTOPS_RUN": spec.run_id}).returncode


def test_memory_that_is_refused_leads_to_smaller_batches_and_the_same_losses(prepare, train_here) -> None:  # noqa: F811
    limited, free = prepare("limited", *FEW), prepare("free", *FEW)
    assert supervised(limited) == 0, Path(limited.paths.log).read_text()[-2000:]
    first, *_, last = events(limited, "attempt_ended")
    assert (first.data["cause"], last.data["cause"]) == ("out_of_host_memory", "finished")
    assert "can't allocate memory" in events(limited, "failed")[0].data["error"]  # torch's own word for the kernel's no
    used = overrides.used(limited)
    assert used.batch_size_per_process < 64
    assert used.global_batch_size == 64
    assert json.loads(Path(limited.paths.config).read_text())["train"]["batch_size_per_process"] == 64  # as asked for
    assert train_here(free) == 0
    assert losses(limited) == pytest.approx(losses(free), rel=1e-5)
