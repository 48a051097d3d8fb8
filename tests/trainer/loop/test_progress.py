from __future__ import annotations

import time

import pytest
import torch

from rdtops.contract import model_flops
from rdtops.contract.config import override, preset
from rdtops.trainer.loop.phase_timer import NAMES, Phases
from rdtops.trainer.loop.progress import Progress

CPU = torch.device("cpu")


def progress(*settings: str) -> Progress:
    return Progress(override(preset("tiny"), settings), CPU, Phases(CPU))


def steps_told(made: Progress, steps: int, pause_s: float = 0) -> list[int]:
    told = []
    for step in range(1, steps + 1):
        time.sleep(pause_s)
        if made.step(step, 1.0, 1e-3, 1.0):
            told.append(step)
    return told


def test_the_first_the_last_and_every_tenth_step_are_told() -> None:
    assert steps_told(progress("log_every_steps=10", "max_steps=25"), 25) == [1, 10, 20, 25]


def test_slow_steps_are_told_by_the_clock_as_well() -> None:
    assert steps_told(progress("log_every_steps=10", "max_steps=25", "log_every_s=0.25"), 9, 0.1) == [1, 4, 7]
    assert steps_told(progress("log_every_steps=10", "max_steps=25", "log_every_s=0"), 9, 0.1) == [1]


def test_what_is_told_are_means_since_the_last_time() -> None:
    made = progress("log_every_steps=2", "max_steps=9")
    made.step(1, 9.0, 1e-3, 1.0)
    assert made.step(2, 1.0, 1e-3, 5.0)["loss"] == 1
    made.step(3, 1.0, 1e-3, float("inf"))  # fp16 skips such a step
    told = made.step(4, 2.0, 1e-3, 3.0)
    assert (told["loss"], told["grad_norm"], told["samples"]) == (1.5, 3.0, 32)


def test_a_save_slows_down_neither_the_pace_nor_what_is_left() -> None:
    """The step after a checkpoint is told alone, with all the time of the save and of the held-out samples."""
    made = progress("log_every_steps=1", "max_steps=1000", "checkpoint_every_steps=10")
    told = {}
    for step in range(1, 13):
        time.sleep(0.3 if step == 1 else 0.02)
        if step == 11:
            for phase in ("evaluation", "save"):
                with made.phases(phase):
                    time.sleep(0.15)
        told[step] = made.step(step, 1.0, 1e-3, 1.0)
    assert told[11]["step_s"] > 0.3
    assert told[11]["samples_per_s"] == pytest.approx(told[10]["samples_per_s"], rel=0.5)
    assert told[1]["eta_s"] > 0.3 * 990
    assert told[10]["eta_s"] < 0.05 * 990  # the first step, which is slow, is not usual
    assert told[11]["eta_s"] == pytest.approx(told[12]["eta_s"], rel=0.2)
    assert told[11]["eta_s"] < 0.1 * 990


def test_phases_are_timed_and_taken_once() -> None:
    phases = Phases(CPU)
    for name, pause_s in (("data", 0.02), ("forward", 0.05), ("data", 0.02)):
        with phases(name):
            time.sleep(pause_s)
    taken = phases.take()
    assert set(taken) == set(NAMES)
    assert 0.04 <= taken["data"] < 0.2
    assert 0.05 <= taken["forward"] < 0.2
    assert taken["backward"] == 0
    assert set(phases.take().values()) == {0.0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_its_own_time_counts_and_nobody_waits_for_it() -> None:
    phases, x = Phases(torch.device("cuda")), torch.randn(8192, 8192, device="cuda")
    began_s = time.perf_counter()
    with phases("forward"):
        for _ in range(50):
            x = x @ x
    queued_s = time.perf_counter() - began_s
    torch.cuda.synchronize()
    assert queued_s < 0.5 * phases.take()["forward"]


def test_useful_flops_are_those_of_samples_and_of_frames_that_were_encoded() -> None:
    made = progress("log_every_steps=2", "max_steps=9", "gradient_accumulation_steps=2")
    made.step(1, 1.0, 1e-3, 1.0)
    told = {}
    for frames in (0, 16):
        for _ in range(2):
            made.encoded(frames)
        time.sleep(0.2)
        told[frames] = made.step(2, 1.0, 1e-3, 1.0)
    samples = 2 * model_flops.training_flops("tiny", 4, words=0)
    for frames, data in told.items():
        useful = samples + model_flops.encoding_flops("tiny", 2 * frames)
        assert data["tflop_per_s"] == pytest.approx(useful / data["step_s"] / 1e12, rel=0.05)
        assert (data["mfu"], data["memory_reserved_mib"]) == (None, None)  # of a CPU
    assert told[16]["tflop_per_s"] > told[0]["tflop_per_s"]


def test_on_a_known_gpu_they_are_a_share_of_its_peak(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A800-SXM4-80GB")
    for name, mib in (("max_memory_allocated", 30_000), ("max_memory_reserved", 34_000)):
        monkeypatch.setattr(torch.cuda, name, lambda _, mib=mib: mib << 20)
    made = Progress(override(preset("rdt_1b"), ["log_every_steps=1"]), torch.device("cuda", 0), Phases(CPU), words=20)
    time.sleep(0.1)
    told = made.step(1, 1.0, 1e-3, 1.0)
    assert told["mfu"] == pytest.approx(told["tflop_per_s"] / 312, rel=0.01)
    assert told["mfu"] > 1  # a step that computes nothing
    assert (told["memory_mib"], told["memory_reserved_mib"]) == (30_000, 34_000)


class FakeStream:
    """A CUDA stream that works for some time behind the process; its events have the methods of torch's."""

    free_s = 0.0

    def queue(self, seconds: float) -> None:
        self.free_s = max(self.free_s, time.perf_counter()) + seconds

    def event(self, **_: object) -> FakeEvent:
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, stream: FakeStream) -> None:
        self.stream = stream

    def record(self) -> None:
        self.at_s = max(self.stream.free_s, time.perf_counter())

    def query(self) -> bool:
        return time.perf_counter() >= self.at_s

    def elapsed_time(self, later: FakeEvent) -> float:
        return 1000 * (later.at_s - self.at_s)


def test_a_save_lasts_until_the_stream_has_made_its_copies(monkeypatch) -> None:
    stream = FakeStream()
    monkeypatch.setattr(torch.cuda, "Event", stream.event)
    phases = Phases(torch.device("cuda", 0))
    with phases("save"):  # the process goes on at once
        stream.queue(0.3)
    with phases("forward"):
        stream.queue(0.1)
    assert phases.take()["save"] == 0  # not known yet
    time.sleep(0.5)
    taken = phases.take()
    assert (taken["save"], taken["forward"]) == (pytest.approx(0.3, abs=0.05), pytest.approx(0.1, abs=0.05))
    with phases("save"):
        time.sleep(0.2)  # the process itself waits: for the save before, say
    assert phases.take()["save"] == pytest.approx(0.2, abs=0.05)
