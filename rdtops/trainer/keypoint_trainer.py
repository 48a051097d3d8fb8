"""The bundled trainer, which here also loads keypoint encoders: `python -m rdtops.trainer.keypoint_trainer CONFIG`."""

from rdtops.trainer import (
    failures,
    keypoints,  # noqa: F401  # registers its encoder
    train,
)

if __name__ == "__main__":
    failures.end(train.main())
