from __future__ import annotations

import time

import pytest
import torch

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
