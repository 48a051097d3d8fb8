"""Two runs of a host as the trainer, an evaluation and a cluster leave them, fetched, with all their files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rdtops.contract import overrides
from rdtops.contract.config import override, preset
from rdtops.contract.evaluation import EvalSpec, Protocol
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.hostlib import manifest

OLD, GOOD = "20261124-101530-tiny-3fa9", "20261125-101530-tiny-3fb0"
RELEASE = "main-1a2b3c"
HOST = "lab"


def spec_of(workspace: Path, run_id: str) -> RunSpec:
    return RunSpec(run_id, HOST, "2026-11-24T10:15:30Z", str(workspace), f"{workspace}/releases/{RELEASE}", RELEASE,
                   {"dataset": "/w/d", "text_encoder": "/w/t", "vision_encoder": "/w/v"}, preset("tiny"))


def evaluation_of(spec: RunSpec) -> EvalSpec:
    return EvalSpec(spec.run_id, spec.host, spec.created_at, spec.workspace, spec.release, spec.snapshot,
                    str(spec.paths.checkpoints / "step_000002"), "", {}, "cpu", "no", Protocol())


def make_workspace(workspace: Path) -> None:
    release = workspace / "releases" / RELEASE
    release.mkdir(parents=True)
    (release / "snapshot.json").write_text(json.dumps({"name": RELEASE, "files": {"a.py": "0" * 32}}))
    (workspace / ".deployed").write_text(f"1790000000.0 {RELEASE}\n")
    (workspace / ".rolled-back").write_text(json.dumps({"to": RELEASE, "before": "b", "by": "me@here", "time_s": 1.0}))
    for run_id in (OLD, GOOD):
        make_run(spec_of(workspace, run_id))


def make_run(spec: RunSpec) -> None:
    root = Path(spec.paths.root)
    root.mkdir(parents=True)
    (root / "config.json").write_text(spec.to_json())
    journal = Journal(root / "journal.jsonl")
    journal.append("attempt", attempt=1, log_offset=0, log_line=1, oom_kills=0, batch_size_per_process=4,
                   gradient_accumulation_steps=1, gradient_checkpointing=False)
    journal.append("started", world_size=2, max_steps=150, device="cpu", parameters=10, resumed_from_step=0)
    for step in (1, 2):
        journal.append("step", step=step, loss=0.5, learning_rate=1e-3, samples_per_s=3.0, step_s=1.0, data_s=0.1,
                       eta_s=9.0)
    journal.append("heldout", step=2, loss=0.4)
    journal.append("checkpoint", step=2, name="step_000002", size_bytes=10, digest="0" * 32, heldout_loss=0.4)
    journal.append("stuck", attempt=1, silent_s=9.0, limit_s=5.0, ranks=[{"rank": 0, "pid": 7, "state": "T"}])
    journal.append("failed", step=2, error="a sample", remedy="inv check", type="DataError", rank=0, training=True)
    journal.append("attempt_ended", attempt=1, exit_code=1, cause="bad_sample", summary="s", evidence=["e"], next="n",
                   oom_kills=0, restart_in_s=None)
    overrides.write(root, spec.train, override(spec.train, ["batch_size_per_process=2",
                                                            "gradient_accumulation_steps=2"]))
    for name, text in {
            "exit": "1\n", "process": "1 1 another-boot\n", "supervisor": "1 1 another-boot\n", "stop": "1790000000\n",
            "refused": json.dumps([{"run_id": "x", "pid": 1}]), "launch.sh": "#!/bin/sh\n", "train.log": "one\ntwo\n",
            "checks.json": json.dumps({"host": HOST, "passed": True, "results": [
                {"name": "gpu", "status": "OK", "summary": "8", "evidence": "", "remedy": ""}]}),
            "metrics.jsonl": "".join(json.dumps({"step": s, "time_s": 1.0, "loss": 0.5}) + "\n" for s in (1, 2)),
            "statistics.json": json.dumps({"files": {"a.hdf5": "0" * 32}, "codec": "delta_velocity", "episodes": 3}),
            "assets.json": json.dumps({"dataset": {"a.hdf5": "0" * 32}, "tokenizer": {"spiece.model": "1" * 32}}),
            "slurm.json": json.dumps({"id": "7", "name": spec.run_id}), "ended": "",
            "slurm-end.json": json.dumps({"id": "7", "state": "COMPLETED", "exit": "0:0"})}.items():
        (root / name).write_text(text)
    checkpoint = root / "checkpoints" / "step_000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer.json").write_text(json.dumps({"step": 2, "heldout_loss": 0.4, "ema_updates": 2}))
    for name in ("statistics.json", "codec.json", "config.json"):
        (checkpoint / name).write_text(json.dumps({"name": "delta_velocity", "hash": "h", "golden": [], "a": 1}))
    manifest.seal(checkpoint)
    make_evaluation(evaluation_of(spec))


def make_evaluation(spec: EvalSpec) -> None:
    root = Path(spec.paths.root)
    root.mkdir(parents=True)
    (root / "eval.json").write_text(spec.to_json())
    trial = {"task": "close_the_drawer", "trial": 0, "outcome": "success", "steps": 9, "seconds": 1.0}
    tally = {"successes": 1, "trials": 1, "errors": 0, "success_rate": 1.0, "wilson_95": [0.2, 1.0],
             "mean_steps_to_success": 9.0}
    (root / "trials.jsonl").write_text(json.dumps(trial) + "\n")
    (root / "report.json").write_text(json.dumps({
        "name": spec.name, "benchmark": "libero_90", "checkpoint": "step_000002", "planned_trials": 1, "total": tally,
        "tasks": [{"number": 0, "name": "close_the_drawer", "language": "close", **tally}], "trials": [trial]}))
    for name, text in {"eval.log": "one\n", "exit": "0\n", "process": "1 1 another-boot\n", "stop": "1\n"}.items():
        (root / name).write_text(text)
    (root / "lock").touch()


def fetched(workspace: Path, results: Path, run_id: str = OLD) -> Path:
    folder = results / HOST / run_id
    shutil.copytree(workspace / "runs" / run_id, folder)
    (folder / "run.json").write_text(json.dumps({"run_id": run_id, "state": "failed", "step": 2, "loss": 0.5}))
    return folder
