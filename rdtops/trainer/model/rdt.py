"""RDT: a diffusion transformer that turns noise into a chunk of robot actions, given language, images and the state.

Parameter names and shapes are the keys of the published rdt-1b and rdt-170m weights: do not rename them. The numbers
are compared with recordings of the official code (tests/trainer/model/test_rdt.py).

Shapes: B samples, H actions of a chunk (horizon), A slots of an action or state (128), D hidden width,
L language tokens, I image tokens, T = 3 + H trajectory tokens (diffusion time, control frequency, state, actions),
N heads, E width of a head, K tokens attended to, S of them shared by all samples, R noise draws of a sample.
Of images: V frames, C existing cameras, P tokens of an image. `x_BHA` has the axes B, H, A.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rdtops.contract.models import TIME_FEATURES
from rdtops.errors import WeightsError
from rdtops.trainer.model import diffusion, weights
from rdtops.trainer.model.attended_tokens import (
    Condition,
    KeysValues,
    Tokens,
    attention_bias,
    heads_of,
    joined,
    key_value_heads,
)
from rdtops.trainer.model.norm import NORMS, Norm

CONFIG_KEYS = ("action_dim", "pred_horizon", "state_token_dim", "lang_token_dim", "img_token_dim", "max_lang_cond_len",
               "img_cond_len", "lang_adaptor", "img_adaptor", "state_adaptor", "rdt", "noise_scheduler")
SIZES = ("action_dim", "pred_horizon", "state_token_dim", "lang_token_dim", "img_token_dim", "max_lang_cond_len",
         "img_cond_len")
LARGEST, DEEPEST = 100_000, 1_000  # sizes in a config.json; a damaged one must not build a model for hours
# every other key of a config.json, and every key of its tables: one that is not here may change what a model computes
KNOWN_KEYS = {"": {*CONFIG_KEYS, "lang_pos_embed_config", "img_pos_embed_config", "ema", "norm"},
              "rdt": {"hidden_size", "depth", "num_heads", "cond_pos_embed_type"},
              "noise_scheduler": {"type", "num_train_timesteps", "num_inference_timesteps", "beta_schedule",
                                  "prediction_type", "clip_sample"}}
NOTES = ("architectures", "model_type", "dtype", "torch_dtype", "transformers_version")  # and what begins with _
PREDICTIONS = ("sample", "epsilon")
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # that both of diffusers' schedulers know


def _architecture(hidden: int, depth: int, heads: int, *, horizon: int = 64, lang_width: int = 4096,
                  lang_len: int = 1024, img_width: int = 1152, patches: int = 729) -> dict[str, Any]:
    """Return the architecture for two history frames of three cameras, each of `patches` tokens."""
    return {
        "action_dim": 128, "state_token_dim": 128, "pred_horizon": horizon,
        "lang_token_dim": lang_width, "img_token_dim": img_width,
        "max_lang_cond_len": lang_len, "img_cond_len": 2 * 3 * patches,
        "lang_pos_embed_config": [["lang", -lang_len]], "img_pos_embed_config": [["image", [2, 3, -patches]]],
        "lang_adaptor": "mlp2x_gelu", "img_adaptor": "mlp2x_gelu", "state_adaptor": "mlp3x_gelu",
        "rdt": {"hidden_size": hidden, "depth": depth, "num_heads": heads, "cond_pos_embed_type": "multimodal"},
        "noise_scheduler": {"type": "ddpm", "num_train_timesteps": 1000, "num_inference_timesteps": 5,
                            "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "clip_sample": False},
        "ema": {"update_after_step": 0, "inv_gamma": 1.0, "power": 0.75, "min_value": 0.0, "max_value": 0.9999},
        "norm": "timm_1_0_3",
    }


ARCHITECTURES = {
    "tiny": _architecture(64, 4, 4, horizon=16, lang_width=32, lang_len=128, img_width=32, patches=16),
    "small": _architecture(96, 4, 4, horizon=16, lang_width=32, lang_len=128, img_width=64, patches=16),
    "rdt-170m": _architecture(1024, 14, 32),
    "rdt-1b": _architecture(2048, 28, 32),
}


class RDTPolicy(nn.Module):
    """The model with its adaptors, its training loss and its sampler.

    `config` is the table of the published config.json with one more key: `norm`, one of NORMS. The published weights
    were trained with timm 1.0.3's norm, which is the default for a config without the key.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = _checked(config)
        self.prediction_type = self.config["noise_scheduler"]["prediction_type"]
        hidden = self.config["rdt"]["hidden_size"]
        self.model = RDT(self.config)
        self.lang_adaptor = adaptor(self.config["lang_adaptor"], self.config["lang_token_dim"], hidden)
        self.img_adaptor = adaptor(self.config["img_adaptor"], self.config["img_token_dim"], hidden)
        self.state_adaptor = adaptor(self.config["state_adaptor"], 2 * self.config["state_token_dim"], hidden)
        self._noise = diffusion.training_noise(self.config["noise_scheduler"])
        if not self.model.x_pos_embed.is_meta:
            self.initialise()

    @classmethod
    def from_pretrained(cls, directory: str | Path, config_from: str | Path = "") -> RDTPolicy:
        """Load strictly: every key must exist with its shape. `config_from`: the folder of config.json, if another.
        Raise WeightsError."""
        config = weights.read_config(config_from or directory)
        try:
            with torch.device("meta"):  # saves time and memory for random values that are replaced at once
                policy = cls(config)
        except WeightsError:
            raise
        except Exception as error:  # a value of the wrong type may raise anything
            raise WeightsError(f"{config_from or directory}/config.json does not describe an RDT: {error!r}") from error
        source, tensors = weights.read(directory)
        weights.fit(policy, tensors, source)
        return policy

    def save_pretrained(self, directory: str | Path) -> None:
        weights.write(directory, self.config, self.state_dict())

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw random values for training from scratch, from torch's default generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.model.initialise(self.config)

    def loss(self, *, lang_tokens, lang_attn_mask, img_tokens, state_tokens, action_gt, action_mask, ctrl_freqs,
             noise=None, timesteps=None, state_mask=None, step_mask=None, valid_steps=None,
             background_tokens=None, slot_weights=None) -> torch.Tensor:
        """Return the mean squared error of the denoised chunk, computed in float32.

        lang_tokens (B, L, lang width), lang_attn_mask (B, L) bool: True is attended; img_tokens (B, I, img width);
        state_tokens (B, 1, A); action_gt (B, H, A); action_mask (B, 1, A): the slots in use, of the actions and,
        without a `state_mask`, of the state; ctrl_freqs (B,) in Hz. noise (B, H, A) and timesteps (B,)
        are drawn when not given; as (B, R, H, A) and (B, R) they are R draws of each sample, which share the cost of
        the sample's language and images, and the loss is the mean over them. step_mask (B, H): False after the end of
        an episode; such actions do not count. The sum over the counted actions is divided by `valid_steps` (default:
        the number of counted steps here) and by A. slot_weights (A,) weigh the slots; without them all A have equal
        weight, which is the published loss. background_tokens (P, img width) replace the missing cameras, the last ones
        of every frame; img_tokens are then of the existing ones, (B, V, C, P, img width), and the background is
        computed once for all.
        """
        noise_BHA = torch.randn_like(action_gt) if noise is None else noise
        if timesteps is None:
            timesteps = torch.randint(self._noise.config.num_train_timesteps, noise_BHA.shape[:-2],
                                      device=action_gt.device)
        draws = noise_BHA.shape[1] if noise_BHA.ndim == 4 else 1
        noise_BHA, timesteps = noise_BHA.flatten(0, -3), timesteps.flatten()
        action_gt, state_tokens, action_mask, state_mask, step_mask, ctrl_freqs = (
            _repeated(t, draws) for t in (action_gt, state_tokens, action_mask, state_mask, step_mask, ctrl_freqs))
        noisy_BHA = self._noise.add_noise(action_gt, noise_BHA, timesteps)
        conditions = self.conditions(lang_tokens, lang_attn_mask, img_tokens, background_tokens)
        trajectory_BTD = self.adapt_trajectory(state_tokens, noisy_BHA, action_mask, state_mask)
        predicted_BHA = self.model.denoise(trajectory_BTD, ctrl_freqs, timesteps, conditions)
        target_BHA = noise_BHA if self.prediction_type == "epsilon" else action_gt
        error_BHA = (predicted_BHA.float() - target_BHA.float()).square()
        if slot_weights is not None:
            error_BHA = error_BHA * slot_weights.to(error_BHA)
        if step_mask is None:
            return error_BHA.mean()
        count = step_mask.sum() if valid_steps is None else draws * valid_steps
        return (error_BHA * step_mask[..., None]).sum() / (count * error_BHA.shape[-1])

    @torch.no_grad()
    def predict_action(self, *, lang_tokens, lang_attn_mask, img_tokens, state_tokens, action_mask, ctrl_freqs,
                       noise=None, state_mask=None, background_tokens=None) -> torch.Tensor:
        """Return a chunk of actions (B, H, A), zero in unused slots. Arguments as for `loss`."""
        shape = (len(state_tokens), self.config["pred_horizon"], self.config["action_dim"])
        chunk_BHA = torch.randn(shape, device=state_tokens.device) if noise is None else noise
        conditions = self.conditions(lang_tokens, lang_attn_mask, img_tokens, background_tokens)
        attended = self.model.keys_values(conditions)  # the conditions are the same in every solver step
        solver = diffusion.solver(self.config["noise_scheduler"])
        for timestep in solver.timesteps:
            trajectory_BTD = self.adapt_trajectory(state_tokens, chunk_BHA, action_mask, state_mask)
            time_B = timestep.to(chunk_BHA.device).expand(len(chunk_BHA))
            output_BHA = self.model.denoise(trajectory_BTD, ctrl_freqs, time_B, attended)
            chunk_BHA = solver.step(output_BHA.float(), timestep, chunk_BHA).prev_sample
        return chunk_BHA * action_mask

    def conditions(self, lang_tokens, lang_attn_mask, img_tokens, background_tokens=None) -> tuple[Condition, ...]:
        """Return the conditions of the blocks, in turn: language and images. Arguments as for `loss`."""
        background_PD = None if background_tokens is None else self.img_adaptor(background_tokens)
        return self.model.conditions(
            self.lang_adaptor(lang_tokens), self.img_adaptor(img_tokens), lang_attn_mask, background_PD)

    def adapt_trajectory(self, state_B1A, actions_BHA, action_mask_B1A, state_mask_B1A=None) -> torch.Tensor:
        """Return state and noisy actions, each beside its mask, in hidden width: (B, 1 + H, D)."""
        state_mask_B1A = action_mask_B1A if state_mask_B1A is None else state_mask_B1A
        values = torch.cat([state_B1A, actions_BHA], dim=1)
        masks = torch.cat([state_mask_B1A, action_mask_B1A.expand(-1, actions_BHA.shape[1], -1)], dim=1)
        return self.state_adaptor(torch.cat([values, masks.to(values.dtype)], dim=2))


class RDT(nn.Module):
    """The transformer. Even blocks attend to language, odd blocks to images."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        rdt, norm = config["rdt"], config["norm"]
        hidden, self.horizon = rdt["hidden_size"], config["pred_horizon"]
        self.gradient_checkpointing = False  # recompute each block in the backward pass: less memory, a third more time
        self.t_embedder = FrequencyEmbedder(hidden)
        self.freq_embedder = FrequencyEmbedder(hidden)
        self.x_pos_embed = nn.Parameter(torch.zeros(1, self.horizon + 3, hidden))
        self.lang_cond_pos_embed = nn.Parameter(torch.zeros(1, config["max_lang_cond_len"], hidden))
        self.img_cond_pos_embed = nn.Parameter(torch.zeros(1, config["img_cond_len"], hidden))
        self.blocks = nn.ModuleList([Block(hidden, rdt["num_heads"], norm) for _ in range(rdt["depth"])])
        self.final_layer = FinalLayer(hidden, config["action_dim"], norm)

    def forward(self, trajectory_BTD, ctrl_freqs_B, timesteps_B, lang_BLD, img_BID, lang_mask_BL=None) -> torch.Tensor:
        """Denoise trajectory_BTD: state and noisy actions, (B, 1 + H, D). Return (B, H, A)."""
        return self.denoise(trajectory_BTD, ctrl_freqs_B, timesteps_B, self.conditions(lang_BLD, img_BID, lang_mask_BL))

    def conditions(self, lang_BLD, img_BID, lang_mask_BL=None, background_PD=None) -> tuple[Condition, ...]:
        """Return both conditions with position embeddings. With a background img_BID is (B, V, C, P, D)."""
        dtype = lang_BLD.dtype  # of what a projection returns: autocast's, where that is on
        language = Condition(Tokens(lang_BLD + self.lang_cond_pos_embed[:, : lang_BLD.shape[1]], dtype),
                             bias_B11K=attention_bias(lang_mask_BL, dtype))
        if background_PD is None:
            return language, Condition(Tokens(img_BID + self.img_cond_pos_embed, dtype))
        frames, cameras, patches = img_BID.shape[1:4]
        places = self.img_cond_pos_embed[0].unflatten(0, (frames, -1, patches))
        return language, Condition(Tokens((img_BID + places[:, :cameras]).flatten(1, 3), dtype),
                                   Tokens((background_PD + places[:, cameras:]).flatten(0, 2)[None], dtype))

    def keys_values(self, conditions: Sequence[Condition]) -> list[KeysValues]:
        """Return the keys and values of every block, for many calls of `denoise` with the same conditions."""
        blocks: Iterable[Any] = self.blocks
        return [block.keys_values(condition) for block, condition in zip(blocks, itertools.cycle(conditions))]

    def denoise(self, trajectory_BTD, ctrl_freqs_B, timesteps_B,
                conditions: Iterable[Condition | KeysValues]) -> torch.Tensor:
        """Predict the denoised actions. The blocks take the conditions in turn. A trajectory batch of B x R has R draws
        of each of B samples, side by side, and the conditions are those of the B samples. Return (B x R, H, A)."""
        time_BD, freq_BD = self.t_embedder(timesteps_B), self.freq_embedder(ctrl_freqs_B)
        x_BTD = torch.cat([time_BD[:, None], freq_BD[:, None], trajectory_BTD], dim=1) + self.x_pos_embed
        for block, condition in zip(self.blocks, itertools.cycle(conditions)):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, condition, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, condition)
        return self.final_layer(x_BTD)[:, -self.horizon:]

    def initialise(self, config: dict[str, Any]) -> None:
        hidden = config["rdt"]["hidden_size"]
        for embedder in (self.t_embedder, self.freq_embedder):
            for name in ("mlp.0.weight", "mlp.2.weight"):
                nn.init.normal_(embedder.get_parameter(name), std=0.02)
        nn.init.zeros_(self.final_layer.ffn_final.fc2.weight)  # an untrained model predicts zero
        nn.init.zeros_(self.final_layer.ffn_final.fc2.bias)
        trajectory = [("timestep", 1), ("ctrl_freq", 1), ("state", 1), ("action", self.horizon)]
        self.x_pos_embed.copy_(position_embedding(hidden, trajectory, mark_parts=True)[None])
        lang = config.get("lang_pos_embed_config") or [("lang", config["max_lang_cond_len"])]
        img = config.get("img_pos_embed_config") or [("image", config["img_cond_len"])]
        self.lang_cond_pos_embed.copy_(position_embedding(hidden, lang)[None])
        self.img_cond_pos_embed.copy_(position_embedding(hidden, img)[None])


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int, norm: str) -> None:
        super().__init__()
        self.norm1 = Norm(hidden, norm)
        self.attn = SelfAttention(hidden, heads, norm)
        self.norm2 = Norm(hidden, norm)
        self.cross_attn = CrossAttention(hidden, heads, norm)
        self.norm3 = Norm(hidden, norm)
        self.ffn = FeedForward(hidden, hidden)

    def forward(self, x_BTD, condition: Condition | KeysValues) -> torch.Tensor:
        dtype = condition.dtype
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD, dtype))
        x_BTD = x_BTD + self.cross_attn(self.norm2(x_BTD, dtype), condition)
        return x_BTD + self.ffn(self.norm3(x_BTD, dtype))

    def keys_values(self, condition: Condition) -> KeysValues:
        return self.cross_attn.keys_values(condition)


class FinalLayer(nn.Module):
    def __init__(self, hidden: int, out: int, norm: str) -> None:
        super().__init__()
        self.norm_final = Norm(hidden, norm)
        self.ffn_final = FeedForward(hidden, out)

    def forward(self, x_BTD) -> torch.Tensor:
        return self.ffn_final(self.norm_final(x_BTD))


class SelfAttention(nn.Module):
    def __init__(self, hidden: int, heads: int, norm: str) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.q_norm = Norm(hidden // heads, norm)
        self.k_norm = Norm(hidden // heads, norm)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x_BTD) -> torch.Tensor:
        q_BNTE, k_BNTE, v_BNTE = (heads_of(part, self.heads) for part in self.qkv(x_BTD).chunk(3, dim=-1))
        mixed_BNTE = functional.scaled_dot_product_attention(self.q_norm(q_BNTE), self.k_norm(k_BNTE), v_BNTE)
        return self.proj(mixed_BNTE.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    def __init__(self, hidden: int, heads: int, norm: str) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(hidden, hidden)
        self.kv = nn.Linear(hidden, 2 * hidden)
        self.q_norm = Norm(hidden // heads, norm)
        self.k_norm = Norm(hidden // heads, norm)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x_BTD, condition: Condition | KeysValues) -> torch.Tensor:
        """Attend to the condition. x may hold several draws of each sample, side by side: these are additional
        queries."""
        keys_values = condition if isinstance(condition, KeysValues) else self.keys_values(condition)
        k_BNKE, v_BNKE, bias_B11K = keys_values
        queries_BTD = self.q(x_BTD).reshape(len(k_BNKE), -1, x_BTD.shape[-1])
        q_BNTE = self.q_norm(heads_of(queries_BTD, self.heads))
        mixed_BNTE = functional.scaled_dot_product_attention(q_BNTE, k_BNKE, v_BNKE, attn_mask=bias_B11K)
        return self.proj(mixed_BNTE.transpose(1, 2).reshape(x_BTD.shape))

    def keys_values(self, condition: Condition) -> KeysValues:
        own = self.kv(condition.own_BKD.read())
        if condition.shared_1SD is None:
            k_BNKE, v_BNKE = key_value_heads(own, self.heads)
            return KeysValues(self.k_norm(k_BNKE), v_BNKE, condition.bias_B11K)
        assert condition.bias_B11K is None
        shared = self.kv(condition.shared_1SD.read())
        return joined(own, shared, self.k_norm, self.heads)


class FeedForward(nn.Module):
    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class FrequencyEmbedder(nn.Module):
    """An embedding of a number (diffusion time, or control frequency in Hz): sines and cosines, then an MLP: (B, D)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, number_B) -> torch.Tensor:
        half = TIME_FEATURES // 2
        powers = torch.arange(half, dtype=torch.float32, device=number_B.device) / half
        angles = number_B.float()[:, None] * torch.exp(-math.log(10000) * powers)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


def adaptor(kind: str, width: int, hidden: int) -> nn.Module:
    """Build an adaptor: `linear`, or `mlp3x_gelu`: three linear layers with GELU between them."""
    if kind == "linear":
        return nn.Linear(width, hidden)
    match = re.fullmatch(r"mlp(\d{1,2})x_gelu", kind)
    if match is None:
        raise WeightsError(f"config.json: unknown adaptor {kind!r}; known: linear, mlp2x_gelu, mlp3x_gelu, ...")
    layers: list[nn.Module] = [nn.Linear(width, hidden)]
    for _ in range(int(match[1]) - 1):
        layers += [nn.GELU(approximate="tanh"), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)


def position_embedding(width: int, parts: Sequence[tuple[str, Any]], *, mark_parts: bool = False) -> torch.Tensor:
    """Return sines and cosines for the tokens of `parts`, (name, length) each, one below the other: (tokens, width).

    A length may be a grid; a negative length means so many tokens in the same position. With `mark_parts` the first
    half of the width encodes the part and the second half the position.
    """
    place_width = width // 2 if mark_parts else width
    rows = []
    for number, (_, length) in enumerate(parts):
        grid = list(length) if isinstance(length, (list, tuple)) else [length]
        places = _grid_embedding(place_width, grid)
        if mark_parts:
            mark = _sincos(width // 2, torch.tensor([number])).expand(len(places), -1)
            places = torch.cat([mark, places], dim=1)
        rows.append(places)
    return torch.cat(rows).float()


def _grid_embedding(width: int, grid: list[int]) -> torch.Tensor:
    """Return the embedding of a grid (cells, width): each axis longer than 1 takes an equal share of the width."""
    placed = [axis for axis, size in enumerate(grid) if size > 1]
    share = width // max(len(placed), 1) // 2 * 2
    cells = torch.zeros(*[abs(size) for size in grid], width, dtype=torch.float64)
    for order, axis in enumerate(placed or [0]):
        positions = torch.arange(grid[axis]) if grid[axis] > 1 else torch.zeros(1)
        values = _sincos(share, positions)
        along = [1] * len(grid)
        along[axis] = len(positions)
        cells[..., order * share:(order + 1) * share] = values.reshape(*along, share)
    return cells.flatten(0, -2)


def _sincos(width: int, positions: torch.Tensor) -> torch.Tensor:
    powers = torch.arange(width // 2, dtype=torch.float64) / (width / 2)
    angles = positions.double()[:, None] / 10000**powers
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _repeated(tensor, times: int):
    return tensor if tensor is None or times == 1 else tensor.repeat_interleave(times, dim=0)


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    missing = [key for key in CONFIG_KEYS if key not in config]
    if missing:
        raise WeightsError(f"config.json does not describe an RDT: it lacks {', '.join(missing)}")
    sizes = {key: config[key] for key in SIZES}
    if isinstance(config["rdt"], dict):
        sizes |= {f"rdt.{key}": config["rdt"].get(key) for key in ("hidden_size", "depth", "num_heads")}
    odd = [f"{key} = {str(size)[:40]}" for key, size in sizes.items() if isinstance(size, bool)
           or not isinstance(size, int) or not 1 <= size <= (DEEPEST if key == "rdt.depth" else LARGEST)]
    if odd:
        raise WeightsError(f"config.json does not describe an RDT: {', '.join(odd)}")
    _check_meaning(config)
    config = {"norm": NORMS[0], **copy.deepcopy(config)}
    if config["norm"] not in NORMS:
        raise WeightsError(f"config.json: norm = {config['norm']!r}, must be one of {', '.join(NORMS)}")
    return config


def _check_meaning(config: dict[str, Any]) -> None:
    """Refuse what this model would leave unread, or read as something else: of a fork, of another diffusion."""
    tables = {"": config, **{name: config[name] for name in ("rdt", "noise_scheduler")}}
    odd = [f"{name}{'.' if name else ''}{key}" for name, table in tables.items() if isinstance(table, dict)
           for key in sorted(table.keys() - KNOWN_KEYS[name] - set(NOTES)) if not key.startswith("_")]
    if odd:
        raise WeightsError(f"config.json has keys that this RDT does not know: {', '.join(odd[:8])}",
                           remedy="the weights of a fork need its code; if the keys mean nothing, delete them")
    noise = config["noise_scheduler"] if isinstance(config["noise_scheduler"], dict) else {}
    steps, solved = (noise.get(key, 1) for key in ("num_train_timesteps", "num_inference_timesteps"))
    if type(steps) is not int or type(solved) is not int or not 1 <= solved <= steps <= LARGEST:
        raise WeightsError(f"config.json: noise_scheduler.num_inference_timesteps = {str(solved)[:40]}, must be from 1 "
                           f"to num_train_timesteps = {str(steps)[:40]}")
    for key, known in (("type", ("ddpm",)), ("prediction_type", PREDICTIONS), ("beta_schedule", SCHEDULES),
                       ("clip_sample", (False, True))):
        if key in noise and noise[key] not in known:
            raise WeightsError(f"config.json: noise_scheduler.{key} = {str(noise[key])[:40]!r}, must be "
                               f"{' or '.join(map(str, known))}")
