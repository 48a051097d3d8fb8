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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import rdtops
from rdtops.errors import DataError
from rdtops.trainer import child_processes
from rdtops.trainer.data import libero

SILENCE_S = 120.0  # limit for one file, plus one second for each SLOWEST bytes of it
SLOWEST = 5_000_000
KILLED_S = 5.0  # until a killed reader is gone; one that waits for a disk is left behind


def index(folder: str | Path, silence_s: float = SILENCE_S,
          declared: libero.Declared = libero.FOUND_OUT) -> libero.Dataset:
    """Index a dataset as libero.index does, and read every image. Raise DataError naming file, episode, step and field,
    also when reading a file hangs or crashes."""
    with tempfile.TemporaryFile() as result, _reading(Path(folder), declared, result.fileno()) as reader:
        name = _follow(reader, Path(folder), silence_s)
        code = reader.wait()
        if code:
            died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise DataError(f"{name or folder} cannot be read: the process that read it ended with {died}, so the file "
                            "is damaged", remedy="inv deploy --only data")
        result.seek(0)
        found = pickle.load(result)  # noqa: S301  # written by our own child process
    if isinstance(found, DataError):
        raise found
    return found


@contextmanager
def _reading(folder: Path, declared: libero.Declared, result: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process that reads a folder and writes the index to the file `result`. Nothing is left of it: neither
    a process nor, since that file has no name, what it has written."""
    with child_processes.shielded():
        reader = subprocess.Popen(
            [sys.executable, "-m", "rdtops.trainer.data.isolation", str(folder), str(result), declared.observed,
             declared.images],
            env={**os.environ, "PYTHONPATH": str(Path(rdtops.__file__).parents[1])}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, pass_fds=(result,))
    try:
        yield reader
    finally:
        reader.kill()
        assert reader.stdout
        reader.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            reader.wait(KILLED_S)


def _follow(reader: subprocess.Popen[bytes], folder: Path, silence_s: float) -> str:
    """Return the name of the file that was read last. Kill a reader that has been silent for too long."""
    assert reader.stdout
    told, name = b"", ""
    while True:
        path = folder / name
        limit_s = silence_s + (path.stat().st_size / SLOWEST if name else 0)
        if not select.select([reader.stdout], [], [], limit_s)[0]:
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


def main() -> None:
    child_processes.end_with_parent()
    folder, result, observed, images = sys.argv[1:]
    with open(int(result), "wb") as file:  # noqa: PTH123  # a descriptor
        pickle.dump(_read_everything(folder, libero.Declared(observed, images)), file)
    os._exit(0)  # libhdf5 has a tear-down of its own


if __name__ == "__main__":
    main()
