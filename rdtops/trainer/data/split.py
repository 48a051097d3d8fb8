"""Which samples are trained on, and which are held out to tell whether it helped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdtops.trainer.data import libero

_SPLIT = 3  # keeps this draw apart from those of rdtops.trainer.data.samples


@dataclass(frozen=True)
class Split:
    """Numbers of samples of one dataset, ascending, each in exactly one of the two."""

    trained: np.ndarray
    heldout: np.ndarray
    episodes: int  # so many were held out whole; 0: single samples were, and their neighbours are trained on

    def __str__(self) -> str:
        whole = f" of {self.episodes} episodes" if self.episodes else " here and there"
        return f"{len(self.heldout)} samples{whole if len(self.heldout) else ''} held out"


def split(dataset: libero.Dataset, share: float, seed: int) -> Split:
    """Whole episodes, because neighbours in one are nearly the same sample. Where the share is less than half an
    episode, single samples instead: less telling, but no phase of the few demonstrations is lost to training."""
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
