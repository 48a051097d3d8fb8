"""Models: the facts of each architecture that need no torch. A test compares them with the trainer's own tables."""

from __future__ import annotations

from dataclasses import dataclass

SLOTS = 128  # of RDT's unified action vector
FRAMES, EXISTING_FRAMES = 6, 4  # of an observation: three cameras, now and before; LIBERO has no left wrist
TIME_FEATURES = 256  # of the embedding of a diffusion time or a frequency


@dataclass(frozen=True)
class VisionFacts:
    """The sizes of a SigLIP."""

    parameters: int
    width: int
    depth: int
    mlp_width: int
    patch_edge: int  # pixels


@dataclass(frozen=True)
class ModelFacts:
    """The sizes of an architecture. `parameters` counts the published weights (shapes of rdt-1b and rdt-170m); widths
    are those of the encoders."""

    parameters: int
    hidden_size: int
    depth: int
    num_heads: int
    lang_width: int  # d_model of the text encoder
    img_width: int  # hidden_size of the vision encoder
    img_patches: int  # patches of one image
    lang_tokens: int = 1024  # the longest instruction
    horizon: int = 64  # actions predicted at once
    vision: VisionFacts | None = None  # None: not a SigLIP

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint: fp32 weights, their EMA and two moments of Adam, 16 bytes a parameter."""
        return 16 * self.parameters

    @property
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the published weights, by name."""
        wide = self.hidden_size
        head = (wide // self.num_heads,)
        found: dict[str, tuple[int, ...]] = {
            "model.x_pos_embed": (1, self.horizon + 3, wide),  # before the actions: step, frequency, state
            "model.lang_cond_pos_embed": (1, self.lang_tokens, wide),
            "model.img_cond_pos_embed": (1, FRAMES * self.img_patches, wide)}
        for embedder in ("t_embedder", "freq_embedder"):
            found |= _mlp(f"model.{embedder}.mlp", TIME_FEATURES, wide, 2)
        for block in (f"model.blocks.{number}" for number in range(self.depth)):
            found |= {f"{block}.norm{n}.weight": (wide,) for n in (1, 2, 3)}
            found |= {f"{block}.{attention}.{norm}.weight": head for attention in ("attn", "cross_attn")
                      for norm in ("q_norm", "k_norm")}
            for name, width in (("attn.qkv", 3 * wide), ("attn.proj", wide), ("cross_attn.q", wide),
                                ("cross_attn.kv", 2 * wide), ("cross_attn.proj", wide), ("ffn.fc1", wide),
                                ("ffn.fc2", wide)):
                found |= _linear(f"{block}.{name}", wide, width)
        found |= {"model.final_layer.norm_final.weight": (wide,)}
        found |= _linear("model.final_layer.ffn_final.fc1", wide, wide)
        found |= _linear("model.final_layer.ffn_final.fc2", wide, SLOTS)
        for name, inward, layers in (("lang", self.lang_width, 2), ("img", self.img_width, 2), ("state", 2 * SLOTS, 3)):
            found |= _mlp(f"{name}_adaptor", inward, wide, layers)
        return found


def _linear(name: str, inward: int, outward: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outward, inward), f"{name}.bias": (outward,)}


def _mlp(name: str, inward: int, wide: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of linear layers with an activation between each two."""
    found = _linear(f"{name}.0", inward, wide)
    for number in range(1, layers):
        found |= _linear(f"{name}.{2 * number}", wide, wide)
    return found


SIGLIP_TINY = VisionFacts(50_784, 32, 2, 64, patch_edge=16)
SIGLIP_SO400M = VisionFacts(428_225_600, 1152, 27, 4304, patch_edge=14)
MODELS = {
    "tiny": ModelFacts(274_048, 64, 4, 4, lang_width=32, img_width=32, img_patches=16, lang_tokens=128, horizon=16,
                       vision=SIGLIP_TINY),
    "small": ModelFacts(558_464, 96, 4, 4, lang_width=32, img_width=64, img_patches=16, lang_tokens=128, horizon=16),
    "rdt-170m": ModelFacts(166_229_888, 1024, 14, 32, lang_width=4096, img_width=1152, img_patches=729,
                           vision=SIGLIP_SO400M),
    "rdt-1b": ModelFacts(1_228_319_872, 2048, 28, 32, lang_width=4096, img_width=1152, img_patches=729,
                         vision=SIGLIP_SO400M),
}
