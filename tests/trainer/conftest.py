"""Real assets for the trainer's tests: tiny models, the lab's recording, and runs prepared as a deploy would."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from rdtops.contract.config import override, preset
from rdtops.contract.journal import Event, Journal
from rdtops.contract.run import RunSpec
from rdtops.trainer import child_processes
from rdtops.trainer.distributed.ranks import Ranks
from rdtops.trainer.distributed.sharding import Shards
from rdtops.trainer.simulation import simulator
from tests.trainer import worlds

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
PARITY = HERE / "fixtures" / "rdt_parity"
SHAPES = HERE / "fixtures" / "rdt_shapes"
RECORDING = REPOSITORY / "rdtops" / "lab" / "data"
torch.set_num_threads(1)  # as accelerate sets it; tiny matrices are slower with more, above all on a busy machine
ALONE = Shards(Ranks(0, 1, torch.device("cpu")))  # one process, which has everything
# the numbers these tests were written with: the preset may grow without them
SIXTY = ("max_steps=60", "checkpoint_every_steps=20", "sample_every_steps=20", "learning_rate=1e-3")
# 12 steps instead of 60, and a checkpoint every 4
SHORT = ("max_steps=12", "checkpoint_every_steps=4", "sample_every_steps=0", "num_processes=1")


@pytest.fixture(scope="session")
def assets(tmp_path_factory) -> dict[str, str]:
    """Role -> folder, as in a RunSpec."""
    from rdtops.trainer import tiny

    out = tmp_path_factory.mktemp("assets")
    tiny.make(out)
    shutil.copytree(RECORDING, out / "libero_tiny")
    return {"dataset": str(out / "libero_tiny"), "pretrained": str(out / "rdt-tiny"),
            "text_encoder": str(out / "t5-tiny"), "vision_encoder": str(out / "siglip-tiny")}


@pytest.fixture
def prepare(assets, tmp_path) -> Callable[..., RunSpec]:
    """`prepare("name", "max_steps=3", dataset=...)`: a run folder with its config.json, of the tiny preset."""

    def make(run_id: str, *settings: str, **other_assets: str) -> RunSpec:
        return write_run(tmp_path / "workspace", run_id, {**assets, **other_assets}, *settings)

    return make


@pytest.fixture
def train_here() -> Any:
    """Train in this process, as `python -m rdtops.trainer.train` would. Returns the exit code."""
    from rdtops.trainer import train

    with signals_as_they_were():
        yield lambda spec: train.main([str(spec.paths.config)])


@contextmanager
def signals_as_they_were():
    before = {number: signal.getsignal(number) for number in child_processes.STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def write_run(workspace: Path, run_id: str, assets: dict[str, str], *settings: str) -> RunSpec:
    spec = RunSpec(run_id, "here", "2026-01-01T00:00:00Z", str(workspace), str(REPOSITORY), "test", assets,
                   override(preset("tiny"), [*SIXTY, *settings]))
    Path(spec.paths.checkpoints).mkdir(parents=True)
    Path(spec.paths.config).write_text(spec.to_json())
    return spec


def start(spec: RunSpec, **options: Any) -> subprocess.Popen[str]:
    """A training in a process of its own, one thread, as accelerate starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "rdtops.trainer.train", str(spec.paths.config)], cwd=REPOSITORY, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RDTOPS_RUN": spec.run_id}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options)


def events(spec: RunSpec, kind: str | None = None) -> list[Event]:
    return [e for e in Journal(Path(spec.paths.journal)).read() if kind in (None, e.kind)]


def losses(spec: RunSpec) -> list[float]:
    return [e.data["loss"] for e in events(spec, "step")]


def flip(path: Path) -> None:
    """Change one bit in the middle of a file, and nothing else."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@contextmanager
def files_no_larger_than(size_bytes: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Demonstrations:
    """Writes small LIBERO files whose observations follow the action; `change` edits one before it is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str = "task_demo.hdf5", *, episodes: int = 2, steps: int = 6, observed: str = "after",
              instruction: Any = "close the drawer", change: Callable[[h5py.Group], None] | None = None) -> Path:
        path = self.folder / name
        with h5py.File(path, "w") as file:
            data = file.create_group("data")
            data.attrs["problem_info"] = json.dumps({"language_instruction": instruction})
            data.attrs["num_demos"] = episodes
            for number in range(episodes):
                self._episode(data.create_group(f"demo_{number}"), number, steps, observed)
            if change:
                change(data)
        return path

    def with_damaged_image(self) -> Path:
        """The outside camera's image of demo_1, step 4, is no gzip stream any more."""
        path = self.write()
        with h5py.File(path) as file:
            place = file["data/demo_1/obs/agentview_rgb"].id.get_chunk_info(4)
        with path.open("r+b") as raw:
            raw.seek(place.byte_offset)
            raw.write(b"\xff" * place.size)
        return path

    def _episode(self, demo: h5py.Group, number: int, steps: int, observed: str) -> None:
        random = np.random.default_rng(number)
        joints = np.cumsum(random.uniform(-0.1, 0.1, (steps + 1, 7)), axis=0)
        demo.attrs["num_samples"] = steps
        demo["actions"] = random.uniform(-1, 1, (steps, 7))
        demo["states"] = np.concatenate([np.arange(steps)[:, None], joints[:steps], np.zeros((steps, 4))], axis=1)
        demo["obs/joint_states"] = joints[1:] if observed == "after" else joints[:steps]
        demo["obs/gripper_states"] = np.tile([0.02, -0.02], (steps, 1))
        demo["obs/ee_pos"] = random.normal(size=(steps, 3))
        demo["obs/ee_ori"] = random.normal(size=(steps, 3))
        for camera in ("agentview_rgb", "eye_in_hand_rgb"):
            images = np.zeros((steps, 128, 128, 3), np.uint8)
            images[:, 0] = np.arange(steps)[:, None, None]  # the stored top row, which is the bottom of the scene
            demo.create_dataset(f"obs/{camera}", data=images, chunks=(1, 128, 128, 3), compression="gzip")


@pytest.fixture
def demonstrations(tmp_path) -> Demonstrations:
    return Demonstrations(tmp_path / "demonstrations")



@pytest.fixture(scope="module")
def world():
    """The drawer task in the simulator, with images."""
    simulator.load(images=True)
    made = simulator.Simulator(simulator.tasks("libero_90", worlds.DRAWER)[0])
    yield made
    made.close()
