"""One process of a training that writes down how many bytes it holds: `held_bytes.py CONFIG OUT_DIR`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.trainer.distributed.ranks import Ranks
from rdtops.trainer.distributed.sharding import held
from rdtops.trainer.loop.stop import Stop
from rdtops.trainer.train import Training


class Measured(Training):
    def run(self) -> int:
        step = self.update.step

        def measured(learning_rate: float) -> torch.Tensor:
            self.gradient_bytes = size_bytes(p.grad for p in self.policy.parameters())
            return step(learning_rate)

        self.update.step = measured  # type: ignore[method-assign]
        return super().run()

    def sizes(self) -> dict[str, int]:
        averages = [p for p in self.update.ema.policy.parameters() if not p.is_meta]
        moments = (t for state in self.update.optimizer.state.values() for t in state.values() if t.ndim)
        return {"weights": size_bytes(self.policy.parameters()), "gradients": self.gradient_bytes,
                "average": size_bytes(averages), "moments": size_bytes(moments)}


@torch.no_grad()
def size_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of the memory behind them, each piece once: a view of something whole counts as the whole."""
    storages = {s.data_ptr(): s.nbytes() for s in (held(t).untyped_storage() for t in tensors)}
    return sum(storages.values())


def main(config: str, out: str) -> None:
    spec = RunSpec.load(config)
    ranks = Ranks.join(spec.train)
    training = Measured(spec, Journal(Path(spec.paths.journal)), ranks, Stop())
    training.run()
    (Path(out) / f"{ranks.rank}.json").write_text(json.dumps(training.sizes()))
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
