"""Eyes for a small policy: a little SigLIP that demonstrations teach where things are.

The trainer keeps its vision encoder frozen, and with `vision_cache_gib` it sees every frame once; so an encoder that is
taught beforehand costs a policy's training nothing. What it is taught needs no labels but the demonstrations' own: from
one frame, where the hand is going to close, as long as it has not, and where it is going to open again. The camera
outside is asked for the places, the one on the wrist for the ways there from the hand. Every token of an image is asked
alike, through one linear head a camera, which is thrown away: so whichever tokens a policy attends to, the answer can
be read from them.

Shapes: F frames, B of a batch, C cameras, 2 places, R pixels of an edge as the encoder sees it, P tokens of an image, W
their width.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rdtops.errors import DataError
from rdtops.trainer import encoders, libero

log = logging.getLogger(__name__)
EDGE, PATCH, WIDTH = 64, 16, 64  # pixels, pixels, numbers a token
HELD_OUT = 8  # one demonstration of so many judges what was learnt
BATCH = 32
LEARNING_RATE = 1e-3
M_PER_UNIT = 0.05  # of what the heads say: numbers around 1


@dataclass(frozen=True)
class Seen:
    """What there is to learn from."""

    frames_FC3RR: torch.Tensor  # uint8, upright
    place_m_FC23: np.ndarray  # what each camera is asked for
    asked_F2: np.ndarray  # bool: nobody is asked where the hand has closed before
    demo_F: np.ndarray


def teach(demonstrations: Path, out: Path, steps: int, seed: int = 0) -> dict[str, float]:
    """Write the encoder into `out`. Returns for each camera how far off its head is, in m along the table, on
    demonstrations that taught nothing: the mean over frames before the hand closes. Raises DataError when there are
    none of those, or no demonstrations to spare."""
    seen = look(libero.index(demonstrations))
    every = min(HELD_OUT, int(seen.demo_F.max()) + 1)
    judging = seen.demo_F % every == every - 1
    for some in (judging, ~judging):
        if not (some & seen.asked_F2[:, 0]).any():
            raise DataError(f"{demonstrations} needs two demonstrations at least in which the robot closes its hand: "
                            "one teaches the eyes, one judges them")
    torch.manual_seed(seed)
    tower, heads = _tower(), nn.ModuleList(nn.Linear(WIDTH, 6) for _ in libero.CAMERAS)
    middle_C23 = np.stack([seen.place_m_FC23[~judging & asked_F, :, place].mean(0)
                           for place, asked_F in enumerate(seen.asked_F2.T)], axis=1)
    answers_FC23 = torch.from_numpy((seen.place_m_FC23 - middle_C23) / M_PER_UNIT).float()
    _learn(tower, heads, seen, answers_FC23, np.flatnonzero(~judging), steps, seed)
    tower.save_pretrained(out)
    errors = _errors_m(tower, heads, seen, answers_FC23, np.flatnonzero(judging & seen.asked_F2[:, 0]))
    return dict(zip(libero.CAMERAS, errors, strict=True))


def look(dataset: libero.Dataset) -> Seen:
    frames, places, asked, demo = [], [], [], []
    reader = libero.Frames(dataset)
    for number, episode in enumerate(dataset.episodes):
        closed = episode.actions_T7[:, 6] > 0
        close, end = int(closed.argmax()), len(closed) - 1
        opens = np.flatnonzero(~closed[close:])
        turn = close + int(opens[0]) if len(opens) else end
        for t in range(episode.starts):
            there = episode.position_m_T3[[close, turn]]
            frames.append(encoders.resized(torch.from_numpy(reader.read(episode, t)), EDGE))
            places.append([there, there - episode.position_m_T3[t]])
            asked.append([t < close, True])
            demo.append(number)
    reader.close()
    return Seen(torch.stack(frames), np.array(places), np.array(asked), np.array(demo))


def _tower() -> Any:
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipVisionModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return SiglipVisionModel(SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=EDGE,
        patch_size=PATCH, vision_use_head=False))


def _learn(tower, heads, seen: Seen, answers_FC23, numbers: np.ndarray, steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        chosen = random.choice(numbers, BATCH)
        said_BCP23 = _said(tower, heads, seen.frames_FC3RR[chosen])
        answers_BCP23 = answers_FC23[chosen][:, :, None].expand_as(said_BCP23)
        loss_BCP23 = functional.smooth_l1_loss(said_BCP23, answers_BCP23, reduction="none")
        asked_BCP2 = torch.from_numpy(seen.asked_F2[chosen])[:, None, None].expand(loss_BCP23.shape[:-1])
        loss = loss_BCP23[asked_BCP2].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            log.info("eyes: step %d of %d, loss %.4f", step + 1, steps, loss.detach())


def _said(tower, heads, frames_BC3RR: torch.Tensor) -> torch.Tensor:
    """(B, C, P, 2, 3)."""
    tokens = tower(pixel_values=encoders.normalised(frames_BC3RR.flatten(0, 1))).last_hidden_state
    tokens_BCPW = tokens.unflatten(0, frames_BC3RR.shape[:2])
    return torch.stack([head(tokens_BCPW[:, c]) for c, head in enumerate(heads)], dim=1).unflatten(-1, (2, 3))


@torch.no_grad()
def _errors_m(tower, heads, seen: Seen, answers_FC23, numbers: np.ndarray) -> list[float]:
    off = torch.cat([(_said(tower, heads, seen.frames_FC3RR[some]).mean(2) - answers_FC23[some])[:, :, 0]
                     for some in np.array_split(numbers, max(1, len(numbers) // BATCH))])
    return [round(float(e), 4) for e in (off[..., :2].norm(dim=-1).mean(0) * M_PER_UNIT)]
