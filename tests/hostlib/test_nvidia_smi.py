"""What nvidia-smi lists, whoever asks: the same rows are GPUs for all of them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from rdtops.contract import lease
from rdtops.hostlib import nvidia_smi
from rdtops.on_host import run_reporter
from rdtops.supervisor import evidence_on_host

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "plugins" / "data"
FIELDS = ("index", "uuid", "name", "memory.total", "memory.free", "utilization.gpu",
          "ecc.errors.uncorrected.volatile.total")
A, B = "GPU-5c1f0c2e-0000-4a8b-9d11-0a8000000000", "GPU-5c1f0c2e-1111-4a8b-9d11-0a8000000001"


def recorded(name: str) -> nvidia_smi.Listing:
    return nvidia_smi.parse(FIELDS, (DATA / name).read_text())


def numbers(listing: nvidia_smi.Listing) -> list[tuple[int | None, ...]]:
    return [(gpu.index, *map(gpu.number, FIELDS[4:])) for gpu in listing.gpus]


def test_a_driver_s_csv_is_read():
    assert numbers(recorded("gpus_550_a800.csv")) == [
        (0, 81221, 0, 0), (1, 81221, 0, 0), (2, 12034, 97, 0), (3, 81221, 0, 2)]


def test_what_a_gpu_does_not_tell_is_unknown():
    assert numbers(recorded("gpus_470_geforce.csv")) == [(0, 24031, None, None), (1, 24031, 3, None)]


def test_a_gpu_whose_uuid_has_no_prefix_is_one():
    """As a Jetson tells it."""
    listing = nvidia_smi.parse(("index", "uuid", "name"), "0, 54b9cd1a-8d4a-5f0c-9c5e-8f5b1d0a7e21, Orin (nvgpu)\n")
    assert [(gpu.index, gpu.told["name"]) for gpu in listing.gpus] == [(0, "Orin (nvgpu)")]


def test_process_names_with_commas_are_read():
    found = nvidia_smi.parse_apps((DATA / "apps_550.csv").read_text())
    assert [(p.pid, p.name, p.memory_mib) for p in found] == [
        (41231, "python", 69122), (51872, "/opt/my tools/train, now.py", None)]
    assert found[0].gpu_uuid == recorded("gpus_550_a800.csv").gpus[0].uuid


@pytest.mark.parametrize(("variable", "indices"), [
    (None, [0, 1, 2, 3]), ("", []), ("-1", []), ("3,1", [3, 1]), (" 0 , 2 ", [0, 2]), ("0,9,1", [0]), ("0,-1,1", [0]),
    ("0,0,1", [0]), ("GPU-5c1f0c2e-2222-4a8b-9d11-0a8000000002,GPU-5c1f0c2e-1111", [2, 1]), ("GPU-nobody", []),
    ("nonsense", []), ("MIG-8932f937-d72c", [None]), ("MIG-a,MIG-b,1", [None, None, 1])])
def test_cuda_visible_devices_is_read_as_cuda_reads_it(variable, indices):
    found = nvidia_smi.visible(recorded("gpus_550_a800.csv").gpus, variable)
    assert [gpu.index for gpu in found] == indices


ODD = {
    "a warning about an infoROM": ("WARNING: infoROM is corrupted at gpu 0000:3B:00.0", [0, 1], ""),
    "a lost GPU without a row": ("Unable to determine the device handle for GPU 0000:4E:00.0: GPU is lost.", [0, 1],
                                 "GPU is lost"),
    "a row that wants a reset": (f"2, GPU-5c1f0c2e-2222-4a8b-9d11-0a8000000002{', [GPU requires reset]' * 7}", [0, 1],
                                 "GPU requires reset")}


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """A program of that name that prints what is there whatever columns it is asked for: the real one's ERR!, too."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def prints(odd: str = "", code: int = 0) -> None:
        (folder / "nvidia-smi").write_text(f"""#!{sys.executable}
import sys
(query,) = [word for word in sys.argv if word.startswith("--query-")]
what, _, fields = query.partition("=")
known = {{"index": None, "uuid": None, "name": "NVIDIA A800", "power.draw": "ERR!"}}
if what == "--query-gpu":
    for index, uuid in enumerate(({A!r}, {B!r})):
        print(", ".join({{**known, "index": str(index), "uuid": uuid}}.get(f, "7") for f in fields.split(",")))
    print({odd!r})
sys.exit({code})
""")
        (folder / "nvidia-smi").chmod(0o755)
    return prints


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("code", [0, 15])
def test_whoever_asks_the_rows_that_parse_are_gpus_and_the_rest_is_quoted(smi, kind, code, tmp_path):
    odd, indices, fault = ODD[kind]
    smi(odd, code)
    config = {"run_id": "a", "workspace": str(tmp_path), "train": {"device": "cuda", "num_processes": 2}}
    status = run_reporter.told(nvidia_smi.gpus(run_reporter.GPU_FIELDS))
    why, problem = evidence_on_host.gpus([])
    wanted = " ".join(lease._wanted(config, None, "/common"))
    assert [row["index"] for row in status["gpus"]] == indices
    assert [int(row["index"]) for row in why] == indices
    assert all(uuid in wanted for uuid in (A, B))
    assert odd[:60] in status["gpu_warning"]
    assert fault in problem
    assert bool(problem) is bool(fault)
    assert [row["power_w"] for row in status["gpus"]] == [None, None]  # ERR!


@pytest.mark.parametrize(("device", "exported", "is_ours"), [
    ("cuda", "", False), ("cuda", "export CUDA_VISIBLE_DEVICES=1,0\n", False), ("cpu", "", False),
    ("cuda", "export CUDA_VISIBLE_DEVICES=0,2\n", True), ("cuda", "export CUDA_VISIBLE_DEVICES=''\n", False)])
def test_a_lost_gpu_is_no_reason_for_the_end_of_a_run_that_does_not_use_it(smi, tmp_path, device, exported, is_ours):
    """Else its supervisor would not start it again."""
    odd, _, fault = ODD["a lost GPU without a row"]
    smi(odd, 15)
    run = tmp_path / "runs" / "20261124-101530-x-0001"
    run.mkdir(parents=True)
    (run / "config.json").write_text(f'{{"train": {{"device": "{device}", "num_processes": 2}}}}')
    (run / "launch.sh").write_text(f"#!/bin/sh\n{exported}exec true\n")
    problem = evidence_on_host.facts(str(tmp_path), run.name, 137, ended=True)["gpu_problem"]
    assert (fault in problem, bool(problem)) == (is_ours, is_ours)


def test_without_nvidia_smi_there_is_no_gpu_and_no_complaint(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi.gpus() == nvidia_smi.Listing()
    assert nvidia_smi.processes() == ()


def test_a_driver_that_does_not_answer_is_said(monkeypatch, smi):
    smi()
    monkeypatch.setattr(nvidia_smi, "LIMIT_S", 0.0)
    found = nvidia_smi.gpus()
    assert (found.gpus, found.problem) == ((), "no answer within 0 s")


def test_the_text_of_a_query_has_one_home():
    files = [*(ROOT / "rdtops").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    text = re.compile(r"nvidia-smi[\"', f]*--query")
    askers = {file.relative_to(ROOT).as_posix() for file in files if text.search(file.read_text())}
    assert askers == {"rdtops/hostlib/nvidia_smi.py"}
