"""A training whose disk is slow: `python -m tests.trainer.slow_disk rdtops.trainer.train CONFIG SECONDS`. A checkpoint
takes so much longer."""

from __future__ import annotations

import sys
import time

from rdtops.trainer import stacks, train
from rdtops.trainer.loop import checkpoint, failures

if __name__ == "__main__":
    stacks.write_on_request()
    save, delay_s = checkpoint.save, float(sys.argv[3])
    checkpoint.save = lambda *given: (time.sleep(delay_s), save(*given))[1]
    failures.leave(lambda: train.main(sys.argv[2:3]))
