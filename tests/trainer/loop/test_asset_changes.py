"""A resume goes on with what it was trained on; other data or encoders are refused, or accepted when they are meant."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest

from rdtops.contract.config import override, preset
from rdtops.contract.diagnosis import diagnose
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError, WeightsError
from rdtops.hostlib import manifest, provenance
from rdtops.on_host import asset_comparer
from rdtops.preflight import resume_check
from rdtops.preflight.check import Answers, Subject
from rdtops.ssh.hosts import Host
from rdtops.ssh.probe import Answer, Output
from rdtops.trainer.data import libero
from rdtops.trainer.loop import asset_changes, checkpoint, inputs
from tests.contract.test_diagnosis import evidence, failed
from tests.trainer.conftest import SHORT, events, flip, signals_as_they_were, write_run

ROLES = ("dataset", "pretrained", "text_encoder", "vision_encoder")


@pytest.fixture(scope="module")
def made(assets, tmp_path_factory) -> RunSpec:
    """A real run that has stopped at step 4."""
    from rdtops.trainer import train

    spec = write_run(tmp_path_factory.mktemp("workspace"), "made", assets, *SHORT, "max_steps=4")
    with signals_as_they_were():
        assert train.main([str(spec.paths.config)]) == 0
    return spec


@pytest.fixture
def spec(made, tmp_path) -> RunSpec:
    """A copy of it and of its assets, which a test may change."""
    shutil.copytree(made.workspace, tmp_path / "workspace")
    copies = {role: str(shutil.copytree(made.assets[role], tmp_path / "assets" / Path(made.assets[role]).name))
              for role in ROLES}
    return replace(made, workspace=str(tmp_path / "workspace"), assets=copies,
                   train=override(made.train, ["max_steps=8"]))


def another_task(folder: Path) -> None:
    """The same actions under another name of the task."""
    (path,) = folder.glob("*.hdf5")
    with h5py.File(path, "r+") as file:
        problem = json.loads(file["data"].attrs["problem_info"])
        file["data"].attrs["problem_info"] = json.dumps({**problem, "language_instruction": "open the oven"})


def other_tokens(path: Path) -> None:
    path.write_text(path.read_text().replace("<pad>", "<PAD>"))


def one_more(folder: Path) -> None:
    (path,) = folder.glob("*.hdf5")
    shutil.copy(path, folder / "more_demo.hdf5")


CHANGES: dict[str, tuple[str, Callable[[Path], None], str, str]] = {  # role, change, part, words
    "demonstrations": ("dataset", another_task, "dataset libero_tiny", "1 of 1 file differs: KITCHEN_"),
    "a new file": ("dataset", one_more, "dataset libero_tiny", "1 is new: more_demo.hdf5"),
    "a bit of siglip": ("vision_encoder", lambda folder: flip(folder / "model.safetensors"),
                        "vision_encoder siglip-tiny", "differs: model.safetensors (MD5 "),
    "a bit of t5": ("text_encoder", lambda folder: flip(folder / "model.safetensors"), "text_encoder t5-tiny",
                    "differs: model.safetensors (MD5 "),
    "the tokenizer": ("text_encoder", lambda folder: other_tokens(folder / "tokenizer.json"), "tokenizer t5-tiny",
                      "differs: tokenizer.json (MD5 ")}


def found(spec: RunSpec) -> list[tuple[str, dict[str, Any]]]:
    """The warnings of a resume, with their facts."""
    told: list[tuple[str, dict[str, Any]]] = []
    newest = Path(checkpoint.valid(Path(spec.paths.checkpoints))[-1].path)
    asset_changes.check_resume(spec, newest, read(spec, newest),
                               lambda message, **facts: told.append((message, facts)))
    return told


def read(spec: RunSpec, resumed: Path) -> provenance.Provenance:
    return asset_changes.of_training(spec, dataset_of(spec), resumed)


def dataset_of(spec: RunSpec) -> libero.Dataset:
    """Read a dataset once for each content."""
    key = provenance.Provenance.of({"dataset": spec.assets["dataset"]}).identity("dataset") + spec.train.without
    if key not in _DATASETS:
        _DATASETS[key] = libero.index(spec.assets["dataset"], declared=inputs.declared(spec))
    return _DATASETS[key]


_DATASETS: dict[str, libero.Dataset] = {}


def checked(spec: RunSpec, monkeypatch: pytest.MonkeyPatch, limit_bytes: int = resume_check.LIMIT_BYTES) -> Any:
    """The finding of `inv train --resume`, with the answer of the real host program."""
    out, subject = io.StringIO(), Subject(Host(name="a800", address="192.0.2.1"), spec, resumes=True)
    request = {"checkpoints": str(spec.paths.checkpoints), "assets": dict(spec.assets),
               "settings": spec.train.to_json(), "limit_bytes": limit_bytes}
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps(request).encode() + b"\n")))
        patch.setattr("sys.stdout", out)
        asset_comparer.main()
    output = Output(0, out.getvalue(), "")
    (result,) = resume_check.judge(subject, Answers({"resume": Answer(resume_check.parse(output), output)}, 0, 0))
    return result


# --- what is kept ---

def test_a_checkpoint_keeps_what_it_was_trained_on_below_its_manifest(made):
    folder = Path(made.paths.checkpoints) / "step_000004"
    kept = provenance.read(folder)
    assert {part: sorted(files) for part, files in kept.parts.items()} == {
        "dataset": [p.name for p in Path(made.assets["dataset"]).glob("*.hdf5")],
        "text_encoder": ["config.json", "model.safetensors"], "tokenizer": ["tokenizer.json", "tokenizer_config.json"],
        "vision_encoder": ["config.json", "model.safetensors"], "pretrained": ["config.json", "pytorch_model.bin"]}
    assert provenance.NAME in [file.path for file in manifest.stated(folder).files]
    assert provenance.read(Path(made.paths.root)) == kept
    for part in kept.parts:
        place = Path(made.assets[provenance.ROLES[part]])
        assert all(md5 == manifest.md5_of(place / path) for path, md5 in kept.parts[part].items())


def test_the_first_weights_of_a_resumed_run_are_those_it_began_from(spec):
    flip(Path(spec.assets["pretrained"]) / "pytorch_model.bin")
    resumed = Path(spec.paths.checkpoints) / "step_000004"
    assert read(spec, resumed) == provenance.read(resumed)


# --- refused, accepted ---

@pytest.mark.parametrize("change", CHANGES)
def test_other_files_are_refused_with_the_difference_by_the_laptop_and_by_the_trainer(spec, change, monkeypatch):
    role, work, part, words = CHANGES[change]
    same = checked(spec, monkeypatch)
    assert (same.status, same.summary) == (
        "OK", "the same data, encoders and weights as at step 4; changed: max_steps 4 -> 8")
    work(Path(spec.assets[role]))
    remedy = f"--set {role}={getattr(spec.train, role)}   # if that is meant; else put the files of the training back"
    refused = checked(spec, monkeypatch)
    assert (refused.status, refused.remedy) == ("FAIL", f"inv train --host {spec.host} --resume made {remedy}")
    assert f"step_000004 was trained on other files than those there: {part}: " in refused.summary
    assert words in refused.summary
    with pytest.raises(ConfigError) as told:
        found(spec)
    assert told.value.message == refused.summary.replace("those there", "those here").partition("; changed")[0]
    assert told.value.remedy == f"inv train --resume RUN {remedy}"


@pytest.mark.parametrize("change", ["demonstrations", "the tokenizer"])
def test_what_is_meant_is_accepted_and_told(spec, change, monkeypatch):
    role, work, part, words = CHANGES[change]
    work(Path(spec.assets[role]))
    meant = replace(spec, train=override(spec.train, [f"accept_changed={role}"]))
    accepted = checked(meant, monkeypatch)
    assert accepted.status == "WARN"
    assert f"goes on from step 4 with other files, as --set says: {part}: " in accepted.summary
    ((message, facts),) = [(m, f) for m, f in found(meant) if f]
    assert message.startswith(f"resumed from step_000004 with other files, as accepted: {part}: ")
    assert words in message
    assert list(facts["accepted"]) == [part.partition(" ")[0]]
    other = "vision_encoder" if role != "vision_encoder" else "dataset"
    with pytest.raises(ConfigError):
        found(replace(spec, train=override(spec.train, [f"accept_changed={other}"])))


def test_a_file_that_is_left_out_is_not_compared(spec, monkeypatch):
    one_more(Path(spec.assets["dataset"]))
    without = replace(spec, train=override(spec.train, ["without=more_demo.hdf5"]))
    told = checked(without, monkeypatch)
    assert (told.status, told.summary.partition("; changed: ")[::2]) == (
        "OK", ("the same data, encoders and weights as at step 4", "max_steps 4 -> 8, without none -> more_demo.hdf5"))
    assert found(without) == []


def test_a_restart_of_the_same_launch_does_not_accept_yet_other_files(spec):
    meant = replace(spec, train=override(spec.train, ["accept_changed=dataset"]))
    journal, folder = Journal(Path(spec.paths.journal)), Path(spec.assets["dataset"])
    another_task(folder)
    ((message, facts),) = [(m, f) for m, f in found(meant) if f]
    journal.append("warning", message=message, **facts)  # as the trainer does
    assert found(meant)
    one_more(folder)
    with pytest.raises(ConfigError, match="more_demo"):
        found(meant)
    journal.append("launched", launcher="tmux", pid=1)  # `inv train --resume` again, with the same --set
    assert found(meant)


def test_a_checkpoint_from_before_is_resumed_with_a_warning(spec, monkeypatch):
    folder = Path(spec.paths.checkpoints) / "step_000004"
    (folder / provenance.NAME).unlink()
    manifest.seal(folder)
    another_task(Path(spec.assets["dataset"]))
    assert any("step_000004: which files it was trained on is not known" in message for message, _ in found(spec))
    told = checked(spec, monkeypatch)
    assert told.status == "WARN"
    assert told.summary.startswith("step_000004 does not say which data and encoders it was trained with")


def test_a_record_that_cannot_be_read_is_a_damaged_checkpoint(spec, monkeypatch):
    folder = Path(spec.paths.checkpoints) / "step_000004"
    (folder / provenance.NAME).write_text("[]")
    manifest.seal(folder)
    with pytest.raises(WeightsError, match=r"step_000004: assets\.json must hold a JSON object"):
        found(spec)
    assert checked(spec, monkeypatch).status == "WARN"


def test_why_says_that_the_files_are_others_and_does_not_start_it_again(spec):
    another_task(Path(spec.assets["dataset"]))
    with pytest.raises(ConfigError) as told:
        found(spec)
    event = failed(told.value.message, "ConfigError", training=False)
    diagnosis = diagnose(evidence(told=({**event, "remedy": told.value.remedy},)))
    assert (diagnosis.cause, diagnosis.restart, diagnosis.summary) == ("config", False, told.value.message)
    assert diagnosis.next.startswith(
        "inv train --host a800 --resume 20261124-101530-tiny-3fa9 --set dataset=libero_tiny   # if that is meant")


# --- the laptop's check ---

def test_what_is_not_read_or_not_there_yet_is_said_and_no_failure(spec, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nothing is known there
    shutil.rmtree(spec.assets["vision_encoder"])
    told = checked(spec, monkeypatch, limit_bytes=0)
    unread = "; ".join(f"{part}: 0.0 GB not read yet, the training compares them"
                       for part in ("dataset", "text_encoder", "tokenizer"))
    assert told.status == "OK"
    assert told.summary == (f"the same data and encoders as at step 4; changed: max_steps 4 -> 8; {unread}; "
                            "vision_encoder: not on the host yet")


def test_other_pretrained_weights_are_said_and_no_failure(spec, monkeypatch):
    flip(Path(spec.assets["pretrained"]) / "pytorch_model.bin")
    told = checked(spec, monkeypatch)
    assert told.status == "OK"
    assert "pretrained rdt-tiny, which only a new training reads: 1 of 2 files differs" in told.summary


def test_a_run_without_a_checkpoint_begins_anew(spec, monkeypatch):
    shutil.rmtree(spec.paths.checkpoints)
    assert checked(spec, monkeypatch).summary == "no checkpoint yet: the training begins anew"
    assert checkpoint.valid(Path(spec.paths.checkpoints)) == []


def test_a_new_training_is_not_compared():
    spec = RunSpec("r", "h", "now", "/w", "/w/r", "s", {}, preset("tiny"))
    subject = Subject(Host(name="h", address="192.0.2.1"), spec)
    assert (list(resume_check.probes(subject)), list(resume_check.judge(subject, Answers({}, 0, 0)))) == ([], [])


@pytest.mark.parametrize("answer", ["", "{}", "[]", json.dumps({"step": "x", "recorded": True})])
def test_a_strange_answer_is_a_warning(answer, spec):
    output = Output(0, answer, "")
    with pytest.raises(ValueError, match=r".+"):
        resume_check.parse(output)
    subject = Subject(Host(name="h", address="192.0.2.1"), spec, resumes=True)
    (told,) = resume_check.judge(subject, Answers({"resume": Answer(None, output, "no answer")}, 0, 0))
    assert (told.status, told.evidence) == ("WARN", "no answer")


def test_the_trainer_tells_what_it_accepted_in_the_journal(spec, train_here):
    another_task(Path(spec.assets["dataset"]))
    meant = replace(spec, train=override(spec.train, ["accept_changed=dataset"]))
    Path(spec.paths.config).write_text(meant.to_json())
    assert train_here(meant) == 0
    (told,) = [e for e in events(meant, "warning") if "accepted" in e.data]
    assert told.data["message"].startswith("resumed from step_000004 with other files, as accepted: dataset ")
    now = provenance.read(Path(spec.paths.checkpoints) / "step_000008")
    assert told.data["accepted"] == {"dataset": now.identity("dataset")}
    bare = replace(meant, train=override(meant.train, ["accept_changed=", "max_steps=9"]))
    assert not [m for m, facts in found(bare) if facts or "other files" in m]
