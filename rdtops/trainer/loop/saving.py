"""Saving in the background: a training waits only for a copy of its state; a thread writes, seals, reports, prunes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rdtops.contract.run import Retention, checkpoint_name
from rdtops.errors import RdtopsError, RunError
from rdtops.trainer.loop import checkpoint, disk_space
from rdtops.trainer.loop.checkpoint import Contents
from rdtops.trainer.loop.progress import Telling

log = logging.getLogger(__name__)
Tensors = Mapping[str, Mapping[str, torch.Tensor]]


class Saver:
    """A saver of checkpoints, one at a time: a save waits for the one before. Leaving the `with` waits for the last."""

    def __init__(self, checkpoints: Path, retention: Retention, journal: Telling) -> None:
        self.checkpoints, self.retention, self.journal = checkpoints, retention, journal
        self._copy = HostCopy()
        self._thread = ThreadPoolExecutor(1, "saver")
        self._writing: Future[None] | None = None
        self.failure: RdtopsError | None = None  # of the newest save; None when it succeeded

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
        self.wait()

    def reserve(self, tensors: Tensors) -> None:
        """Allocate the memory that a save needs, so that a lack of it shows in the first step and not in the first
        save, which also becomes faster. Raise RunError when there is too little."""
        self._copy.take(tensors)

    def save(self, step: int, contents: Contents) -> None:
        """Start a save. Return as soon as `contents` may change again. The Journal gets the result of the save."""
        self.wait()
        ours = self._copy.take(contents.tensors)
        self._writing = self._thread.submit(
            self._write, step, replace(contents, tensors=ours), self._copy.wait_until_taken())

    def wait(self) -> None:
        """Wait until the current save, if there is one, has ended."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()  # raises unexpected errors; an OSError has been reported

    def _write(self, step: int, contents: Contents, until_taken: Callable[[], Any]) -> None:
        """Write a checkpoint. On a full disk this save is dropped and reported, and training continues: the next may
        fit."""
        until_taken()
        try:
            saved = checkpoint.save(self.checkpoints, step, contents.write)
        except OSError as error:
            self.failure = failure = self._unsaved(step, contents, error)
            self.journal.append("checkpoint_failed", step=step, error=failure.message, remedy=failure.remedy)
            log.warning("step %d  checkpoint failed, training goes on: %s", step, failure.message)
            return
        self.failure = None
        self.journal.append("checkpoint", step=step, name=saved.name, size_bytes=saved.size_bytes, digest=saved.digest,
                            heldout_loss=saved.heldout_loss)
        log.info("step %d  saved %s, %.1f MB", step, saved.name, saved.size_bytes / 1e6)
        for old in checkpoint.prune(self.checkpoints, self.retention):
            self.journal.append("checkpoint_deleted", step=old.step, name=old.name)
            log.info("step %d  deleted %s", step, old.name)


    def _unsaved(self, step: int, contents: Contents, error: OSError) -> RdtopsError:
        place = self.checkpoints / checkpoint_name(step)
        if disk_space.is_full(error):
            return disk_space.full(error, place, contents.size_bytes)
        return RunError(f"{place} cannot be written: {error}", remedy=f"ls -ld {self.checkpoints}   # on the host")


class HostCopy:
    """Host memory for one copy of a state, allocated once and used for every save. For a state on a GPU it is pinned:
    the copies are queued on the GPU's stream, before the next update, and only the writer waits for them."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, str], torch.Tensor] = {}
        self._on_gpu = False

    def take(self, tensors: Tensors) -> dict[str, dict[str, torch.Tensor]]:
        """Return a copy that is valid until the next. Raise RunError when there is too little memory."""
        return {file: {name: self._taken((file, name), tensor.detach()) for name, tensor in named.items()}
                for file, named in tensors.items()}

    def wait_until_taken(self) -> Callable[[], Any]:
        """Return a function that the reader of the last copy must call before it reads."""
        if not self._on_gpu:
            return lambda: None
        event = torch.cuda.Event()
        event.record()
        return event.synchronize

    def _taken(self, key: tuple[str, str], tensor: torch.Tensor) -> torch.Tensor:
        memory = self._memory.get(key)
        if memory is None or memory.shape != tensor.shape or memory.dtype != tensor.dtype:
            memory = self._memory[key] = _allocated(tensor)
        self._on_gpu |= tensor.is_cuda
        return memory.copy_(tensor, non_blocking=True)


def _allocated(tensor: torch.Tensor) -> torch.Tensor:
    try:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    except RuntimeError as error:  # torch has no specific error for host memory
        raise RunError(f"no host memory for a copy of the training's state, which saving needs: {error}",
                       remedy="free -g   # on the host; the copy takes 16 bytes a parameter") from error
