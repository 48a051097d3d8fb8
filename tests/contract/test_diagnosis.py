"""What recorded evidence is taken for. `inv drill why` plants causes in real trainings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rdtops.contract.config import preset
from rdtops.contract.diagnosis import Evidence, Line, diagnose
from rdtops.contract.diagnosis.causes import CAUSES
from rdtops.contract.diagnosis.symptoms import EXPLAINED_BY, SYMPTOMS
from rdtops.contract.run import RunSpec

SPEC = RunSpec("20261124-101530-tiny-3fa9", "a800", "now", "/w", "/w/r", "s", {}, preset("rdt_1b"))


def evidence(*log: str, told: tuple[dict[str, Any], ...] = (), **facts: Any) -> Evidence:
    numbered = [(n, json.dumps({"time_s": 1000.0 + n, **event})) for n, event in enumerate(told, 1)]
    return Evidence.of("a800", {
        "run_id": SPEC.run_id, "config": SPEC.to_json(), "journal": numbered, "log": list(enumerate(log, 1)),
        "kernel": [], "exit_code": 1, "alive": False, "launched": True, "stop_requested": False, "same_boot": True,
        "oom_kills": 0, "disk_free_bytes": 10**12, "disk_free_inodes": 10**6, "gpus": [], "gpu_problem": "",
        "ranks": [], "now_s": 2000.0, "ended_by": None, **facts})


def failed(error: str, kind: str, *, training: bool = True, **more: Any) -> dict[str, Any]:
    return {"kind": "failed", "step": 3, "error": error, "remedy": "", "type": kind, "rank": 0, "training": training,
            **more}


LOST = failed("rank 0 lost contact with the other processes: Connection reset by peer", "PeerLost")

# as PyTorch 2.x, NCCL, the kernel and the shell write them
RECORDED = {
    "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of "
    "79.25 GiB of which 1.05 GiB is free.": "out_of_gpu_memory",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "out_of_gpu_memory",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)": "out_of_host_memory",
    "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).":
        "out_of_shared_memory",
    "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory.": "out_of_shared_memory",
    "OSError: [Errno 28] No space left on device": "disk_full",
    "OSError: [Errno 122] Disk quota exceeded: '/data/x'": "disk_full",
    "RuntimeError: CUDA error: unspecified launch failure": "gpu_lost",
    "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered": "gpu_lost",
    "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.  Reboot the system to recover": "gpu_lost",
    "RuntimeError: No CUDA GPUs are available": "gpu_lost",
    "[rank0]:[E1126 ProcessGroupNCCL.cpp:632] [Rank 0] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=812, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600012 milliseconds before timing out.":
        "collective_timeout",
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3384, ncclRemoteError":
        "collective_timeout",
    "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to "
    "complete": "collective_timeout",
    "ModuleNotFoundError: No module named 'diffusers'": "environment",
    "ImportError: /lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found": "environment",
    "ImportError: huggingface-hub>=0.34.0,<1.0 is required for a normal functioning of this module, but found "
    "huggingface-hub==1.1.0.": "environment",
    "there is no conda environment rdt; looked in ~/miniconda3/envs/rdt": "environment",
    "sh: 12: accelerate: not found": "environment",
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: "
    "29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use": "port_in_use",
    "ConnectionError: Tried to launch distributed communication on port `29500`, but another process is utilizing it.":
        "port_in_use",
    "PermissionError: [Errno 13] Permission denied: '/data/runs/x/checkpoints'": "no_permission",
    "OSError: [Errno 30] Read-only file system: '/data/x'": "no_permission",
    "FileNotFoundError: [Errno 2] No such file or directory: '/data/t5-v1_1-xxl/config.json'": "missing_asset",
    "OSError: Unable to synchronously open file (truncated file: eof = 96, sblock->base_addr = 0, stored_eof = 2048)":
        "bad_sample",
    "RuntimeError: Error(s) in loading state_dict for RDT: size mismatch for x_embedder.weight": "wrong_weights",
    "Fatal Python error: Segmentation fault": "crashed",
    "  traceback : Signal 11 (SIGSEGV) received by PID 4242": "crashed",
    "  exitcode  : -9 (pid: 4242)": "killed",
    "traceback : Signal 9 (SIGKILL) received by PID 4242": "killed",
    "ValueError: something of which nobody has heard": "bug",
}


@pytest.mark.parametrize("line", RECORDED)
def test_recorded_words_are_known(line: str) -> None:
    found = diagnose(evidence("step 3/10  loss 0.1", line, "more words", told=(LOST,) if "exitcode" in line else ()))
    assert found.cause == RECORDED[line], found
    if found.cause != "bug":
        assert found.lines == (Line("train.log", 2, line),)


@pytest.mark.parametrize(("error", "kind", "cause"), [
    ("step 7: the loss is not finite; its samples: a.hdf5: demo_1, step 3", "RunError", "not_finite"),
    ("step 7: the loss is finite, the gradient is not (inf)", "RunError", "not_finite"),
    ("/d/a.hdf5: demo_3, step 4: agentview_rgb cannot be read: inflate() failed", "DataError", "bad_sample"),
    ("no *.hdf5 file below /d", "DataError", "missing_asset"),
    ("the weights are not those of rdt-1b: depth is 14", "WeightsError", "wrong_weights"),
    ("sharding = x: must be one of none, zero1, fsdp2", "ConfigError", "config"),
    ("process 4 of this host has no GPU: torch 2.13.0 sees 4", "RunError", "gpu_lost"),
    ("OSError: [Errno 28] No space left on device", "OSError", "disk_full")])
def test_what_a_rank_told_comes_before_the_log(error: str, kind: str, cause: str) -> None:
    found = diagnose(evidence("Permission denied, once, of a cache", told=(LOST, failed(error, kind))))
    assert found.cause == cause
    assert found.lines[0].number == 2
    assert not found.restart


def test_an_error_without_a_name_is_told_in_its_own_words() -> None:
    found = diagnose(evidence("fine", told=(LOST, failed("ZeroDivisionError: division by zero", "ZeroDivisionError"))))
    assert (found.cause, found.restart) == ("bug", True)
    assert found.summary == "unknown error: ZeroDivisionError: division by zero"


def test_memory_that_does_not_hold_the_model_is_no_matter_of_the_batch() -> None:
    told = failed("out of GPU memory: CUDA out of memory", "OutOfMemoryError")
    assert (diagnose(evidence(told=(told,))).cause, diagnose(evidence(told=(told,))).restart) == (
        "out_of_gpu_memory", True)
    setting_up = diagnose(evidence(told=({**told, "training": False},)))
    assert (setting_up.cause, setting_up.restart) == ("model_too_big", False)
    assert "sharding=fsdp2" in setting_up.next


def test_a_remedy_of_the_trainer_is_the_next_command() -> None:
    told = failed("out of GPU memory: CUDA out of memory", "OutOfMemoryError")
    told["remedy"] = "inv train --resume RUN --set batch_size_per_process=2 --set gradient_accumulation_steps=2"
    assert diagnose(evidence(told=(told,))).next == (
        f"inv train --host a800 --resume {SPEC.run_id} --set batch_size_per_process=2 "
        "--set gradient_accumulation_steps=2")


@pytest.mark.parametrize(("error", "kind", "remedy", "following"), [
    ("a.hdf5: no group 'data'", "DataError", "--set without=a.hdf5   # or more",
     "{resume} --set without=a.hdf5   # or more"),
    ("a.hdf5 cannot be read: it is too short", "DataError", "inv deploy --only data   # if your own copy is whole",
     "inv deploy --only data --host a800   # if your own copy is whole; then {resume}"),
    ("rdt has no config.json", "WeightsError", "hf download R x.json", "hf download R x.json   # then {resume}"),
    ("rdt-1b does not fit", "WeightsError", "inv train --set model=tiny", "{resume} --set model=tiny"),
    ("a.hdf5 is locked by a program that has it open for writing (errno 11)", "DataError", "", "ssh a800 lslocks"),
    ("KeyError: x", "KeyError", "inv logs   # see the traceback in train.log", "inv logs --host a800 --run")])
def test_what_the_trainer_advises_is_the_next_command_for_this_run(error, kind, remedy, following) -> None:
    found = diagnose(evidence(told=({**failed(error, kind), "remedy": remedy},)))
    resume = f"inv train --host a800 --resume {SPEC.run_id}"
    assert found.next.startswith(following.replace("{resume}", resume)), found


def test_the_kernel_s_killer_is_told_from_a_person_s_kill() -> None:
    log = ("  exitcode  : -9 (pid: 4242)",)
    named = [(0, "Memory cgroup out of memory: Killed process 4242 (python) total-vm:323784kB")]
    assert diagnose(evidence(*log, told=(LOST,))).cause == "killed"
    found = diagnose(evidence(*log, told=(LOST,), oom_kills=1, kernel=named))
    assert found.cause == "oom_killer"
    assert [line.file for line in found.lines] == ["train.log", "/proc/vmstat", "kernel log"]
    assert diagnose(evidence("fine", told=(LOST,), oom_kills=1)).cause == "killed"  # somebody else's process


@pytest.mark.parametrize(("facts", "told", "cause"), [
    ({"exit_code": 0}, ({"kind": "finished", "step": 10, "loss": 0.1},), "finished"),
    ({"exit_code": None, "launched": False}, (), "prepared"),
    ({"stop_requested": True}, ({"kind": "stopped", "step": 3, "signal": "SIGTERM"},), "stopped"),
    ({}, ({"kind": "stopped", "step": 3, "signal": "SIGUSR1"},), "time_limit"),
    ({"exit_code": None, "same_boot": False}, (), "rebooted"),
    ({"exit_code": None}, (), "lost"),
    ({"exit_code": 137}, (), "killed"),
    ({"exit_code": 127}, (), "environment"),
    ({"exit_code": 2}, (), "config"),
    ({"gpu_problem": "Unable to determine the device handle: GPU is lost"}, (), "gpu_lost"),
    ({"kernel": [(0, "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.")]}, (), "gpu_lost"),
    ({"disk_free_bytes": 4096}, (), "disk_full"), ({"disk_free_inodes": 0}, (), "disk_full"),
    ({}, ({"kind": "stuck", "silent_s": 900, "limit_s": 300, "ranks": [{"rank": 1, "pid": 7, "state": "T"}]},),
     "stuck"),
    ({}, (LOST,), "killed")])
def test_ends_without_words_are_known_by_their_facts(facts, told, cause) -> None:
    assert diagnose(evidence("step 3/10  loss 0.1", told=told, **facts)).cause == cause


def steps(**parts: float) -> tuple[dict[str, Any], ...]:
    shares = {f"{part}_s": parts.get(part, 0.0) for part in (
        "data", "encode", "forward", "backward", "optimiser", "save", "evaluation")}
    return tuple({"kind": "step", "step": n, "step_s": 1.0, "samples_per_s": 8.0, **shares} for n in range(1, 30))


FAST = {"encode": 0.3, "forward": 0.3, "backward": 0.3, "optimiser": 0.1}


@pytest.mark.parametrize(("told", "facts", "cause"), [
    (steps(**FAST), {}, "healthy"),
    ((), {}, "healthy"),
    (steps(data=0.5, backward=0.5), {}, "slow_data"),
    (steps(save=0.5, backward=0.5), {}, "slow_checkpoints"),
    (steps(backward=0.4), {"ranks": [{"rank": r, "pid": r, "state": "R", "cpu_share": 0.5} for r in (0, 1)]},
     "slow_rank"),
    (steps(**FAST), {"gpus": [{"index": "3", "others": [77], "throttled": ""}]}, "shared_gpu"),
    (steps(**FAST), {"gpus": [{"index": "3", "others": [], "throttled": "slowed down by heat (hardware)"}]},
     "throttled_gpu"),
    (steps(**FAST), {"ranks": [{"rank": 1, "pid": 7, "state": "T", "cpu_share": 0.0}]}, "stuck"),
    (steps(**FAST), {"now_s": 1929.0}, "stuck"),
    ((*steps(**FAST), {"kind": "checkpoint_failed", "step": 29, "error": "[Errno 28] No space left on device"}), {},
     "disk_full")])
def test_what_slows_a_run_is_told_while_it_runs(told, facts, cause) -> None:
    found = diagnose(evidence(told=told, **{"alive": True, "exit_code": None, "now_s": 1030.0, **facts}))
    assert found.cause == cause
    assert found.passed is (cause == "healthy")


def test_between_two_attempts_the_end_of_the_last_one_is_told() -> None:
    ended = {"cause": "killed", "summary": "a rank was killed", "evidence": ["train.log:3: -9"], "next": "inv logs",
             "restart_in_s": 20.0}
    found = diagnose(evidence(alive=True, exit_code=None, ended_by=ended))
    assert (found.cause, found.passed) == ("killed", False)
    assert "restarts it 20 s after its end" in found.summary


SOURCE_LINE = (
    "Traceback (most recent call last):",
    '  File "/r/rdtops/trainer/train.py", line 71, in main',
    '  File "/r/rdtops/trainer/train.py", line 71, in main',  # of another rank, at the same moment
    "    return run(spec, journal, stop)",
    "           ^^^^^^^^^^^^^^^^^^^^^^^^",
    '  File "/r/rdtops/trainer/train.py", line 78, in main',
    "    except torch.OutOfMemoryError as error:  # CUDA out of memory",
    "           ^^^^^^^^^^^^^^^^^^^^^^")


@pytest.mark.parametrize("prefix", ["", "[rank1]: "])
@pytest.mark.parametrize(("exception", "cause"), [
    ("AttributeError: module 'torch' has no attribute 'OutOfMemoryError'", "environment"),
    ("ValueError: something of which nobody has heard", "bug"),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_gpu_memory"),
    ("MemoryError", "out_of_host_memory"),
    ("AttributeError: module 'rdtops.trainer.train' has no attribute 'x'", "bug")])
def test_a_source_line_of_a_traceback_is_no_error(prefix: str, exception: str, cause: str) -> None:
    found = diagnose(evidence(*(prefix + line for line in (*SOURCE_LINE, exception))))
    assert found.cause == cause, found


STARTING = ({"kind": "launched"}, {"kind": "attempt", "attempt": 1})
QUIET = {"kind": "silent", "attempt": 1, "silent_s": 121.0, "limit_s": 7200.0, "ranks": []}
STEP = {"kind": "step", "step": 1, "loss": 0.1}


@pytest.mark.parametrize(("told", "log_age_s", "cause"), [
    ((*STARTING, QUIET), 1.0, "silent"),
    ((*STARTING, QUIET, {"kind": "heard", "attempt": 1}), 1.0, "healthy"),
    ((*STARTING, QUIET, STEP), 1.0, "healthy"),
    (STARTING, 1.0, "healthy"),
    (STARTING, 300.0, "silent"),  # of a release whose supervisor does not tell it
    ((*STARTING, QUIET, {"kind": "attempt_ended", "attempt": 1}), 300.0, "healthy")])
def test_a_start_that_says_nothing_for_minutes_is_not_healthy(told, log_age_s: float, cause: str) -> None:
    found = diagnose(evidence("a line", told=told, alive=True, exit_code=None, log_age_s=log_age_s))
    assert found.cause == cause, found
    assert found.passed == (cause == "healthy")
    if QUIET in told and cause == "silent":
        assert "nothing was written for 1118 s, and there is no step yet; no rank is running" in found.summary


def test_every_symptom_is_of_a_named_cause_and_says_what_to_type() -> None:
    assert {symptom.cause for symptom in SYMPTOMS} <= set(CAUSES)
    for symptom in SYMPTOMS:
        assert "{host}" in symptom.next


def test_the_page_of_runs_names_every_cause_that_a_message_shows() -> None:
    page = (Path(__file__).parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
    shown = {*(symptom.cause for symptom in SYMPTOMS), *EXPLAINED_BY}
    assert [cause for cause in shown if f"`{cause}`" not in page] == []


@pytest.mark.parametrize("line", [
    "gpu07:1:1 [0] NCCL INFO NET/Plugin : dlerror=libnccl-net.so: cannot open shared object file: No such file",
    "WARNING:root:No module named 'triton'",
    "Matplotlib: /home/robot/.config is not writable: Permission denied"])
@pytest.mark.parametrize("told", [(), ({"kind": "step", "step": 3},)])
def test_an_ordinary_line_at_the_start_is_not_why_a_rank_was_killed(line, told) -> None:
    found = diagnose(evidence(line, "more", "  exitcode  : -9 (pid: 4242)", told=(*told, LOST)))
    assert (found.cause, found.restart) == ("killed", True)
    silent = diagnose(evidence(line, "more", "more", "more", "more", "more", told=(*told, LOST)))
    assert (silent.cause, silent.restart) == ("killed", True)


@pytest.mark.parametrize(("code", "words"), [
    (139, "a library crashed (SIGSEGV)"), (135, "a library crashed (SIGBUS)"), (137, "killed from outside (SIGKILL)")])
def test_an_exit_code_above_128_is_told_in_words(code: int, words: str) -> None:
    assert words in diagnose(evidence("step 3/10  loss 0.1", exit_code=code)).summary


@pytest.mark.parametrize(("facts", "cause", "restart"), [
    ({"kernel": [(0, "NVRM: Xid (PCI:0000:3b:00): 31, pid=4242, name=python, MMU Fault")]}, "crashed", True),
    ({"kernel": [(0, "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.")]}, "gpu_lost", True),
    ({"gpu_problem": "Failed to initialize NVML: Driver/library version mismatch"}, "driver_replaced", False)])
def test_what_the_kernel_and_nvidia_smi_say_explains_a_crash(facts, cause: str, restart: bool) -> None:
    found = diagnose(evidence("step 3/10  loss 0.1", exit_code=139, **facts))
    assert (found.cause, found.restart) == (cause, restart)


def test_a_bug_of_the_code_is_not_explained_by_a_full_disk() -> None:
    log = ("Traceback (most recent call last):", '  File "/x.py", line 1, in <module>', "{error}: x")
    for error, cause in (("KeyError", "bug"), ("RuntimeError", "disk_full")):
        lines = tuple(line.replace("{error}", error) for line in log)
        assert diagnose(evidence(*lines, disk_free_bytes=4096)).cause == cause


def test_a_config_that_cannot_be_read_hides_nothing() -> None:
    found = diagnose(replace(evidence("there is no venv /x", exit_code=1), train=None))
    assert found.cause == "environment"
