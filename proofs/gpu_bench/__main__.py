"""GPU bench: `python -m proofs.gpu_bench [--only PART] [--budget-s 480]`, on the machine that has the GPU.

Prints a JSON row for each thing that was measured, beside what was expected of it (CardRow). Everything it needs it
makes: demonstrations, encoders and weights of full size with random content. Needs the trainer's packages, 10 GB of
disk (30 for a checkpoint of rdt-1b) and, for rdt-1b, 35 GB of host memory. One part that fails costs that part.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from proofs.gpu_bench import ceilings, numbers, step_times, whole_runs
from proofs.gpu_bench.card import Card, CardRow
from rdtops.trainer.model.precision import make_reproducible

PARTS: dict[str, Callable[[Card], None]] = {
    "ceilings": ceilings.measure,
    "numbers": numbers.same_as_cpu,
    "bits": numbers.repeats,
    "speed": step_times.measure,
    "resume": whole_runs.resumes,
    "preset": whole_runs.as_a_user,
    "several": whole_runs.several,
    "memory": whole_runs.too_large,
}
BUDGET_S = 480.0


def main(arguments: list[str] | None = None) -> int:
    options = _parsed(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(f"torch {torch.__version__} sees no GPU here\nnext: inv bench gpu --host HOST\n")
        return 1
    make_reproducible()
    if options.device == "cpu":
        torch.set_num_threads(1)
    room = Path(tempfile.mkdtemp(prefix="gpu-bench-", dir=options.folder))
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    card = Card(device, options.model, room, time.monotonic() + options.budget_s)
    try:
        for name in dict.fromkeys(["ceilings", *(n for n in PARTS if options.only in n)]):
            _measured(card, name)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return 1 if any(row.holds is False for row in card.rows) else 0


def _measured(card: Card, part: str) -> None:
    if card.left_s < 20:
        card.tell(CardRow(part, part, "not measured", how="no time was left"))
        return
    card.clear()  # what the part before holds would count as this one's peak
    try:
        PARTS[part](card)
    except Exception as error:  # one part that fails costs that part
        where = traceback.format_exc().strip().splitlines()[-8:-1]
        card.tell(CardRow(part, part, "failed", holds=False, how=f"{type(error).__name__}: {error}"[:300]
                          + f" | {' | '.join(line.strip() for line in where)}"))


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proofs.gpu_bench", description="Measures the trainer on a GPU.")
    parser.add_argument("--model", default="rdt-1b", help="rdt-1b, rdt-170m; tiny, to try the bench itself")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu, to try the bench itself")
    parser.add_argument("--only", default="", help=f"parts whose name has this word: {', '.join(PARTS)}")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="what does not fit into it is left out")
    parser.add_argument("--folder", help="for models and runs, 10 to 30 GB; default: the system's for temporary files")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
