"""Host program: report the runs of a workspace and their state. Standard library, Python 3.8.

Requests (one JSON line each, until the input ends), answers (one JSON line each):
    {"op": "list", "workspace": str, "gpus": bool} -> {"runs": [facts of each run, oldest first], ... as gpus}
    {"op": "gpus"}                                -> {"gpus": [rows], "gpu_warning": str}
    {"op": "news", "workspace", "run_id", "files": {path: question}, "gpus": bool}
        -> {"run": facts, "files": {path: piece}, ... as gpus, with gpus "machine": its utilization}
    {"op": "checkpoints", "workspace", "run_id"}  -> {"checkpoints": [...], "unfinished": [names]}
    {"op": "evaluations", "workspace", "run_ids"} -> {"evaluations": [facts of each evaluation, oldest first]}
It reports facts only; rdtops.contract.run.state_of on the laptop interprets them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sys
from typing import Any, Callable

from rdtops.hostlib import liveness, nvidia_smi, processes, utilization
from rdtops.hostlib.checkpoints import listed, ls
from rdtops.hostlib.fields import loads, table, whole
from rdtops.hostlib.files import TEXT_BYTES, head_of, lines_of, tail_of, text_of
from rdtops.hostlib.locks import SHARED, is_held
from rdtops.hostlib.names import evaluation_name, fits, is_run_id
from rdtops.on_host.tails import MARK, Lines, last_of_each_kind, read_on, rows_of, shrunk, thinned

LOG_LETTERS = 4000  # of the end of a log
CONFIG_BYTES = 1 << 16  # of config.json and eval.json: twenty times their usual size; a longer one is refused
REPORT_BYTES = 1 << 23  # of report.json: 30,000 trials
TRIAL_LINES = 1 << 17  # of trials.jsonl: all 130 tasks of LIBERO, 50 times each, 20 times over
EVENT_BYTES = 1 << 16  # of an event that is sent; of a longer line only its beginning
GPU_FIELDS = (*nvidia_smi.IDENTITY, "name", *nvidia_smi.READINGS.values())
EVALUATION = (b'{"kind": "eval_', b'{"kind": "trial"')  # lines of a Journal that are not the training's


def facts(root: str, run_id: str, is_carried: Callable[[str], bool] = liveness.is_carried) -> dict[str, object]:
    folder = os.path.join(root, run_id)
    journal = os.path.join(folder, "journal.jsonl")
    life = liveness.read(folder, f"{liveness.RUN}={run_id}", is_carried)
    is_well = life.alive or life.exit_code == 0
    return {"run_id": run_id, "config": text_of(os.path.join(folder, "config.json"), CONFIG_BYTES),
            "problem": problem_of(os.path.join(folder, "config.json")) or (
                f"{folder}/exit has no exit code" if life.exit_text and life.exit_code is None and not life.alive
                else ""),
            "exit_code": life.exit_code, "alive": life.alive, "launched": life.launched,
            "stop_requested": life.stop_requested,
            "journal_head": text_of(journal, 512),
            "journal_tail": "".join(line + "\n" for line in last_of_each_kind(journal, EVALUATION)),
            "log_tail": "" if is_well else end_of(os.path.join(folder, "train.log")),
            "journal_size": size_of(journal)}


def problem_of(config: str) -> str:
    """Return why config.json cannot be read; '' where it can, or where there is none."""
    try:
        return f"{config} is too long" if len(head_of(config, CONFIG_BYTES + 1)) > CONFIG_BYTES else ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error)


def end_of(log: str) -> str:
    return tail_of(log, 4 * LOG_LETTERS)[-LOG_LETTERS:]


def size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def list_runs(workspace: str, gpus: bool = False) -> dict[str, object]:
    """List the runs; with `gpus` also the output of nvidia-smi, when a run is alive."""
    root = os.path.join(workspace, "runs")
    is_carried = liveness.carried_in_one_look()
    found = [facts(root, name, is_carried) for name in run_names(root)]
    listing = nvidia_smi.gpus(GPU_FIELDS) if gpus and any(run["alive"] for run in found) else nvidia_smi.Listing()
    for run in found:
        run["gpus"] = gpus_of(run, listing)
    return {"runs": found, **told(listing)}


def run_names(root: str) -> list[str]:
    """Return the names of the runs, oldest first. Skip other files."""
    names = sorted(os.listdir(root)) if os.path.isdir(root) else []
    return [name for name in names if is_run_id(name) and os.path.isdir(os.path.join(root, name))]


def told(listing: nvidia_smi.Listing) -> dict[str, object]:
    """Return a row for each GPU, with the numbers that the driver knows, and the warning of nvidia-smi."""
    return {"gpus": [{"index": gpu.index, "uuid": gpu.uuid, "name": gpu.told["name"],
                      **{key: gpu.number(column) for key, column in nvidia_smi.READINGS.items()}}
                     for gpu in listing.gpus],
            "gpu_warning": listing.warning}


def gpus_of(run: dict[str, object], listing: nvidia_smi.Listing) -> list[str]:
    """Return the UUIDs of the GPUs of a running run: those its processes have memory on, else those assigned to it."""
    if not listing.gpus or not run["alive"]:
        return []
    pids = processes.carrying(f"{liveness.RUN}={run['run_id']}")
    try:
        train = table(table(loads(str(run["config"]))).get("train"))
    except ValueError:
        train = {}
    count = 0 if train.get("device") == "cpu" else whole(train.get("num_processes")) or 0
    used = {process.gpu_uuid for process in nvidia_smi.processes() if process.pid in pids}
    variable = processes.variable_of(pids[0], nvidia_smi.VISIBLE) if pids else None
    return sorted(used) or [gpu.uuid for gpu in nvidia_smi.visible(listing.gpus, variable)[:count]]


def news(workspace: str, run_id: str, files: dict[str, dict[str, Any]], gpus: bool = False,
         known: str = "") -> dict[str, object]:
    """Return the facts of a run and the content of its files (paths below its folder) after a cursor. A question is
    {"cursor", "limit", "last_lines", "steps" (as many of a Journal's at most), "ignored" (beginnings of lines)}; a
    piece is {"lines", "rest", "cursor", "more"}. `known`: the digest of a configuration that need not be sent again."""
    root = os.path.join(workspace, "runs")
    run = facts(root, run_id)  # before the files: a run that ended has written its last line
    listing = nvidia_smi.gpus(GPU_FIELDS) if gpus else nvidia_smi.Listing()
    run["gpus"] = gpus_of(run, listing)
    if hashlib.md5(str(run["config"]).encode()).hexdigest() == known:
        run["config"] = None
    pieces = {path: piece(os.path.join(root, run_id, path), **question) for path, question in files.items()}
    machine = {"machine": utilization.of_machine(workspace)} if gpus else {}
    return {"run": run, "files": pieces, **told(listing), **machine}


def piece(path: str, cursor: list[Any], limit: int = TEXT_BYTES, last_lines: int = -1, steps: int = 0,
          ignored: tuple[str, ...] = ()) -> dict[str, object]:
    found = read_on(path, cursor, limit, last_lines)
    lines = found["lines"]
    if lines and (steps or ignored):
        lines = thinned(shortened(lines), steps or len(lines), tuple(word.encode() for word in ignored))
    return {**found, "lines": rows_of(lines), "rest": found["rest"].decode("utf-8", "replace")}


def shortened(lines: Lines) -> Lines:
    """Shorten each event that is too long to its beginning, for the error message, and its end, which is the mark of
    the cursor behind it; empty a part of one."""
    return [(behind, line if len(line) <= EVENT_BYTES else line[:80] + line[-MARK:] if line.endswith(b"\n") else b"")
            for behind, line in lines]


def checkpoints(workspace: str, run_id: str) -> dict[str, object]:
    whole, unfinished = listed(os.path.join(workspace, "runs", run_id, "checkpoints"))
    return {"checkpoints": whole, "unfinished": unfinished}


def evaluations(workspace: str, run_ids: list[str]) -> dict[str, object]:
    found = []
    for run_id in run_ids:
        root = os.path.join(workspace, "runs", run_id, "eval")
        found += [evaluation(os.path.join(root, name), run_id, name) for name in ls(root)
                  if fits(evaluation_name, name)]
    return {"evaluations": sorted(found, key=lambda e: str(e["begun_s"]))}


def evaluation(folder: str, run_id: str, name: str) -> dict[str, object]:
    spec = os.path.join(folder, "eval.json")
    life = liveness.read(folder, f"{liveness.EVALUATION}={run_id}/{name}")
    return {"run_id": run_id, "name": name, "folder": folder, "spec": text_of(spec, CONFIG_BYTES),
            "begun_s": os.path.getmtime(spec) if os.path.exists(spec) else 0.0,
            "exit_code": life.exit_code, "alive": life.alive or is_locked(os.path.join(folder, "lock")),
            "launched": life.launched, "stop_requested": life.stop_requested,
            "outcomes": outcomes(os.path.join(folder, "trials.jsonl")),
            "report": text_of(os.path.join(folder, "report.json"), REPORT_BYTES),
            "log_tail": end_of(os.path.join(folder, "eval.log"))}


def is_locked(path: str) -> bool:
    """Return whether an evaluation holds its lock: one that was started by hand has no other sign of life."""
    return is_held(path, SHARED)  # shared, so that two callers do not see each other's lock


def outcomes(path: str) -> dict[str, int]:
    """Count the trials by outcome; the last line of a trial counts."""
    last: dict[tuple[object, object], object] = {}
    with contextlib.suppress(OSError):
        for line in itertools.islice(lines_of(path, EVENT_BYTES), TRIAL_LINES):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                trial = loads(line)
                last[trial["task"], trial["trial"]] = trial["outcome"]
    return {kind: list(last.values()).count(kind) for kind in ("success", "failure", "error")}


def main() -> None:
    operations: dict[str, Callable[..., dict[str, object]]] = {
        "list": list_runs, "news": news, "gpus": lambda: told(nvidia_smi.gpus(GPU_FIELDS)),
        "checkpoints": checkpoints, "evaluations": evaluations}
    for line in iter(sys.stdin.buffer.readline, b""):
        request = loads(line)
        is_shrunk = request.pop("shrunk", False)
        answer = operations[request.pop("op")](**request)
        answer = {"shrunk": shrunk(answer)} if is_shrunk else answer
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
