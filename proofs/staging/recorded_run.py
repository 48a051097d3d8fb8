"""Recorded runs: ended runs as on their host, with a checkpoint, an evaluation and a Journal. Nothing is trained."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from rdtops.contract.config import preset
from rdtops.contract.evaluation import EvalSpec, Protocol
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.hostlib import manifest, names
from rdtops.hostlib.manifest import md5_of

OLD, RUN = "20260101-000000-old-0001", "20260102-000000-hostile-0002"  # the second is the newest
SETTLED_S = 1_700_000_000  # mtime of the checkpoints: in the past, so that a digest is cached
_TALLY: dict[str, Any] = {"successes": 1, "trials": 2, "errors": 0, "success_rate": 0.5, "wilson_95": [0.09, 0.9],
                          "mean_steps_to_success": 43.0}


def record(workspace: Path, run_id: str, host: str = "lab") -> Path:
    """Create the run folder again."""
    folder = workspace / "runs" / run_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    train = preset("tiny")
    assets = {role: f"/assets/{role}" for role in ("dataset", "text_encoder", "vision_encoder")}
    spec = RunSpec(names.run_id(run_id), host, "2026-01-02T00:00:00Z", str(workspace),
                   str(workspace / "releases" / "gone"), "gone", assets, train)
    (folder / "config.json").write_text(spec.to_json())
    for name, text in (("exit", "0\n"), ("process", "1 1 not-this-boot\n"), ("supervisor", "1 1 not-this-boot\n"),
                       ("launch.sh", "#!/bin/sh\n"), ("overrides.json", "{}"),
                       ("statistics.json", '{"dataset": {"files": 1}}'),
                       ("assets.json", json.dumps({"tokenizer": {"spiece.model": "0" * 32}})),
                       ("train.log", "step 1 loss 0.5\nstep 2 loss 0.25\n"),
                       ("metrics.jsonl", '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'),
                       ("checks.json", json.dumps(_checks()))):
        (folder / name).write_text(text)
    checkpoint = _checkpoint(folder)
    _journal(folder, checkpoint, _evaluation(folder, spec, checkpoint))
    return folder


def _checks() -> dict[str, Any]:
    return {"host": "lab", "passed": True, "results": [{"name": "disk", "status": "OK", "summary": "45 GB free",
                                                        "evidence": "", "remedy": "", "plugin": "disk"}],
            "plugins": ["disk"], "seconds": {}}


def _checkpoint(folder: Path) -> Path:
    checkpoint = folder / "checkpoints" / "step_000002"
    (checkpoint / "ema").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    (checkpoint / "ema" / "model.safetensors").write_bytes(bytes(range(255, -1, -1)) * 20)
    (checkpoint / "trainer.json").write_text(json.dumps({"heldout_loss": 0.3, "step": 2}))
    manifest.seal(checkpoint)
    for file in checkpoint.rglob("*"):
        os.utime(file, (SETTLED_S, SETTLED_S))
    return checkpoint


def _evaluation(folder: Path, run: RunSpec, checkpoint: Path) -> Path:
    spec = EvalSpec(run.run_id, run.host, run.created_at, run.workspace, run.release, run.snapshot, str(checkpoint),
                    str(json.loads((checkpoint / manifest.NAME).read_text())["digest"]), run.assets, "cpu", "no",
                    Protocol(max_steps=200, trials=2), 1)
    evaluated = folder / "eval" / spec.name
    (evaluated / "videos").mkdir(parents=True)
    (evaluated / "videos" / "00_a_task.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    trials = [{"task": "a_task", "trial": n, "outcome": outcome, "steps": 43, "error": "", "video_error": "",
               "video": "videos/00_a_task.mp4" if n == 0 else ""} for n, outcome in enumerate(("success", "failure"))]
    report = {"name": spec.name, "run_id": run.run_id, "planned_trials": 2, "notes": ["a note"], "total": _TALLY,
              "checkpoint": {"name": checkpoint.name, "step": 2}, "codec": {"name": "delta_velocity"},
              "protocol": {"benchmark": "libero_90", "max_steps": 200, "exec_horizon": 16, "pred_horizon": 64,
                           "seed": 0, "trials": 2},
              "tasks": [{"number": 0, "name": "a_task", "language": "a task", **_TALLY}], "trials": trials}
    for name, text in (("eval.json", spec.to_json()), ("report.json", json.dumps(report)), ("exit", "0\n"),
                       ("process", "1 1 not-this-boot\n"), ("eval.log", "trial 0: success\n"),
                       ("trials.jsonl", "".join(json.dumps(trial) + "\n" for trial in trials))):
        (evaluated / name).write_text(text)
    return evaluated


def _journal(folder: Path, checkpoint: Path, evaluated: Path) -> None:
    journal = Journal(folder / "journal.jsonl")
    journal.append("launched", launcher="setsid", pid=1, boot_id="x")
    journal.append("started", world_size=1, max_steps=2, device="cpu", parameters=1, resumed_from_step=0,
                   heldout_samples=2)
    for step in (1, 2):
        journal.append("step", step=step, loss=0.5 / step, learning_rate=1e-4, grad_norm=1.0, samples=step,
                       samples_per_s=2.0, step_s=0.5, eta_s=1.0)
    journal.append("heldout", step=2, loss=0.3)
    digest = json.loads((checkpoint / manifest.NAME).read_text())["digest"]
    journal.append("checkpoint", step=2, name=checkpoint.name, size_bytes=10_240, digest=digest, heldout_loss=0.3)
    journal.append("finished", step=2, loss=0.25)
    name = evaluated.name
    journal.append("eval_started", name=name, checkpoint=checkpoint.name, benchmark="libero_90", tasks=1, trials=2,
                   done_before=0)
    journal.append("trial", name=name, task="a_task", trial=0, outcome="success", steps=43, error="")
    journal.append("eval_finished", name=name, report=f"eval/{name}/report.json",
                   digest=md5_of(evaluated / "report.json"), checkpoint=checkpoint.name, benchmark="libero_90",
                   successes=1, trials=2, errors=0)
