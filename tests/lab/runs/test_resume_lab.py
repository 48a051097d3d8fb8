"""`inv train --resume RUN`, as `inv why` prescribes it: the run goes on with its own data, encoders and weights, not
with those of the host's preset; other files at their place are refused, or accepted when they are meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest
import torch

from rdtops.contract.journal import Event, Journal
from rdtops.hostlib import manifest, provenance
from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
OWN = "--set dataset=drawer --set pretrained=my-rdt"
LEARNT = ("model.safetensors", "ema/model.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def laptop(lab: Lab, named_assets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laptop that has the assets of the preset, and another dataset and other weights of the same shapes."""
    folder = tmp_path_factory.mktemp("laptop")
    shutil.copytree(named_assets["libero_tiny"], folder / "drawer")
    retold(folder / "drawer", "open the drawer")
    shutil.copytree(named_assets["rdt-tiny"], folder / "my-rdt")
    path = folder / "my-rdt" / "pytorch_model.bin"
    torch.save({name: tensor * 1.5 for name, tensor in torch.load(path, weights_only=True).items()}, path)
    own = {name: str(folder / name) for name in ("drawer", "my-rdt")}
    lab.write_inventory(folder / "hosts.toml", {**named_assets, **own})
    return folder


@pytest.fixture(scope="module")
def inv(laptop: Path) -> CommandLine:
    return CommandLine(laptop, laptop / "hosts.toml")


@pytest.fixture(scope="module")
def run(inv: CommandLine, lab: Lab) -> Path:
    """The folder of a run of eight steps on its own data, on a host that has those of the preset, too."""
    inv.good("deploy --host lab --only data,weights", timeout_s=300)
    inv.good(f"deploy train --host lab {OWN} --set num_processes=1 --set max_steps=8 --set checkpoint_every_steps=4 "
             "--set sample_every_steps=0 --follow", timeout_s=400)
    (row,) = inv.good("status --host lab --json").rows()
    return lab.home("lab") / "rdtops" / "runs" / row["run_id"]


def retold(folder: Path, instruction: str) -> None:
    """Give the demonstrations another instruction."""
    (path,) = folder.glob("*.hdf5")
    with h5py.File(path, "r+") as file:
        problem = json.loads(file["data"].attrs["problem_info"])
        file["data"].attrs["problem_info"] = json.dumps({**problem, "language_instruction": instruction})


def learnt(run: Path) -> dict[str, str]:
    sealed = manifest.read(run / "checkpoints" / "step_000008")
    assert sealed
    return {file.path: file.md5 for file in sealed.files if file.path in LEARNT}


def back_to_step_4(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step_000008")


def since(run: Path, launch: int) -> list[Event]:
    """The events of the run's launch of that number, from 1."""
    events = Journal(run / "journal.jsonl").read()
    begins = [number for number, event in enumerate(events) if event.kind == "launched"]
    assert len(begins) == launch
    return events[begins[-1]:]


def test_a_bare_resume_goes_on_with_the_run_s_own_data_and_weights_to_the_same_bits(run, inv):
    before, config = learnt(run), json.loads((run / "config.json").read_text())
    back_to_step_4(run)
    line = f"train --host lab --resume {run.name}"
    shown = inv.good(f"{line} --preset rdt_1b --dry-run")
    assert "OK resume: the same data, encoders and weights as at step 4" in " ".join(shown.out.split())
    assert f"--preset rdt_1b is ignored: {run.name} goes on with its own settings, of the preset tiny" in shown.err
    inv.good(f"{line} --follow", timeout_s=300)
    again = json.loads((run / "config.json").read_text())
    assert (again["train"], again["assets"]) == (config["train"], config["assets"])
    assert (again["train"]["dataset"], again["train"]["pretrained"]) == ("drawer", "my-rdt")
    assert Path(again["assets"]["dataset"]).name == "drawer"
    told = since(run, 2)
    assert [e.data["resumed_from_step"] for e in told if e.kind == "started"] == [4]
    assert [e.data for e in told if e.kind == "warning"] == []
    assert learnt(run) == before
    (checks,) = [r for r in json.loads((run / "checks.json").read_text())["results"] if r["name"] == "md5 dataset"]
    assert checks["evidence"] == again["assets"]["dataset"]  # the copy of the run's data was compared, not the preset's


def test_replaced_demonstrations_are_refused_on_the_laptop_and_accepted_when_they_are_meant(run, inv, laptop, lab):
    back_to_step_4(run)
    retold(laptop / "drawer", "close the oven")  # and sent, so that laptop and host agree
    inv.good(f"deploy --host lab --only data {OWN}", timeout_s=300)
    config, line = (run / "config.json").read_text(), f"train --host lab --resume {run.name}"
    words = ("step_000004 was trained on other files than those there: dataset drawer: 1 of 1 file differs: ",
             f"inv train --host lab --resume {run.name} --set dataset=drawer # if that is meant")
    inv.refused(line, 1, "not started, 1 check(s) failed", *words)
    (shown,) = inv.good(f"{line} --dry-run --json").rows()
    assert [r["status"] for r in shown["compared"]] == ["FAIL"]
    assert (run / "config.json").read_text() == config

    inv.good(f"{line} --set dataset=drawer --follow", timeout_s=300)
    assert json.loads((run / "config.json").read_text())["train"]["accept_changed"] == "dataset"
    (warning,) = [e.data for e in since(run, 3) if e.kind == "warning"]
    assert warning["message"].startswith("resumed from step_000004 with other files, as accepted: dataset drawer: ")
    now = provenance.read(run / "checkpoints" / "step_000008")
    assert now
    assert warning["accepted"] == {"dataset": now.identity("dataset")}
    (shown,) = inv.good(f"{line} --set max_steps=9 --dry-run --json").rows()  # it is the run's own now
    assert [(r["status"], r["summary"]) for r in shown["compared"]] == [
        ("OK", "the same data, encoders and weights as at step 8; changed: max_steps 8 -> 9")]
    assert json.loads(shown["files"]["config.json"])["train"]["accept_changed"] == ""


def test_the_results_say_which_data_encoders_and_weights_it_was_trained_with(run, inv):
    inv.good(f"fetch-results --host lab --run {run.name} --checkpoint none --into {inv.results}")
    readme = (inv.results / "lab" / run.name / "README.md").read_text()
    read = provenance.read(run)
    assert read
    for part, name in (("text_encoder", "t5-tiny"), ("tokenizer", "t5-tiny"), ("vision_encoder", "siglip-tiny"),
                       ("pretrained", "my-rdt")):
        assert f"- `{part}: {name}` digest `{read.identity(part)}`" in readme


def test_a_workspace_that_has_moved_is_found_by_the_names_of_the_run(run, laptop, lab):
    moved = lab.home("lab") / "elsewhere"
    run.parents[1].rename(moved)
    try:
        hosts = laptop / "moved.toml"
        hosts.write_text((laptop / "hosts.toml").read_text().replace('"~/rdtops"', '"~/elsewhere"'))
        inv = CommandLine(laptop, hosts)
        (shown,) = inv.good(f"train --host lab --resume {run.name} --set max_steps=9 --dry-run --json").rows()
        assert [r["status"] for r in shown["compared"]] == ["OK"]
        config = json.loads(shown["files"]["config.json"])
        assert config["assets"] == {role: str(moved / "assets" / config["train"][role]) for role in config["assets"]}
        assert config["workspace"] == str(moved)
    finally:
        moved.rename(run.parents[1])
