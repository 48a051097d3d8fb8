"""First frame: build a task's world and draw it once, in a process of its own, before an evaluation is promised.

    python -m rdtops.trainer.simulation.first_frame libero_90 0 128 0

A renderer may crash the process, and a driver may hang: whoever asks is told so in a sentence, within a time limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import rdtops
from rdtops.contract import exit_codes
from rdtops.errors import RdtopsError, SimulatorError
from rdtops.hostlib.fields import loads
from rdtops.trainer.simulation import renderers, simulator
from rdtops.trainer.simulation.simulator import Simulator, Task

LIMIT_S = 600.0  # the first import compiles with numba, and a network file system is slow; here it takes 15 s
RELEASE = Path(rdtops.__file__).parents[1]
WITHOUT_GPU = f"{renderers.GL} = \"osmesa\" in env of [hosts.X] of hosts.toml   # it draws without a GPU"
DARKEST = 2.0  # standard deviation of a picture's pixels, which a picture of nothing has not


@dataclass(frozen=True)
class FirstFrame:
    renderer: str  # egl, device 0 (NVIDIA A100-SXM4-80GB/PCIe/SSE2)
    seconds: float  # to import the simulator, build the world and draw it

    @property
    def note(self) -> str:
        return f"one world was built and drawn in {self.seconds:.0f} s with {self.renderer}"

    def to_json(self) -> dict[str, str | float]:
        return asdict(self)


def draw(task: Task, image_size: int, gpu: int = 0, limit_s: float = LIMIT_S) -> FirstFrame:
    """Draw the first frame of the task's trial 0 in a process of its own. `gpu`: as CUDA counts. Raise SimulatorError
    with the reason, also when that process crashes or hangs."""
    words = [sys.executable, "-X", "faulthandler", "-m", __name__, task.suite, str(task.number), str(image_size),
             str(gpu)]
    try:
        done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(RELEASE)},
                              stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
                              timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise SimulatorError(f"the simulator drew nothing within {limit_s:g} s: the renderer or its driver hangs",
                             remedy=WITHOUT_GPU) from None
    if done.returncode:
        raise _reason(done)
    return FirstFrame(**loads(done.stdout.strip().rpartition("\n")[2]))


def _reason(done: subprocess.CompletedProcess[str]) -> SimulatorError:
    if exit_codes.is_signal(done.returncode):
        where = next((line.strip() for line in done.stderr.splitlines() if line.strip().startswith("File ")), "")
        return SimulatorError(f"the process that drew the first frame ended with {exit_codes.words(done.returncode)}"
                              + (f"; {where}" if where else ""),
                              remedy=WITHOUT_GPU)
    message, _, remedy = done.stderr.strip().rpartition("\nnext: ")
    if message:
        return SimulatorError(message.strip().splitlines()[-1], remedy=remedy)
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return SimulatorError(f"the first frame cannot be drawn: {said[-1] if said else exit_codes.words(done.returncode)}",
                          remedy=f"cd {RELEASE} && {sys.executable} -m {__name__} libero_90 0 128 0   # all of it")


def main(arguments: Sequence[str]) -> int:
    suite, number, image_size, gpu = arguments
    began = time.monotonic()
    try:
        task = simulator.tasks(suite)[int(number)]
        world = Simulator(task, int(image_size), gpu=int(gpu))
        world.begin(task.initial_states()[0], 0)
        if world.images().std() < DARKEST:
            raise SimulatorError(f"the renderer {simulator.renderer().words()} draws empty pictures",
                                 remedy=f"the other of {renderers.GL}={' and '.join(renderers.KINDS)}")
    except RdtopsError as error:
        sys.stderr.write(f"{error}\nnext: {error.remedy}\n")
        return error.exit_code
    drawn = FirstFrame(simulator.renderer().words(), round(time.monotonic() - began, 1))
    sys.stdout.write(json.dumps(drawn.to_json()) + "\n")
    sys.stdout.flush()
    os._exit(0)  # some drivers crash in their own tear-down


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
