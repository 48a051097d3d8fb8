"""Validate demonstrations in a child process: on damaged bytes libhdf5 may loop for ever or crash, and a training of
eight GPUs would hang or die without a message. Every image is read here once, so that a damaged one is found before
the first step.
"""

from __future__ import annotations

import argparse
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import rdtops
from rdtops.contract.config import data_options
from rdtops.errors import DataError
from rdtops.trainer import child_processes
from rdtops.trainer.data import libero
from rdtops.trainer.data.declaration import add_options, from_options
from rdtops.trainer.data.hdf5 import DEPLOY

SILENCE_S = 120.0  # limit without a sign of life, plus one second for each SLOWEST bytes of the file
TOLD_S = 1.0  # between two signs of life within an episode
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
                            "is damaged", remedy=_remedy(name))
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
            [sys.executable, "-m", "rdtops.trainer.data.isolation", str(folder), str(result), *data_options(declared)],
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
                            "damaged or the disk hangs", remedy=_remedy(name))
        piece = os.read(reader.stdout.fileno(), 1 << 16)
        if not piece:
            return name
        told += piece
        complete = told.split(b"\n")[:-1]
        name = os.fsdecode(complete[-1]) if complete else name


def _remedy(name: str) -> str:
    return DEPLOY + (f"; or leave it out: --set without={name}" if name else "")


def _announce(name: str) -> None:
    sys.stdout.buffer.write(os.fsencode(name) + b"\n")
    sys.stdout.flush()


def _read_everything(folder: str, declared: libero.Declared = libero.FOUND_OUT) -> libero.Dataset | DataError:
    try:
        dataset = libero.index(folder, _announce, declared)
    except DataError as error:
        return error
    problems = _damaged_images(dataset)
    is_rest = len(problems) < len(dataset.episodes)
    return libero.refusal(problems, declared, is_rest=is_rest) if problems else dataset


def _damaged_images(dataset: libero.Dataset) -> list[libero.Defect]:
    """Read every image. Each that is read is a sign of life, as a slow disk or a slow chunk may take long."""
    frames, problems, told_s = libero.Frames(dataset), [], 0.0
    for episode in dataset.episodes:
        _announce(episode.file)
        try:
            for step in range(len(episode.actions_T7)):
                frames.read(episode, step)
                if time.monotonic() > told_s + TOLD_S:
                    told_s = time.monotonic()
                    _announce(episode.file)
        except DataError as error:
            problems.append(libero.Defect(f"{episode.file}:{episode.name}", error))
    return problems


def main() -> None:
    child_processes.end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.data.isolation")
    parser.add_argument("folder")
    parser.add_argument("result", type=int, help="descriptor of the file for the pickled dataset, or error")
    add_options(parser)
    options = parser.parse_args()
    with open(options.result, "wb") as file:  # noqa: PTH123  # a descriptor
        pickle.dump(_read_everything(options.folder, from_options(options)), file)
    os._exit(0)  # libhdf5 has a tear-down of its own


if __name__ == "__main__":
    main()
