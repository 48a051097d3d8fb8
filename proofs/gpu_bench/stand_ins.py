"""Stand-ins: demonstrations and encoders of full size with random content, made on the spot, and runs that use them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from proofs.gpu_bench.card import Card
from proofs.trainer_bench.step_cost import SIGLIP
from rdtops.contract.config import override, preset
from rdtops.contract.run import RunSpec
from rdtops.hostlib.names import RunId
from rdtops.trainer import tiny
from rdtops.trainer.model.rdt import ARCHITECTURES

EPISODES, STEPS, PIXELS = 8, 120, 128
SETTINGS = ("from_scratch=true", "num_processes=1", "warmup_steps=0", "log_every_steps=1", "log_every_s=0",
            "sample_every_steps=0", "tracker=off")


def make(card: Card) -> dict[str, str]:
    """Make what is missing in the card's room. Return role -> folder, as in a RunSpec."""
    architecture = ARCHITECTURES[card.model]
    room = card.room / "assets"
    _demonstrations(room / "demonstrations")
    tiny.make(room)
    text, vision = room / "t5-tiny", room / "siglip-tiny"
    if architecture["lang_token_dim"] != ARCHITECTURES["tiny"]["lang_token_dim"]:
        text = _text_encoder(room / "t5-wide", text, architecture["lang_token_dim"])
    if architecture["img_token_dim"] == SIGLIP["hidden_size"]:
        vision = _vision_encoder(room / "siglip-so400m", card)
    return {"dataset": str(room / "demonstrations"), "text_encoder": str(text), "vision_encoder": str(vision)}


def run_of(card: Card, assets: dict[str, str], name: str, *settings: str) -> RunSpec:
    """Write the folder of a run of `libero_single_task` (rdt-1b's preset for one task), or of tiny's on a CPU."""
    base = preset("tiny" if card.model == "tiny" else "libero_single_task")
    given = [*SETTINGS, f"model={card.model}", f"device={card.device.type}", *settings]
    spec = RunSpec(RunId(name), "here", "2026-01-01T00:00:00Z", str(card.room), str(Path.cwd()), "gpu-bench", assets,
                   override(base, given))
    Path(spec.paths.checkpoints).mkdir(parents=True, exist_ok=True)
    Path(spec.paths.config).write_text(spec.to_json(), encoding="utf-8")
    return spec


def _demonstrations(folder: Path) -> None:
    """Write one file of LIBERO's form: smooth random motions, images of noise, stored as LIBERO stores them."""
    path = folder / "stand_in_demo.hdf5"
    if path.exists():
        return
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    with h5py.File(path.with_suffix(".tmp"), "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "close the top drawer of the cabinet"})
        data.attrs["num_demos"] = EPISODES
        for number in range(EPISODES):
            demo = data.create_group(f"demo_{number}")
            joints = np.cumsum(random.uniform(-0.02, 0.02, (STEPS + 1, 7)), axis=0)
            demo.attrs["num_samples"] = STEPS
            demo["actions"] = random.uniform(-1, 1, (STEPS, 7))
            demo["states"] = np.concatenate([np.arange(STEPS)[:, None], joints[:STEPS], np.zeros((STEPS, 4))], axis=1)
            demo["obs/joint_states"] = joints[1:]
            demo["obs/gripper_states"] = np.tile([0.02, -0.02], (STEPS, 1))
            demo["obs/ee_pos"] = np.cumsum(random.normal(scale=0.005, size=(STEPS, 3)), axis=0)
            demo["obs/ee_ori"] = random.normal(scale=0.2, size=(STEPS, 3))
            for camera in ("agentview_rgb", "eye_in_hand_rgb"):
                demo[f"obs/{camera}"] = random.integers(0, 255, (STEPS, PIXELS, PIXELS, 3), np.uint8)
    path.with_suffix(".tmp").rename(path)


def _text_encoder(folder: Path, small: Path, width: int) -> Path:
    """Write a T5 as wide as t5-v1_1-xxl with one thin layer: its output alone is kept, and computed once."""
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    if not folder.exists():
        shutil.copytree(small, folder)
        size = json.loads((small / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        torch.manual_seed(0)
        T5EncoderModel(T5Config(vocab_size=size, d_model=width, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
                                feed_forward_proj="gated-gelu", dropout_rate=0.0)).save_pretrained(folder)
    return folder


def _vision_encoder(folder: Path, card: Card) -> Path:
    """Write a SigLIP of so400m's shape, 0.86 GB."""
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipVisionModel

    if not folder.exists():
        torch.manual_seed(0)
        with torch.device(card.device):
            model: Any = SiglipVisionModel(SiglipVisionConfig(**SIGLIP)).to(torch.bfloat16)
        model.save_pretrained(folder)
    return folder
