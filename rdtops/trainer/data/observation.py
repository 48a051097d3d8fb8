"""Observation: frames, state, masks and instruction, the input of a policy. Training and simulation build the same.

Shapes: B observations, A slots (128), V history frames (2), C existing cameras (2), S pixels of an edge, P tokens of an
image, W their width. Of the kept frames E are encoded from pixels, and F have their tokens from the feature cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch

from rdtops.trainer.data.actions import Codec

HISTORY = 2  # the frame before, the frame now
NO_INSTRUCTION = ""  # replaces a dropped instruction
T = TypeVar("T", bound="Tensors")


@dataclass(frozen=True)
class Observation:
    frames_VCSS3: np.ndarray  # uint8, upright; zero where a frame was not kept or has its tokens from the cache
    frames_kept_VC: np.ndarray  # False: there is no frame before the first, or it was dropped
    instruction: int  # number of the text
    state_A: np.ndarray
    state_mask_A: np.ndarray
    action_mask_A: np.ndarray  # slots to be predicted
    jitter_3: np.ndarray  # factors for brightness, contrast and saturation
    sample: int  # its number in the dataset; 0 if there is no dataset
    features: tuple[torch.Tensor, ...] | None = None  # tokens (P, W) of the kept frames, in order; None: encode pixels

    @classmethod
    def undisturbed(cls, using: Codec, state_A: np.ndarray, frames_VCSS3: np.ndarray, frames_kept_VC: np.ndarray,
                    instruction: int, sample: int = 0) -> Observation:
        """Build an observation without augmentation: nothing dropped, jittered or disturbed."""
        return cls(frames_VCSS3, frames_kept_VC, instruction, state_A, using.state_mask.astype(np.float32),
                   using.action_mask.astype(np.float32), np.ones(3, np.float32), sample)


class Tensors:
    """A dataclass of tensors that are moved together."""

    def to(self: T, device: torch.device) -> T:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self: T) -> T:
        return self._each(torch.Tensor.pin_memory)

    def _each(self: T, change: Callable[[torch.Tensor], torch.Tensor]) -> T:
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})  # type: ignore


@dataclass(frozen=True)
class ObservationBatch(Tensors):
    sample_B: torch.Tensor
    frames_BVCSS3: torch.Tensor
    frames_kept_BVC: torch.Tensor
    # places of frames, as frames_kept has them when flattened: computed here, because on a GPU it would force a wait
    encoded_E: torch.Tensor
    cached_F: torch.Tensor
    features_FPW: torch.Tensor  # in the encoder's number format; without cached frames (0,)
    jitter_B3: torch.Tensor
    instruction_B: torch.Tensor
    state_B1A: torch.Tensor
    state_mask_B1A: torch.Tensor
    action_mask_B1A: torch.Tensor

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> ObservationBatch:
        frames_kept_BVC = stacked(o.frames_kept_VC for o in observations)
        is_cached_B11 = torch.tensor([o.features is not None for o in observations])[:, None, None]
        features = [tokens_PW for o in observations for tokens_PW in o.features or ()]
        return cls(
            sample_B=stacked(o.sample for o in observations),
            frames_BVCSS3=stacked(o.frames_VCSS3 for o in observations), frames_kept_BVC=frames_kept_BVC,
            encoded_E=(frames_kept_BVC & ~is_cached_B11).flatten().nonzero()[:, 0],
            cached_F=(frames_kept_BVC & is_cached_B11).flatten().nonzero()[:, 0],
            features_FPW=torch.stack(features) if features else torch.empty(0),
            jitter_B3=stacked(o.jitter_3 for o in observations),
            instruction_B=stacked(o.instruction for o in observations),
            state_B1A=stacked(o.state_A for o in observations)[:, None],
            state_mask_B1A=stacked(o.state_mask_A for o in observations)[:, None],
            action_mask_B1A=stacked(o.action_mask_A for o in observations)[:, None])

    def without_images(self) -> ObservationBatch:
        """Return the batch without pixels and cached tokens, for whoever has the tokens of all its images."""
        return replace(self, frames_BVCSS3=self.frames_BVCSS3[..., :0, :0, :].clone(), encoded_E=self.encoded_E[:0],
                       cached_F=self.cached_F[:0], features_FPW=torch.empty(0))


def stacked(values: Iterable[np.ndarray | int]) -> torch.Tensor:
    """Stack along a new first axis."""
    return torch.from_numpy(np.stack(list(values)))
