"""Keypoint encoder: a small vision encoder that predicts positions: convolutions and a spatial softmax.

Each of its maps gives one point of the image, the mean of all places weighted by the softmax of the map (Levine et al.,
End-to-End Training of Deep Visuomotor Policies, 2016, section 4). A linear layer computes a place in the world from the
points of a tower. There is a tower for each camera, and every image goes through all of them: an encoder does not know
the camera of an image, and a policy knows it by the tokens' positions. An image's tokens are its points, and each also
contains all predicted places, as sines and cosines.

It is loaded in place of SigLIP, by `model_type` of config.json, in every process that imports this module.

Shapes: B images, R pixels of an edge, M of a map's, C towers, K points of a tower, P = C K tokens of an image, W = 64
their width, N numbers of a token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from rdtops.errors import WeightsError
from rdtops.trainer.model import encoders, weights

MODEL_TYPE = "rdtops_keypoints"  # in config.json
CONFIG = {"model_type": MODEL_TYPE, "image_size": 64, "towers": 2, "keypoints": 8, "channels": [16, 32, 32],
          "strides": [2, 1, 1], "sharpness": 4.0}
FREQUENCIES = (0.5, 1.0, 2.0, 4.0)
PLACE = 3  # numbers of a place in the world


class Tower(nn.Module):
    """A tower: images (B, 3, R, R) in [-1, 1] to points (B, K, 2) in [-1, 1], x right and y down, and a place (B,
    3)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in zip([3, *config["channels"]], config["channels"], config["strides"], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(4, after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.maps = nn.Conv2d(config["channels"][-1], config["keypoints"], 1)
        self.place = nn.Linear(2 * config["keypoints"], PLACE)
        self.sharpness = config["sharpness"]

    def forward(self, images_B3RR: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.read(self.look(images_B3RR))

    def look(self, images_B3RR: torch.Tensor) -> torch.Tensor:
        """Return the maps, before their softmax: (B, K, M, M)."""
        return self.sharpness * self.maps(self.body(images_B3RR))

    def read(self, maps_BKMM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points_BK2 = spatial_softmax(maps_BKMM)
        return points_BK2, self.place(points_BK2.flatten(1))


class KeypointEncoder(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.towers = cast("list[Tower]", nn.ModuleList(Tower(config) for _ in range(config["towers"])))
        self.edge = config["image_size"]
        self.tokens = config["towers"] * config["keypoints"]
        self.width = (2 + PLACE * config["towers"]) * 2 * len(FREQUENCIES)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> KeypointEncoder:
        """Load strictly, as with a policy. Raise WeightsError."""
        config = weights.read_config(folder)
        if unlike := sorted(key for key, value in CONFIG.items() if type(config.get(key)) is not type(value)):
            raise WeightsError(f"{folder}/{weights.CONFIG} does not describe a keypoint encoder: {', '.join(unlike)}")
        encoder = cls(config)
        source, tensors = weights.read(folder)
        weights.fit(encoder, tensors, source)
        return encoder

    def save_pretrained(self, folder: str | Path) -> None:
        weights.write(folder, self.config, self.state_dict())

    def forward(self, images_B3RR: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, P, W)."""
        seen = [tower(images_B3RR) for tower in self.towers]
        points_BP2 = torch.cat([points for points, _ in seen], dim=1)
        answers_BPN = torch.cat([place for _, place in seen], dim=1)[:, None].expand(-1, self.tokens, -1)
        numbers_BPN = torch.cat([points_BP2, answers_BPN], dim=-1)
        angles = numbers_BPN[..., None] * numbers_BPN.new_tensor(FREQUENCIES)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)


encoders.VISION_ENCODERS[MODEL_TYPE] = lambda folder, _dtype: KeypointEncoder.from_pretrained(folder)


def spatial_softmax(maps: torch.Tensor) -> torch.Tensor:
    """Return the points (B, K, 2) of maps (B, K, R, R): the middle of the left column is -1, of the right one 1."""
    shares = maps.flatten(2).softmax(-1).unflatten(2, maps.shape[2:])
    down, across = (torch.linspace(-1, 1, size, device=maps.device, dtype=maps.dtype) for size in maps.shape[2:])
    return torch.stack([(shares.sum(2) * across).sum(-1), (shares.sum(3) * down).sum(-1)], dim=-1)
