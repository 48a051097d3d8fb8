"""What `inv bench gpu --host` sends: all that it imports there, where proofs/ is not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from proofs.benches import gpu_bench

REPOSITORY = Path(__file__).parents[2]


def test_the_bench_that_is_sent_imports_nothing_that_is_not(tmp_path) -> None:
    with tarfile.open(fileobj=io.BytesIO(gpu_bench._archive())) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "rdtops").symlink_to(REPOSITORY / "rdtops")
    done = subprocess.run([sys.executable, "-m", "proofs.gpu_bench", "--help"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-1000:]
