"""What both machines know of each architecture without torch. A test holds it against the trainer's own tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """`parameters` counts the published weights (shapes of rdt-1b and rdt-170m); widths are those of the encoders."""

    parameters: int
    hidden_size: int
    depth: int
    num_heads: int
    lang_width: int  # d_model of the text encoder
    img_width: int  # hidden_size of the vision encoder
    img_patches: int  # patches of one image

    @property
    def checkpoint_bytes(self) -> int:
        """fp32 weights, their EMA and two moments of Adam: 16 bytes a parameter."""
        return 16 * self.parameters


MODELS = {
    "tiny": ModelFacts(274_048, 64, 4, 4, lang_width=32, img_width=32, img_patches=16),
    "rdt-170m": ModelFacts(166_229_888, 1024, 14, 32, lang_width=4096, img_width=1152, img_patches=729),
    "rdt-1b": ModelFacts(1_228_319_872, 2048, 28, 32, lang_width=4096, img_width=1152, img_patches=729),
}
