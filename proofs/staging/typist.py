"""Typist: runs `inv` commands fast. It has imported everything they need, and forks a process for each batch. The
output of a batch goes through a pipe or a terminal that is read here.

A request is a JSON line on stdin, the answer one on stdout:
    {"lines": [["status --all", {path: text that is written before it}], ...], "folder", "env": {...},
     "is_terminal": bool, "limit_s": float, "trace": file}
    {"ends": [[code, out, err], ...], "seconds", "rss_mib", "is_late", "is_flood"}   text as latin-1; of a terminal all
                                                                                     is out
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import pty
import resource
import select
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

MARK = b"\n\x00 the next line \x00\n"
MOST_BYTES = 1 << 26  # of output; more is a flood
ADDRESSES_BYTES = 3 << 30  # of a batch, so that a bomb kills only itself
LAST_WORDS_S = 1.0


def main() -> None:
    _warm_up()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a stray print must not mix with the JSON lines
    questions = os.fdopen(os.dup(0), "r")
    for question in questions:
        request = json.loads(question)
        answer = _batch(request)
        if answer is None:
            return  # the batch itself: it ends as `inv` does, with its exit handlers
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _warm_up() -> None:
    """Import modules only: a thread or an open file would be shared by all batches."""
    for name in ("invoke.program", "rdtops.ui.cli", "rdtops.ui.screen", "rdtops.workflows.asking",
                 "rdtops.workflows.fetching", "rdtops.workflows.gpu_usage", "rdtops.workflows.starting",
                 "rdtops.workflows.watching"):
        importlib.import_module(name)
    with contextlib.suppress(ModuleNotFoundError):  # of the extra `plots`
        importlib.import_module("matplotlib.backends.backend_agg")
        importlib.import_module("matplotlib.figure")


def _batch(request: dict[str, Any]) -> dict[str, Any] | None:
    """Fork. Return None in the forked process."""
    if request["is_terminal"]:
        ours, theirs = pty.openpty()
        pipes, ends = {ours: bytearray()}, (theirs, theirs)
    else:
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        pipes, ends = {out: bytearray(), err: bytearray()}, (out_end, err_end)
    told, told_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(told)
        for descriptor in pipes:
            os.close(descriptor)
        _type(request, ends, told_end)
        return None
    for descriptor in {*ends, told_end}:
        os.close(descriptor)
    return _read_along(child, pipes, told, request["limit_s"])


def _type(request: dict[str, Any], ends: tuple[int, int], told: int) -> None:
    os.setsid()
    os.chdir(request["folder"])  # the folder may have been replaced
    os.environ.update(request["env"])
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for descriptor, number in ((nowhere, 0), (ends[0], 1), (ends[1], 2)):
        os.dup2(descriptor, number)
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, errors="backslashreplace" if number == 2 else None,
                                        encoding="utf-8") for number in (1, 2))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES_BYTES, ADDRESSES_BYTES))
    faulthandler.register(signal.SIGUSR1, Path(request["trace"]).open("w"))  # noqa: SIM115  # it stays open
    for line, files in request["lines"]:
        for path, text in files.items():
            Path(path).write_text(text)
        code = _end_of(line)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(told, b"%d\n" % code)
        for number in {1, 2} if not request["is_terminal"] else {1}:
            os.write(number, MARK)


def _end_of(line: str) -> int:
    """Run `inv LINE`. Return its exit code."""
    from invoke.program import Program

    program = Program(name="Invoke", binary="inv[oke]", binary_names=["invoke", "inv"])
    try:
        program.run(["inv", *shlex.split(line)])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def _read_along(child: int, pipes: dict[int, bytearray], told: int, limit_s: float) -> dict[str, Any]:
    begun_s = time.monotonic()
    is_late = is_flood = False
    usage = None
    open_ends = set(pipes)
    while open_ends and not is_late:
        for descriptor in select.select(list(open_ends), [], [], 0.05)[0]:
            piece = b""
            with contextlib.suppress(OSError):  # EIO: the last process closed the terminal
                piece = os.read(descriptor, 1 << 16)
            if not piece:
                open_ends.discard(descriptor)
            if len(pipes[descriptor]) < MOST_BYTES:
                pipes[descriptor] += piece
            else:
                is_flood = True
        if usage is None:
            pid, _, found = os.wait4(child, os.WNOHANG)
            usage = found if pid else None
            limit_s = min(limit_s, time.monotonic() - begun_s + LAST_WORDS_S) if pid else limit_s
        if time.monotonic() - begun_s > limit_s:
            is_late = usage is None
            break
    seconds = time.monotonic() - begun_s
    if usage is None:
        is_late, usage = _end(child, max(0.1, limit_s - seconds))
    for descriptor in pipes:
        os.close(descriptor)
    with os.fdopen(told) as codes:
        ended = [int(code) for code in codes]
    return {"ends": _ends(ended, list(pipes.values())), "seconds": round(seconds, 2),
            "rss_mib": usage.ru_maxrss >> 10, "is_late": is_late, "is_flood": is_flood}


def _end(child: int, patience_s: float) -> tuple[bool, resource.struct_rusage]:
    """Wait for a batch. Return whether it had to be killed, and its resource usage."""
    latest_s = time.monotonic() + patience_s
    while time.monotonic() < latest_s:
        pid, _, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return False, usage
        time.sleep(0.02)
    os.kill(child, signal.SIGUSR1)  # writes its stack to the file of traces
    time.sleep(0.2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return True, os.wait4(child, 0)[2]


def _ends(codes: list[int], said: list[bytearray]) -> list[list[Any]]:
    """Return for each line its exit code, None for an interrupted one, and its output."""
    out, err = (bytes(said[n]).replace(b"\r\n", b"\n").split(MARK) if n < len(said) else [] for n in (0, 1))
    found: list[list[Any]] = []
    for number in range(max(len(out), len(err), len(codes))):
        texts = [(texts[number] if number < len(texts) else b"").decode("latin-1") for texts in (out, err)]
        if number < len(codes) or any(texts):
            found.append([codes[number] if number < len(codes) else None, *texts])
    return found


if __name__ == "__main__":
    main()
