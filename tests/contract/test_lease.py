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
from rdtops.hostlib import nvidia_smi

PROGRAM = [sys.executable, "-I", lease.__file__]
UUIDS = {"0": "GPU-aa11", "1": "GPU-bb22"}


@pytest.mark.parametrize(("count", "visible", "expected"), [
    (2, None, ["0", "1"]), (2, "3,5,7", ["3", "5"]), (4, "4, 5", ["4", "5"]), (2, "", []), (2, "4,-1,5", ["4"]),
    (3, "1,1,2", ["1"]), (1, "MIG-1f", ["MIG-1f"]), (8, "GPU-aa,GPU-bb", ["GPU-aa", "GPU-bb"])])
def test_a_run_has_the_gpus_that_cuda_would_give_it(count, visible, expected):
    assert nvidia_smi.requested(count, visible) == expected


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


# --- what a lock file says, and what others do to it ---

HOSTILE = [b"", b"[" * 4096, b'{"run_id": 5, "since_s": 1e300}', b'{"since_s": 1e12, "user": ["x"]}', b"\xff\0",
           b'{"run_id": "\\u001b]0;x\\u0007", "user": "\\u009b2J", "since_s": "x", "workspace": "\\u0000"}',
           json.dumps({"run_id": "x" * 4000}).encode()]


@pytest.mark.parametrize("content", HOSTILE)
def test_what_a_lock_file_says_is_shown_escaped_and_never_believed(held, content):
    locks = held.workspace / "locks"
    held.running("a", visible="0", processes=1)
    (locks / "gpu-0").write_bytes(content)
    (held.workspace / "runs" / f".gpu-{os.uname().nodename}-0").write_bytes(content)
    said = held.refused("b", visible="0", processes=1)
    assert said.startswith("not started: GPU 0 is held by ")
    assert said.strip().isprintable()
    assert len(said) < 400
    (holder,) = held.asked("0", processes=1)
    assert lease.words(holder).isprintable()


@pytest.mark.parametrize("holder", [
    {}, {"what": 5, "run_id": [], "user": {}, "since_s": True}, {"what": "\x1b[2J", "since_s": -1e300},
    {"what": "GPU 0", "problem": "\r\n\x1b"}, {"what": "w" * 9999, "run_id": "r" * 9999, "since_s": float("nan")}])
def test_words_of_a_holder_are_a_line_whatever_the_host_says(holder):
    said = lease.words(holder)
    assert said.isprintable()
    assert len(said) < 600
    assert lease.run_of([holder]) == ""


def test_a_running_training_starts_its_ranks_whatever_was_written_into_its_lock(held, monkeypatch):
    held.running("a", visible="0", processes=1)
    (held.workspace / "locks" / "gpu-0").write_text('{"run_id": "another", "since_s": 1e300}')
    assert joined(held, "a") == "up\n"


def joined(held, run_id, visible="0"):
    """What a rank of the run says that starts now."""
    folder = held.workspace / "runs" / run_id
    files = list(lease.claims(config(held.workspace, run_id, processes=1), visible, {}, str(held.workspace / "locks")))
    env = {**held.env, "RDTOPS_LEASE": run_id, "RDTOPS_LEASE_FILES": json.dumps(files)}
    program = f"from rdtops.contract import lease; lease.join({run_id!r}); print('up')"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, cwd=folder,
                          check=False)
    return done.stdout or done.stderr


def test_a_rank_of_a_run_that_nobody_holds_any_more_is_late_where_another_has_its_gpu(held):
    first = held.running("a", visible="0", processes=1)
    first.kill()
    first.wait()
    held.running("b", visible="0", processes=1)
    assert "is held by b (" in joined(held, "a")


@pytest.mark.parametrize("name", ["gpu-0", "gate"])
def test_a_lock_that_is_none_is_named_with_its_owner_and_a_way_out(held, name):
    locks = held.workspace / "locks"
    locks.mkdir()
    os.mkfifo(locks / name)
    said = held.refused("a", visible="0", processes=1)
    assert "cannot be locked: " in said
    assert f"{locks / name} is a FIFO of " in said
    assert "Traceback" not in said
    (holder,) = json.loads((held.workspace / "runs" / "a" / lease.REFUSAL).read_text())
    assert holder["problem"]
    assert held.asked("0", processes=1) == [holder]


def test_a_training_on_cpus_asks_nobody_outside_of_its_workspace(held):
    os.mkfifo(held.workspace / "locks")
    held.running("a", device="cpu")


def test_trainings_of_one_workspace_never_share_a_gpu_whatever_becomes_of_the_common_locks(held):
    held.running("a", visible="0", processes=1)
    for lock in (held.workspace / "locks").iterdir():
        lock.unlink()
    assert "GPU 0 is held by a (" in held.refused("b", visible="0", processes=1)


# --- the folder of everybody's locks ---

@pytest.fixture
def parents(tmp_path, monkeypatch):
    found = [tmp_path / "run", tmp_path / "tmp"]
    for parent in found:
        parent.mkdir()
        parent.chmod(0o1777)
    monkeypatch.setattr(lease, "PARENTS", tuple(map(str, found)))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RDTOPS_LOCKS", raising=False)
    return found


def test_everybodys_locks_are_made_for_everybody_whatever_the_umask(parents):
    before = os.umask(0o077)
    try:
        folder, note = lease.common_folder()
        (descriptor,) = lease.take({f"{folder}/gpu-0": "GPU 0"}, {}, f"{folder}/gate")
    finally:
        os.umask(before)
    os.close(descriptor)
    assert (folder, note) == (f"{parents[0]}/rdtops", "")
    assert [Path(folder, name).stat().st_mode & 0o7777 for name in ("", "gate", "gpu-0")] == [0o1777, 0o666, 0o666]
    assert lease.common_folder() == (folder, "")


def a_file(path):
    path.write_text("")


def not_sticky(path):
    path.mkdir()
    path.chmod(0o777)


def of_one_user(path):
    path.mkdir(0o755)


def with_a_gate_of_one_user(path):
    path.mkdir()
    path.chmod(0o1777)
    (path / "gate").touch(0o600)


@pytest.mark.parametrize("spoil", [a_file, not_sticky, of_one_user, with_a_gate_of_one_user, os.mkfifo,
                                   lambda path: path.symlink_to("/")])
def test_a_common_folder_that_is_of_no_use_is_passed_over_and_named(parents, tmp_path, spoil):
    spoil(parents[0] / "rdtops")
    folder, note = lease.common_folder()
    assert folder == f"{parents[1]}/rdtops"
    assert note.startswith(f"{parents[0]}/rdtops")
    assert f"GPUs are locked in {folder}" in note
    assert "\n" not in note
    spoil(parents[1] / "rdtops")
    folder, note = lease.common_folder()
    assert folder == f"{tmp_path}/home/.rdtops-locks"
    assert "only your own trainings are seen" in note
