"""Two runs never share a GPU or an output folder, however the one before ended. Real processes, real kernel locks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdtops.contract import lease

PROGRAM = [sys.executable, "-I", lease.__file__]
UUIDS = {"0": "GPU-aa11", "1": "GPU-bb22"}


@pytest.mark.parametrize(("count", "visible", "expected"), [
    (2, None, ["0", "1"]), (2, "3,5,7", ["3", "5"]), (4, "4, 5", ["4", "5"]), (2, "", []), (2, "4,-1,5", ["4"]),
    (3, "1,1,2", ["1"]), (1, "MIG-1f", ["MIG-1f"]), (8, "GPU-aa,GPU-bb", ["GPU-aa", "GPU-bb"])])
def test_a_run_has_the_gpus_that_cuda_would_give_it(count, visible, expected):
    assert lease.gpus_of(count, visible) == expected


def config(workspace="/w", run_id="20261124-101530-x-0001", device="cuda", processes=2):
    return {"run_id": run_id, "workspace": str(workspace), "train": {"device": device, "num_processes": processes}}


def names(visible, processes=1):
    found = lease.claims(config(processes=processes), visible, UUIDS, "/locks")
    return {Path(path).name for path in found if path.startswith("/locks/")}


@pytest.mark.parametrize("called", ["0", "GPU-aa11", "GPU-aa"])
def test_a_gpu_is_the_same_whatever_it_is_called(called):
    assert names(called) >= {"gpu-0", "gpu-GPU-aa11"}


def test_a_training_on_cpus_has_those_of_its_workspace_and_no_gpu():
    found = lease.claims(config(device="cpu"), "0", UUIDS, "/locks")
    assert set(found.values()) == {"the CPU of this workspace", "the output folder"}
    assert not [path for path in found if path.startswith("/locks")]


# --- real processes ---

class Runs:
    """Run folders of one workspace, and processes that hold leases for them."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.env = {**os.environ, "RDTOPS_LOCKS": str(workspace / "locks")}
        self.started: list[subprocess.Popen] = []

    def folder(self, run_id: str, **what) -> Path:
        folder = self.workspace / "runs" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config(self.workspace, run_id, **what)))
        return folder

    def start(self, run_id: str, line: str, *, visible: str = "", **what) -> subprocess.Popen:
        folder = self.folder(run_id, **what)
        env = {**self.env, "CUDA_VISIBLE_DEVICES": visible} if visible else self.env
        process = subprocess.Popen([*PROGRAM, str(folder / "config.json"), "sh", "-c", line], env=env, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def running(self, run_id: str, line: str = "echo up; exec sleep 60", **what) -> subprocess.Popen:
        process = self.start(run_id, line, **what)
        said = process.stdout.readline()
        assert said.startswith("up"), process.stderr.read()
        return process

    def refused(self, run_id: str, **what) -> str:
        process = self.start(run_id, "echo up", **what)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (lease.REFUSED, ""), (out, err)
        return err

    def asked(self, visible: str, **what) -> list:
        request = {"config": config(self.workspace, "20261124-101530-x-9999", **what), "visible": visible, "locks": ""}
        done = subprocess.run(PROGRAM, input=json.dumps(request) + "\n", env=self.env, capture_output=True, text=True,
                              check=True)
        return json.loads(done.stdout)["in_the_way"]


@pytest.fixture
def held(tmp_path):
    runs = Runs(tmp_path)
    yield runs
    for process in runs.started:
        process.kill()
        process.communicate()
        for pipe in (process.stdout, process.stderr):
            pipe.close()


def test_who_comes_second_to_a_gpu_is_told_who_has_it_and_since_when(held):
    held.running("a", visible="0,1")
    said = held.refused("b", visible="1,2")
    assert "not started: GPU 1 is held by a (" in said
    assert time.strftime("since %Y-%m-%d %H:", time.gmtime()) in said
    (holder,) = json.loads((held.workspace / "runs" / "b" / lease.REFUSAL).read_text())
    assert (holder["what"], holder["run_id"], holder["workspace"]) == ("GPU 1", "a", str(held.workspace))
    held.running("c", visible="2,3")  # what b did not get, b does not hold
    assert [h["run_id"] for h in held.asked("0,3")] == ["a", "c"]
    assert held.asked("4,5") == []


def test_a_question_makes_nothing(held):
    assert held.asked("0,1") == []
    assert list(held.workspace.iterdir()) == []


def test_a_gpu_of_two_names_is_one_and_is_told_once(held):
    smi = held.workspace / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho '0, GPU-5b2f1c7e-0000-1111-2222-333344445555'\n")
    smi.chmod(0o755)
    held.env["PATH"] = f"{smi.parent}:{held.env['PATH']}"
    held.running("a", visible="0", processes=1)
    (holder,) = held.asked("GPU-5b2f1c7e", processes=1)
    assert (holder["what"], holder["run_id"]) == ("GPU GPU-5b2f1c7e", "a")


def test_an_output_folder_has_one_run(held):
    held.running("a", visible="0", processes=1)
    assert "the output folder is held by a" in held.refused("a", visible="1", processes=1)


def test_cpus_of_a_workspace_have_one_training(held, tmp_path):
    held.running("a", device="cpu")
    assert "the CPU of this workspace is held by a" in held.refused("b", device="cpu")
    held.workspace = tmp_path / "elsewhere"
    held.running("b", device="cpu")


def test_a_killed_run_holds_nothing(held):
    first = held.running("a", visible="0,1")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert held.asked("0,1") == []
    held.running("b", visible="0,1")


def test_a_run_that_starts_anew_waits_for_what_of_it_is_just_dying(held):
    held.running("a", "echo up; exec sleep 1.5", visible="0", processes=1)  # as one that is giving back its memory
    again = held.running("a", visible="0", processes=1)
    assert again.poll() is None


def test_who_comes_next_waits_for_the_last_processes_of_a_run_that_has_ended(held):
    held.running("a", "echo up; exec sleep 1.5", visible="0", processes=1)
    (held.folder("a") / "exit").write_text("0\n")
    assert held.running("b", visible="0", processes=1).poll() is None
    held.running("c", "echo up; exec sleep 1.5", visible="1", processes=1)
    (held.folder("c") / "exit").write_text("0\n")
    assert held.asked("1") == []


RANK = ("import sys; from rdtops.contract import lease; lease.join('a'); print('up', flush=True); "
        "import time; time.sleep(60)")


def test_a_rank_that_outlives_everybody_still_holds(held):
    """accelerate closes what it inherited before it starts a rank, so the rank takes its own share."""
    folder = held.folder("a")
    program = folder / "start.py"
    program.write_text("import subprocess, sys\n"
                       f"rank = subprocess.Popen([sys.executable, '-c', {RANK!r}])\n"
                       f"open({str(folder / 'pid')!r}, 'w').write(str(rank.pid))\nrank.wait()\n")
    launcher = held.running("a", f"exec {sys.executable} {program}", visible="0,1")
    launcher.kill()
    launcher.wait()
    assert "GPU 0 is held by a" in held.refused("b", visible="0,1")
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    end = time.monotonic() + 10
    while held.asked("0,1"):
        assert time.monotonic() < end
    held.running("b", visible="0,1")


def test_a_late_rank_of_a_run_that_lost_its_lease_is_told(held, monkeypatch):
    held.running("b", visible="0,1")
    files = [str(held.workspace / "locks" / "gpu-0")]
    monkeypatch.setenv("RDTOPS_LEASE", "a")
    monkeypatch.setenv("RDTOPS_LEASE_FILES", json.dumps(files))
    with pytest.raises(lease.Taken, match="held by b"):
        lease.join("a")


def test_of_many_that_start_at_once_one_gets_the_gpu(held):
    many = [held.start(f"r{number}", "echo up; exec sleep 60", visible="0", processes=1) for number in range(8)]
    end = time.monotonic() + 30
    while sum(p.poll() is None for p in many) > 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    (winner,) = [p for p in many if p.poll() is None]
    assert winner.stdout.readline() == "up\n"
    assert {p.returncode for p in many if p is not winner} == {lease.REFUSED}
