"""Split of a dataset into training samples and held-out samples for the validation loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdtops.trainer.data import libero

_SPLIT = 3  # separates this draw from those of rdtops.trainer.data.samples


@dataclass(frozen=True)
class Split:
    """The sample numbers of one dataset, ascending, each in exactly one of the two sets."""

    trained: np.ndarray
    heldout: np.ndarray
    episodes: int  # number of whole episodes held out; 0: single samples, whose neighbours are trained on

    def __str__(self) -> str:
        whole = f" of {self.episodes} episodes" if self.episodes else " spread over all episodes"
        return f"{len(self.heldout)} samples{whole if len(self.heldout) else ''} held out"


def split(dataset: libero.Dataset, share: float, seed: int) -> Split:
    """Hold out whole episodes, because neighbouring samples of one are nearly the same. Where the share is less than
    half an episode, hold out single samples: less telling, but no phase of the few demonstrations is lost."""
    random = np.random.default_rng((seed, _SPLIT))
    starts = [e.starts for e in dataset.episodes]
    episodes = round(share * len(starts))
    out = np.zeros(len(dataset), bool)
    if episodes:
        ends = np.cumsum(starts)
        for number in random.permutation(len(starts))[:episodes]:
            out[ends[number] - starts[number]:ends[number]] = True
    else:
        out[random.permutation(len(dataset))[:round(share * len(dataset))]] = True
    return Split(np.flatnonzero(~out), np.flatnonzero(out), episodes)
