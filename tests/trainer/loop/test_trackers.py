"""Curves that can be read back: metrics.jsonl, TensorBoard's event files, W&B's offline file."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from rdtops.hostlib import processes
from rdtops.trainer.loop import trackers
from rdtops.trainer.loop.trackers import MetricsFile, Trackers
from tests.trainer.conftest import SHORT, events, losses, start

QUICK = (*SHORT, "max_steps=6", "checkpoint_every_steps=3", "heldout_samples=6")
SPLIT = {"data_s", "encode_s", "forward_s", "backward_s", "optimiser_s", "save_s", "evaluation_s"}


def metrics(spec) -> list[dict]:
    return [json.loads(line) for line in Path(spec.paths.metrics).read_text().splitlines()]


def train(spec, **environment: str) -> str:
    """In a process of its own; returns what it wrote to standard error."""
    with start(spec, **environment) as training:
        _, complaint = training.communicate(timeout=120)
    assert training.returncode == 0, complaint
    return complaint


def lengthen(spec, steps: int) -> None:
    values = json.loads(Path(spec.paths.config).read_text())
    values["train"]["max_steps"] = steps
    Path(spec.paths.config).write_text(json.dumps(values))


# metrics.jsonl ------------------------------------------------------------------------------------------------------

def test_metrics_are_what_the_journal_says(prepare, train_here) -> None:
    spec = prepare("metrics", *QUICK, "sample_every_steps=3")
    assert train_here(spec) == 0
    steps = [m for m in metrics(spec) if "loss" in m]
    told = [{k: v for k, v in e.data.items() if v is not None} for e in events(spec, "step")]
    assert [{k: v for k, v in m.items() if k != "time_s"} for m in steps] == told
    assert [(m["step"], m["heldout_loss"]) for m in metrics(spec) if "heldout_loss" in m] == [
        (e.data["step"], e.data["loss"]) for e in events(spec, "heldout")]
    assert [(m["step"], m["action_mse"]) for m in metrics(spec) if "action_mse" in m] == [
        (e.data["step"], e.data["action_mse"]) for e in events(spec, "sample")]
    assert steps[0].keys() >= SPLIT


def test_after_a_kill_every_step_stands_there_once(prepare, train_here) -> None:
    spec = prepare("killed", *QUICK, "max_steps=12", "checkpoint_every_steps=4")
    with start(spec) as training:
        deadline = time.monotonic() + 60
        while len(losses(spec)) < 7 and time.monotonic() < deadline:
            time.sleep(0.002)
        training.send_signal(signal.SIGKILL)
        training.communicate(timeout=60)
    assert train_here(spec) == 0
    assert len(events(spec, "step")) > 12
    assert [m["step"] for m in metrics(spec) if "loss" in m] == list(range(1, 13))


def test_torn_lines_are_left_out_and_later_steps_replaced(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"st\n[]\n{"step": 2, "loss": 2}\n{"step": 3, "loss": 1}\n{"step": 2')
    MetricsFile(path, steps_done=2).log({"loss": 0.5}, step=3)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(m["step"], m["loss"]) for m in kept] == [(1, 3), (2, 2), (3, 0.5)]


def test_what_a_full_disk_keeps_from_the_curves_is_written_later(tmp_path) -> None:
    metrics_file = MetricsFile(tmp_path / "metrics.jsonl", steps_done=0)
    metrics_file.path = Path("/dev/full")
    metrics_file.log({"loss": 2}, step=1)
    metrics_file.path = tmp_path / "metrics.jsonl"
    metrics_file.log({"loss": 1}, step=2)
    assert [json.loads(line)["loss"] for line in metrics_file.path.read_text().splitlines()] == [2, 1]


# TensorBoard --------------------------------------------------------------------------------------------------------

def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_goes_on_where_the_resumed_checkpoint_was(prepare) -> None:
    pytest.importorskip("tensorboard")
    spec = prepare("board", *QUICK, "tracker=tensorboard", "checkpoint_every_steps=4")
    train(spec)
    lengthen(spec, 9)
    newest = Path(spec.paths.checkpoints) / "step_000006"
    newest.rename(newest.with_name("taken_away"))  # so steps 5 and 6 are trained again, as after a kill
    train(spec)
    read = scalars(Path(spec.paths.root) / "tensorboard")
    assert [step for step, _ in read["loss"]] == list(range(1, 10))
    told = {e.data["step"]: e.data for e in events(spec, "step")}
    for name in ("loss", "learning_rate", "grad_norm", "step_s", *SPLIT):
        assert [value for _, value in read[name]] == pytest.approx([told[s][name] for s in range(1, 10)]), name
    assert read["heldout_loss"][-1] == (9, pytest.approx(events(spec, "heldout")[-1].data["loss"]))


# Weights & Biases ---------------------------------------------------------------------------------------------------

def wandb_records(folder: Path) -> list:
    """Of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("*.wandb")
    content, found, piece, at = path.read_bytes(), [], b"", 7
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4:at + 6], "little"), content[at + 6]
        piece += content[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = pb.Record()
            record.ParseFromString(piece)
            found.append(record)
            piece = b""
    return found


def history(folder: Path) -> list[dict]:
    return [{(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            for record in wandb_records(folder) if record.WhichOneof("record_type") == "history"]


def test_wandb_offline_keeps_every_value_and_a_resumed_run_its_id(prepare) -> None:
    pytest.importorskip("wandb")
    spec = prepare("bias", *QUICK, "tracker=wandb", "wandb_mode=offline")
    train(spec)
    lengthen(spec, 8)
    train(spec)
    folders = sorted((Path(spec.paths.root) / "wandb").glob("offline-run-*"))
    told = {e.data["step"]: e.data["loss"] for e in events(spec, "step")}
    values = [h for folder in folders for h in history(folder) if "loss" in h]
    assert [(h["step"], h["loss"]) for h in values] == sorted(told.items())
    for folder in folders:
        (run,) = [r.run for r in wandb_records(folder) if r.WhichOneof("record_type") == "run"][:1]
        assert (run.run_id, run.project) == ("bias", "rdtops")
    assert not events(spec, "warning")[1:]  # the one says that max_steps was changed


def test_a_stop_of_all_the_run_s_processes_does_not_cost_wandb_its_values(prepare) -> None:
    pytest.importorskip("wandb")
    spec = prepare("swept", *QUICK, "max_steps=500", "tracker=wandb", "wandb_mode=offline")
    with start(spec) as training:
        deadline = time.monotonic() + 200
        while len(losses(spec)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        for process in processes.carrying(f"RDTOPS_RUN={spec.run_id}"):  # as `inv stop` finds them
            os.kill(process, signal.SIGTERM)
        training.communicate(timeout=60)
    assert training.returncode == 128 + signal.SIGTERM
    (folder,) = (Path(spec.paths.root) / "wandb").glob("offline-run-*")
    values = [h for h in history(folder) if "loss" in h]
    assert [h["loss"] for h in values] == losses(spec)
    assert not events(spec, "warning")


# failures -----------------------------------------------------------------------------------------------------------

def test_a_tracker_without_its_package_is_refused_before_anything_is_read(prepare, train_here, monkeypatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else found(name, *a))
    spec = prepare("without", *QUICK, "tracker=wandb", dataset="/nowhere")
    assert train_here(spec) == 2
    told = events(spec, "failed")[0].data
    assert told["error"].startswith("tracker = wandb needs the package wandb")
    assert told["remedy"].startswith("inv deploy --env --set tracker=wandb ")


def test_a_tracker_that_cannot_begin_is_told_once_and_left_out(prepare, train_here) -> None:
    pytest.importorskip("tensorboard")
    spec = prepare("blocked", *QUICK, "tracker=tensorboard")
    (Path(spec.paths.root) / "tensorboard").write_text("a file where a folder should be")
    assert train_here(spec) == 0
    (warning,) = events(spec, "warning")
    assert re.match("tensorboard failed and is disabled: .*Error", warning.data["message"])
    assert [m["step"] for m in metrics(spec) if "loss" in m] == list(range(1, 7))


def test_metrics_that_cannot_be_written_end_no_training(prepare, train_here) -> None:
    spec = prepare("nowhere", *QUICK)
    Path(spec.paths.metrics).mkdir()
    assert train_here(spec) == 0
    (warning,) = events(spec, "warning")
    assert warning.data["message"].startswith("metrics.jsonl failed and is disabled: IsADirectoryError")


def test_a_tracker_that_hangs_at_the_end_is_left_behind(monkeypatch) -> None:
    class Hanging:
        def log(self, values, step=None) -> None: ...

        def finish(self) -> None:
            time.sleep(60)

    monkeypatch.setattr(trackers, "FINISH_S", 0.2)
    warnings = []
    with Trackers(warnings.append) as made:
        made._trackers["slow"] = Hanging()
    assert warnings == ["slow has not finished within 0 s and was abandoned"]
