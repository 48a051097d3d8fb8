"""Expectation: the duration of a training, from the step time of an earlier run of the same kind, if any."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rdtops.api import Command, Output, Probe, RunSpec, fields

_ALIKE = ("model", "batch_size_per_process", "num_processes", "gradient_accumulation_steps", "gradient_checkpointing",
          "sharding", "mixed_precision", "device")
_NEWEST = """\
import glob, json, os, sys
root, wanted = sys.argv[1], json.loads(sys.argv[2])
for folder in sorted(glob.glob(os.path.join(glob.escape(root), 'runs', '*')), reverse=True)[:200]:
    files = [os.path.join(folder, name) for name in ('config.json', 'journal.jsonl')]
    try:
        if not all(map(os.path.isfile, files)):  # opening a FIFO may block
            continue
        train = json.load(open(files[0]))['train']
        if any(train.get(key) != value for key, value in wanted.items()):
            continue
        with open(files[1], 'rb') as file:
            file.seek(max(0, os.path.getsize(file.name) - (1 << 18)))
            lines = [line for line in file.read().splitlines() if line.startswith(b'{"kind": "step"')]
        seconds = sorted(json.loads(line)['step_s'] for line in lines)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        continue
    if len(seconds) >= 5:
        print(json.dumps({'run_id': os.path.basename(folder), 'step_s': seconds[len(seconds) // 2]}))
        break
else:
    print('null')
"""


@dataclass(frozen=True)
class Expectation:
    run_id: str
    step_s: float  # the median of its last steps

    def seconds(self, spec: RunSpec) -> float:
        return self.step_s * spec.train.max_steps


def expectation_probe(spec: RunSpec, python: str) -> Probe[Expectation]:
    train = asdict(spec.train)
    wanted = json.dumps({key: train[key] for key in _ALIKE})
    return Probe("expectation", Command(python, "-c", _NEWEST, spec.workspace, wanted).shell(), parse, timeout_s=30)


def parse(output: Output) -> Expectation:
    """Parse the answer. Raises ValueError when no such run exists yet."""
    found = fields.table(fields.loads(output.out or "null"))
    step_s = fields.number(found.get("step_s"))
    if step_s is None:
        raise ValueError("no earlier run of this kind on this host")
    return Expectation(fields.text(found.get("run_id")), step_s)
