"""The use of the GPUs is recorded beside the training, and nothing ever waits for nvidia-smi."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdtops.contract.config import override, preset
from rdtops.contract.run import RunSpec
from rdtops.report.gpu_use import GpuUse
from rdtops.supervisor import gpu_sampler
from rdtops.supervisor.gpu_sampler import GpuSampler

SUPERVISED = ("import sys; from rdtops.supervisor import gpu_sampler; from rdtops.supervisor.__main__ import main; "
              "gpu_sampler.FIRST_S = 0.0; sys.exit(main(sys.argv[1:]))")
# four GPUs of a driver that does not report the power of one, and has lost another
ANSWER = """0, GPU-5ae0e0a8-0000-0000-0000-000000000000, 61203, 81920, 97, 64, 312.55
1, GPU-5ae0e0a8-0000-0000-0000-000000000001, 61107, 81920, 41, 58, [N/A]
Unable to determine the device handle for GPU 0000:47:00.0: GPU is lost.
3, GPU-5ae0e0a8-0000-0000-0000-000000000003, 4, 81920, 0, 31, 60.10
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Write an nvidia-smi that runs a line of sh."""
    monkeypatch.setattr(gpu_sampler, "FIRST_S", 0.0)
    monkeypatch.setattr(gpu_sampler, "EVERY_S", 0.1)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("RDTOPS_RUN", "20260101-000000-sh-0001")
    (tmp_path / "bin").mkdir()
    (tmp_path / "answer").write_text(ANSWER)

    def write(line):
        (tmp_path / "bin/nvidia-smi").write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin/nvidia-smi").chmod(0o755)

    write(f'[ -z "$RDTOPS_RUN" ] && cat {tmp_path}/answer')  # it must not be a process of the run
    return write


def looked(sampler, until, limit_s=20.0):
    """Look until it holds; return the longest look in seconds."""
    longest, end = 0.0, time.monotonic() + limit_s
    while not until():
        began = time.monotonic()
        assert began < end
        sampler.look()
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)
    return longest


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_sample_has_what_the_driver_tells_of_the_gpus_of_the_run(smi, tmp_path, monkeypatch):
    path = tmp_path / "gpus.jsonl"
    looked(GpuSampler(path, 2), lambda: len(lines(path)) >= 2)
    assert {k: v for k, v in lines(path)[0].items() if k != "time_s"} == {
        "index": [0, 1], "utilization_percent": [97, 41], "memory_used_mib": [61203, 61107],
        "memory_total_mib": [81920, 81920], "temperature_c": [64, 58],
        "power_w": [312.55, None]}
    use = GpuUse.read(path)
    assert use.words == {"load": "69 % on average, 41 % of the least busy GPU",
                         "power": "313 W for each GPU, on average", "hottest": "64 °C"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    other = tmp_path / "other.jsonl"
    looked(GpuSampler(other, 1), lambda: lines(other))
    assert lines(other)[0]["index"] == [3]


def test_the_supervisor_records_while_its_program_runs(smi, tmp_path):
    train = override(preset("tiny"), ["num_processes=1", "device=cuda"])
    spec = RunSpec("20260101-000000-sh-0001", "here", "", str(tmp_path), "/", "s", {}, train)
    root = Path(spec.paths.root)
    root.mkdir(parents=True)
    Path(spec.paths.config).write_text(spec.to_json())
    wait = f"i=0; while [ ! -s {spec.paths.gpus} ] && [ $i -lt 200 ]; do sleep 0.1; i=$((i + 1)); done"
    done = subprocess.run([sys.executable, "-c", SUPERVISED, spec.paths.config, "--", "sh", "-c", wait], cwd=root,
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert lines(Path(spec.paths.gpus))[0]["index"] == [0]


def test_an_nvidia_smi_that_hangs_is_given_up_and_nobody_waits(smi, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_sampler, "LIMIT_S", 0.3)
    smi(f"echo begun >> {tmp_path}/begun; exec sleep 60")
    sampler = GpuSampler(tmp_path / "gpus.jsonl", 2)
    longest = looked(sampler, lambda: sampler._is_over and sampler._asked is None)
    assert longest < 0.3
    for _ in range(30):
        sampler.look()
        time.sleep(0.01)
    assert (tmp_path / "begun").read_text() == "begun\n"
    assert not sampler.path.exists()


def test_without_gpus_or_nvidia_smi_nothing_is_recorded(smi, tmp_path, monkeypatch):
    begun = tmp_path / "begun"
    smi(f"echo begun >> {begun}")
    GpuSampler(tmp_path / "gpus.jsonl", 0).look()
    monkeypatch.setenv("PATH", "/nowhere")
    missing = GpuSampler(tmp_path / "gpus.jsonl", 2)
    missing.look()
    assert missing._is_over
    assert not begun.exists()


@pytest.mark.parametrize("text", ["", "\xff{", '{"time_s": "x"}\n[]\n7\n',
                                  '{"time_s": 1, "power_w": [null, "a", 1e999]}\n'])
def test_a_file_of_anything_has_no_curves(text, tmp_path):
    (tmp_path / "gpus.jsonl").write_text(text, encoding="latin-1")
    use = GpuUse.read(tmp_path / "gpus.jsonl")
    assert use.words == {}
    assert use.mean("power_w") == []
