"""GPU sampler: the use of the run's GPUs once a minute, in `gpus.jsonl` of the run folder.

Nothing waits for nvidia-smi, which never answers where a driver is broken: one look starts it, a later one reads it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from rdtops.hostlib import files, liveness, nvidia_smi

log = logging.getLogger("rdtops.supervisor")
FIRST_S, EVERY_S = 30.0, 60.0
LIMIT_S = 30.0  # an answer that takes longer is the last one
_QUERY = (*nvidia_smi.IDENTITY, *nvidia_smi.READINGS.values())


class GpuSampler:
    """Samples the first `count` GPUs that the training sees; none of a training on CPUs."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self._is_over = count == 0
        self._due_s = time.monotonic() + FIRST_S
        self._asked: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        """Start, read or give up a sample, whichever is due. Returns at once, and raises nothing."""
        try:
            if self._asked is None and not self._is_over and time.monotonic() >= self._due_s:
                self._ask()
            elif self._asked is not None and self._asked.poll() is not None:
                self._read(self._asked)
            elif self._asked is not None and time.monotonic() >= self._due_s + LIMIT_S:
                self._asked.kill()
                self._is_over = True
        except OSError as error:  # no nvidia-smi, a full disk
            log.info("the use of the GPUs is no longer recorded: %s", error)
            self._asked, self._is_over = None, True

    def _ask(self) -> None:
        # without the run's name in its environment: it is no process of the training
        environment = {name: value for name, value in os.environ.items() if name != liveness.RUN}
        self._asked = subprocess.Popen(nvidia_smi.query(_QUERY), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, env=environment)

    def _read(self, asked: subprocess.Popen[bytes]) -> None:
        assert asked.stdout
        with asked.stdout:
            text = asked.stdout.read().decode("utf-8", "replace")
        self._asked, self._due_s = None, time.monotonic() + EVERY_S
        listed = nvidia_smi.parse(_QUERY, text).gpus
        used = nvidia_smi.visible(listed, os.environ.get(nvidia_smi.VISIBLE))[:self.count]
        if used and not self._is_over:
            files.append_line(self.path, json.dumps(_sample(used)))


def _sample(used: tuple[nvidia_smi.Gpu, ...]) -> Mapping[str, object]:
    """Return a table with a list for each reading, which has an entry for each GPU."""
    return {"time_s": round(time.time(), 1), "index": [gpu.index for gpu in used],
            **{name: [gpu.number(field) for gpu in used] for name, field in nvidia_smi.READINGS.items()}}
