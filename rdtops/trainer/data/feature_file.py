"""Feature file: the vision encoder's output for every frame of a dataset, mapped from disk.

Shapes: C existing cameras, V history frames (2), F kept frames, P tokens of an image, W their width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from rdtops.errors import DataError


@dataclass(frozen=True)
class FeatureFile:
    """A file of tokens (samples, C, P, W). Each process maps it when it first reads from it; pickled, it is its name
    and shape. The processes of a host share its pages in the page cache."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    def tokens(self, sample: int, kept_VC: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Return the tokens (P, W) of those of the previous and the current frame that are kept: F views of the file,
        which are read when they are used. Raise DataError when it cannot be mapped."""
        before = sample - 1  # numbers of an episode are consecutive, and nothing before its first frame is kept
        return tuple(self._table[before + history, camera] for history, camera in np.argwhere(kept_VC).tolist())

    def mapped(self, *, write: bool = False) -> torch.Tensor:
        """Map the file: (samples, C, P, W). Raise DataError."""
        try:
            numbers = torch.from_file(str(self.path), shared=write, size=math.prod(self.shape), dtype=self.dtype)
        except RuntimeError as error:
            raise DataError(f"the vision features {self.path} cannot be read: {error}",
                            remedy="inv train --resume RUN   # encodes the frames again") from error
        return numbers.view(self.shape)

    @cached_property
    def _table(self) -> torch.Tensor:
        return self.mapped()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_table"}
