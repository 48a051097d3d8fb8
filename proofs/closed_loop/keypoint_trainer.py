"""Keypoint trainer: the bundled trainer, extended to load keypoint encoders:

    python -m proofs.closed_loop.keypoint_trainer RUN_DIR/config.json
"""

from proofs.closed_loop import keypoint_encoder  # noqa: F401  # registers itself
from rdtops.trainer import train
from rdtops.trainer.loop import failures

if __name__ == "__main__":
    failures.end(train.main())
