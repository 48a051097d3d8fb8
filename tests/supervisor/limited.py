"""The trainer with so much memory to spare and no more: `python -m tests.supervisor.limited SPARE_MIB CONFIG`.

The kernel's own limit (RLIMIT_DATA), set once everything is loaded: what then asks for more is refused for real.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

from rdtops.trainer import train
from rdtops.trainer.loop import failures

learn = train.Training.run


def run(training: train.Training) -> int:
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    limit_bytes = (int(found[1]) << 10) + (int(sys.argv[1]) << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    return learn(training)


if __name__ == "__main__":
    train.Training.run = run  # type: ignore[method-assign]
    failures.end(train.main(sys.argv[2:]))
