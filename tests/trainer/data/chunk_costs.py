"""Chunk costs: CPU time of reading a sample by how images are stored. `python -m tests.trainer.data.chunk_costs`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from rdtops.trainer.data import frames, libero
from tests.trainer.conftest import RECORDING, Demonstrations

EPISODES, STEPS, SAMPLES = 20, 150, 200
STORED = {"contiguous": {}, "gzip, a chunk an image": {"chunks": (1, 128, 128, 3), "compression": "gzip"},
          "gzip, a chunk an episode": {"chunks": (STEPS, 128, 128, 3), "compression": "gzip"}}
SMALL_BYTES = 16 << 20  # two chunks of an episode: as of a dataset much larger than what is kept


def stored(options: dict[str, object]) -> Callable[[h5py.Group], None]:
    """Return a change that stores the lab's images again in each episode."""
    with h5py.File(next(RECORDING.glob("*.hdf5"))) as file:
        images = {camera: file[f"data/demo_0/obs/{camera}"][()] for camera in libero.CAMERAS}

    def change(data: h5py.Group) -> None:
        for demo in data.values():
            for camera, values in images.items():
                del demo[f"obs/{camera}"]
                demo.create_dataset(f"obs/{camera}", data=np.resize(values, (STEPS, *values.shape[1:])), **options)
    return change


def sample_ms(dataset: libero.Dataset) -> float:
    """Return the CPU time of a sample drawn at random: this frame and the one before."""
    reader = libero.Frames(dataset)
    chosen = np.random.default_rng(0).integers(0, len(dataset), SAMPLES)
    begun_s = time.process_time()
    for number in chosen:
        episode, step = dataset.locate(int(number))
        reader.read(episode, max(step - 1, 0))
        reader.read(episode, step)
    reader.close()
    return (time.process_time() - begun_s) / SAMPLES * 1e3


def main() -> None:
    for name, options in STORED.items():
        with tempfile.TemporaryDirectory() as folder:
            Demonstrations(Path(folder)).write(episodes=EPISODES, steps=STEPS, change=stored(options))
            dataset = libero.index(folder)
            for kept_bytes in (frames.KEPT_BYTES, SMALL_BYTES):
                frames.KEPT_BYTES = kept_bytes
                sys.stdout.write(f"{name}, {kept_bytes >> 20} MiB kept: {sample_ms(dataset):.2f} ms\n")
            frames.KEPT_BYTES = 256 << 20


if __name__ == "__main__":
    main()
