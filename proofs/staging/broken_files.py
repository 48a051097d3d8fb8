"""Broken files: each file that rdtops keeps or reads, damaged in every way, and the commands that read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proofs.hostile.attacks import (
    CHECKPOINTS,
    DEPLOY,
    EVAL,
    FETCH,
    LOGS,
    STATUS,
    STOP,
    TRAIN,
    VERIFY,
    WATCH,
    WHY,
    Field,
)
from proofs.staging.corruptions import WAYS, corrupt
from proofs.staging.observed_home import TypedCommand
from proofs.staging.recorded_run import OLD, RUN


def _of_old(*lines: str) -> tuple[str, ...]:
    return (STATUS, *(f"{line} --run {OLD}" for line in lines))


RUN_FILES = {
    "config.json": _of_old(WHY, CHECKPOINTS, WATCH, FETCH, EVAL, STOP), "journal.jsonl": _of_old(WHY, WATCH, FETCH),
    **dict.fromkeys(("exit", "process", "supervisor", "stop", "refused"), _of_old(WHY, STOP)),
    **dict.fromkeys(("checks.json", "launch.sh", "overrides.json", "metrics.jsonl", "statistics.json", "assets.json"),
                    _of_old(FETCH)),
    "train.log": _of_old(LOGS, WHY, FETCH),
    **dict.fromkeys(("checkpoints/step_000002/manifest.json", "checkpoints/step_000002/trainer.json"),
                    _of_old(CHECKPOINTS, VERIFY, FETCH, EVAL)),
    **dict.fromkeys(("eval/*/eval.json", "eval/*/report.json", "eval/*/trials.jsonl", "eval/*/eval.log", "eval/*/exit",
                     "eval/*/process"), _of_old("logs --eval", FETCH))}
OF_FETCHED = (f"{FETCH} --run {OLD}", f"report --run results/lab/{OLD}")
FETCHED_FILES = ("run.json", "report.html", "README.md", "loss.svg", "journal.jsonl", "config.json", "checks.json",
                 "metrics.jsonl", "statistics.json", "exit", "train.log", "checkpoints/step_000002/manifest.json",
                 "eval/*/report.json", "eval/*/eval.json", "eval/*/trials.jsonl", "eval/*/index.html")


@dataclass(frozen=True)
class Case:
    """One file in one state, and the commands that read it."""

    file: str
    way: str
    lines: tuple[str, ...]
    path: Callable[[Field], Path]
    is_fetched: bool = False  # the run was fetched before

    @property
    def name(self) -> str:
        return f"{self.file}: {self.way}"

    @contextmanager
    def broken(self, field: Field) -> Iterator[None]:
        """Restore a file of the laptop afterwards; the host is recorded again anyway."""
        path = self.path(field)
        content = path.read_bytes() if path.is_file() else b""
        corrupt(path, self.way)
        try:
            yield
        finally:
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            if content and not path.is_relative_to(field.home.results):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def wrong(self, typed: TypedCommand) -> list[str]:
        """Check that the other run is not affected."""
        first = next((end for end in typed.ends if end.line.startswith(STATUS)), None)
        if first is None or typed.is_late:
            return []
        found = [f"`inv {first.line}` ends with exit {first.code}"] if first.code not in (0, 1) else []
        found += [f"`inv {end.line}`: our program there broke: {end.words[-200:]}" for end in typed.ends
                  if "program ended with exit" in end.words]
        return found if RUN in first.words.replace(" ", "") else [*found, "status does not show the other run"]


def cases() -> Iterator[Case]:
    for file, lines in RUN_FILES.items():
        yield from _cases(f"host: {file}", lines, _in(lambda field: field.run(OLD), file))
    for file in FETCHED_FILES:
        yield from _cases(f"laptop: results/{file}", OF_FETCHED, _in(lambda field: field.home.results / "lab" / OLD,
                                                                     file), is_fetched=True)
    for file in ("cursor", "start", "hooks.jsonl", "lock"):
        yield from _cases(f"laptop: state/{file}", (STATUS, *(f"{line} --run {OLD}" for line in (CHECKPOINTS, FETCH))),
                          _in(lambda field: field.home.state / "runs" / "lab" / OLD, file), is_fetched=True)
    others: tuple[tuple[str, tuple[str, ...], Callable[[Field], Path]], ...] = (
        ("laptop: state/last_host", (STATUS, FETCH), lambda field: field.home.state / "last_host"),
        ("laptop: digests.jsonl", (DEPLOY, FETCH), lambda field: field.home.cache / "digests.jsonl"),
        ("laptop: secrets", (STATUS, TRAIN), lambda field: field.home.home / ".config/rdtops/secrets"),
        ("host: digests.jsonl", (DEPLOY, VERIFY, FETCH), lambda field: _home(field) / ".cache/rdtops/digests.jsonl"),
        ("host: .deployed", (DEPLOY, "rollback"), lambda field: field.workspace / ".deployed"),
        ("host: .rolled-back", (TRAIN, "rollback", DEPLOY), lambda field: field.workspace / ".rolled-back"),
        ("host: snapshot.json", (STATUS, "rollback", DEPLOY, TRAIN), _snapshot),
    )
    for file, lines, path in others:
        yield from _cases(file, lines, path)


def _cases(file: str, lines: tuple[str, ...], path: Callable[[Field], Path], *,
           is_fetched: bool = False) -> Iterator[Case]:
    yield from (Case(file, way, lines, path, is_fetched) for way in WAYS)


def _in(folder: Callable[[Field], Path], pattern: str) -> Callable[[Field], Path]:
    return lambda field: next(iter(sorted(folder(field).glob(pattern))), folder(field) / pattern)


def _home(field: Field) -> Path:
    return field.workspace.parent


def _snapshot(field: Field) -> Path:
    return next(iter(sorted((field.workspace / "releases").glob("*/snapshot.json"))))
