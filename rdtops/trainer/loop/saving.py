"""Saving while training goes on: it waits for a copy of the state only; a thread writes, seals, tells and prunes."""

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
    """One save at a time: the next one waits for the one before. Leaving the `with` waits for the last."""

    def __init__(self, checkpoints: Path, retention: Retention, journal: Telling) -> None:
        self.checkpoints, self.retention, self.journal = checkpoints, retention, journal
        self._copy = HostCopy()
        self._thread = ThreadPoolExecutor(1, "saver")
        self._writing: Future[None] | None = None
        self.failure: RdtopsError | None = None  # of the newest save, None when it came right

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
        self.wait()

    def reserve(self, tensors: Tensors) -> None:
        """Take the memory that a save will need, so that want of it shows in the first step and not in the first
        save, which will also be quicker. Raises RunError when there is too little."""
        self._copy.take(tensors)

    def save(self, step: int, contents: Contents) -> None:
        """Return as soon as `contents` may change again. What becomes of the save is told in the Journal."""
        self.wait()
        ours = self._copy.take(contents.tensors)
        self._writing = self._thread.submit(
            self._write, step, replace(contents, tensors=ours), self._copy.wait_until_taken())

    def wait(self) -> None:
        """Until the save in flight, if there is one, has ended one way or the other."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()  # raises what we did not foresee; an OSError has been told

    def _write(self, step: int, contents: Contents, until_taken: Callable[[], Any]) -> None:
        """On a full disk this save is dropped and told, and training goes on: the next one may fit."""
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
    """Host memory for one copy of a state, taken once and used for every save. For a state on a GPU it is pinned: the
    copies are put in the GPU's own queue, before the next update, and nobody waits for them but the writer."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, str], torch.Tensor] = {}
        self._on_gpu = False

    def take(self, tensors: Tensors) -> dict[str, dict[str, torch.Tensor]]:
        """Return a copy that is valid until the next. Raises RunError when there is too little."""
        return {file: {name: self._taken((file, name), tensor.detach()) for name, tensor in named.items()}
                for file, named in tensors.items()}

    def wait_until_taken(self) -> Callable[[], Any]:
        """What the reader of the last copy must call before it reads."""
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
    except RuntimeError as error:  # torch has no error of its own for the host's memory
        raise RunError(f"no host memory for a copy of the training's state, which saving needs: {error}",
                       remedy="free -g   # on the host; the copy takes 16 bytes a parameter") from error
