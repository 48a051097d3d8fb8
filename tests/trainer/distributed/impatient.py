"""A training on CPUs whose processes wait for each other as over NCCL: short for tensors, long for one process. Its
first checkpoint takes longer than the short wait: `python -m tests.trainer.distributed.impatient CONFIG TENSORS_S
SAVE_S`."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import torch
from torch import distributed

from rdtops.trainer import train
from rdtops.trainer.distributed.ranks import PATIENCE, Ranks
from rdtops.trainer.loop import checkpoint, failures

if __name__ == "__main__":
    tensors_s, save_s = map(float, sys.argv[2:4])
    save, delays_s = checkpoint.save, [save_s]

    def joined(_config: object) -> Ranks:
        distributed.init_process_group("gloo", timeout=timedelta(seconds=tensors_s))
        return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), torch.device("cpu"),
                     distributed.new_group(timeout=PATIENCE, backend="gloo"))

    Ranks.join = joined
    checkpoint.save = lambda *given: (delays_s and time.sleep(delays_s.pop()), save(*given))[1]
    failures.leave(lambda: train.main(sys.argv[1:2]))
