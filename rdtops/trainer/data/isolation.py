"""Validate demonstrations in a child process: on damaged bytes libhdf5 may loop for ever or crash, and a training of
eight GPUs would hang or die without a message. Every image is read here once, so that a damaged one is found before
the first step.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import rdtops
from rdtops.errors import DataError
from rdtops.trainer.data import libero

SILENCE_S = 120.0  # limit for one file, plus one second for each SLOWEST bytes of it
SLOWEST = 5_000_000


def index(folder: str | Path, silence_s: float = SILENCE_S,
          declared: libero.Declared = libero.FOUND_OUT) -> libero.Dataset:
    """Index a dataset as libero.index does, and read every image. Raise DataError naming file, episode, step and field,
    also when reading a file hangs or crashes."""
    with tempfile.TemporaryDirectory(prefix="rdtops-") as place:
        result = Path(place) / "result"
        with subprocess.Popen(
                [sys.executable, "-m", "rdtops.trainer.data.isolation", str(folder), str(result),
                 declared.observed, declared.images],
                env={**os.environ, "PYTHONPATH": str(Path(rdtops.__file__).parents[1])}, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE) as reader:
            name = _follow(reader, Path(folder), silence_s)
            code = reader.wait()
        if code:
            died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise DataError(f"{name or folder} cannot be read: the process that read it ended with {died}, so the file "
                            "is damaged", remedy="inv deploy --only data")
        found = pickle.loads(result.read_bytes())  # noqa: S301  # written by our own child process
    if isinstance(found, DataError):
        raise found
    return found


def _follow(reader: subprocess.Popen[bytes], folder: Path, silence_s: float) -> str:
    """Return the name of the file that was read last. Kill a reader that has been silent for too long."""
    assert reader.stdout
    told, name = b"", ""
    while True:
        path = folder / name
        limit_s = silence_s + (path.stat().st_size / SLOWEST if name else 0)
        if not select.select([reader.stdout], [], [], limit_s)[0]:
            reader.kill()
            raise DataError(f"{name or folder} cannot be read: reading takes more than {limit_s:.0f} s, so the file is "
                            "damaged or the disk hangs", remedy="inv deploy --only data")
        piece = os.read(reader.stdout.fileno(), 1 << 16)
        if not piece:
            return name
        told += piece
        complete = told.split(b"\n")[:-1]
        name = os.fsdecode(complete[-1]) if complete else name


def _announce(name: str) -> None:
    sys.stdout.buffer.write(os.fsencode(name) + b"\n")
    sys.stdout.flush()


def _read_everything(folder: str, declared: libero.Declared = libero.FOUND_OUT) -> libero.Dataset | DataError:
    try:
        dataset = libero.index(folder, _announce, declared)
        frames, file = libero.Frames(dataset), ""
        for episode in dataset.episodes:
            if episode.file != file:
                file = episode.file
                _announce(file)
            for step in range(len(episode.actions_T7)):
                frames.read(episode, step)
    except DataError as error:
        return error
    return dataset


def main() -> int:
    folder, result, observed, images = sys.argv[1:]
    Path(result).write_bytes(pickle.dumps(_read_everything(folder, libero.Declared(observed, images))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
