"""Diagnosis of a run that is alive: what slows or blocks it."""

from __future__ import annotations

import re
import statistics
from itertools import pairwise

from rdtops.contract.diagnosis.causes import LOGS, RESUME, Diagnosis, filled
from rdtops.contract.diagnosis.evidence import Evidence
from rdtops.contract.diagnosis.messages import Line
from rdtops.contract.journal import Event

RECENT = 20  # step events that are looked at
LARGE_SHARE = 0.3  # of a step's time, for a part that should take almost none
SILENT_TIMES, SILENT_FLOOR_S = 20.0, 60.0
SILENT_START_S = 120.0  # before the first step
SHOWN_STACKS = 4
STACK_HEAD = re.compile("(?:Current thread|Thread) 0x")  # of faulthandler
MAIN_THREAD = "in _run_module_as_main"  # its outermost call
PARTS = ("data", "encode", "forward", "backward", "optimiser", "save", "evaluation")
HELD = {"T": "stopped (SIGSTOP); `kill -CONT` continues it", "t": "held by a debugger",
        "D": "waiting for a disk or a device"}


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the first cause that the evidence shows."""
    for rule in (_silent_start, _between_attempts, _held, _silent, _failed_save, _slow_part, _gpus, _slow_rank):
        if found := rule(evidence):
            return found
    steps = evidence.of_kind("step")
    words = _speed(steps[-1][1]) if steps else "it is starting; there is no step yet"
    return _made(evidence, "healthy", words, tuple(line for line, _ in steps[-1:]),
                 "inv watch --host {host} --run {run}")


def _between_attempts(evidence: Evidence) -> Diagnosis | None:
    ended = evidence.ended_by
    if not ended or evidence.of_kind("started", "step"):
        return None
    wait_s = ended.get("restart_in_s")
    action = "gives up" if wait_s is None else f"restarts it {wait_s:g} s after its end"
    lines = tuple(Line("", 0, str(text)) for text in ended.get("evidence", ()))
    return Diagnosis(str(ended.get("cause")), f"{ended.get('summary')}; the supervisor {action}", lines,
                     str(ended.get("next")), wait_s is not None)


def _held(evidence: Evidence) -> Diagnosis | None:
    odd = [r for r in evidence.ranks if r.get("state") in ("T", "t")]
    if not odd and _silence_s(evidence) > SILENT_FLOOR_S:
        odd = [r for r in evidence.ranks if r.get("state") == "D"]
    if not odd:
        return None
    lines = tuple(Line(f"/proc/{r['pid']}/stat", 0, f"rank {r['rank']} is {HELD[r['state']]}") for r in odd)
    return _made(evidence, "stuck", f"{len(odd)} of {len(evidence.ranks)} ranks make no progress, and the others wait",
                 lines, LOGS + "   # the supervisor will restart it")


def _silent_start(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a silence before the first step, which the supervisor has recorded, or, of an earlier release, which the
    age of the log shows."""
    last = evidence.of_kind("silent", "heard", "attempt_ended")[-1:]
    kind = last[0][1].kind if last else ""
    if kind == "attempt_ended" or evidence.of_kind("step"):
        return None
    if kind == "silent":
        line, event = last[0]
        silent_s = evidence.now_s - event.time_s + (event.data.get("silent_s") or 0.0)
        limit = f"; the supervisor restarts it after {event.data.get('limit_s') or 0:.0f} s"
        lines = (line, *_stacks(evidence))
    else:
        silent_s, limit, lines = min(_silence_s(evidence), evidence.log_age_s), "", _stacks(evidence)
        if silent_s < SILENT_START_S:
            return None
    ranks = "; no rank is running" if not evidence.ranks else ""
    return _made(evidence, "silent", f"nothing was written for {silent_s:.0f} s, and there is no step yet{ranks}",
                 lines, LOGS + f"   # the stacks of its ranks{limit}")


def _stacks(evidence: Evidence) -> tuple[Line, ...]:
    """Return where the main thread of each process was when its stack was last asked for: its innermost call."""
    found, innermost = [], None
    for before, line in pairwise(evidence.log):
        if STACK_HEAD.match(before.text):
            innermost = line
        if MAIN_THREAD in line.text and innermost:
            found.append(innermost)
            innermost = None
    return tuple(found[-SHOWN_STACKS:])


def _silent(evidence: Evidence) -> Diagnosis | None:
    steps = [event for _, event in evidence.of_kind("step")]
    if len(steps) < 2:
        return None
    usual_s = statistics.median(b.time_s - a.time_s for a, b in pairwise(steps))
    silent_s = _silence_s(evidence)
    if silent_s < max(SILENT_FLOOR_S, SILENT_TIMES * usual_s):
        return None
    return _made(evidence, "stuck", f"no event for {silent_s:.0f} s; usually there is one every {usual_s:.1f} s",
                 (evidence.events[-1][0],), LOGS + "   # the supervisor restarts it if this continues")


def _silence_s(evidence: Evidence) -> float:
    return evidence.now_s - max((event.time_s for _, event in evidence.events), default=evidence.now_s)


def _failed_save(evidence: Evidence) -> Diagnosis | None:
    failed = evidence.of_kind("checkpoint_failed")
    saved = evidence.of_kind("checkpoint")
    if not failed or (saved and saved[-1][1].time_s > failed[-1][1].time_s):
        return None
    line, event = failed[-1]
    full = any(words in str(event.data.get("error")) for words in ("No space", "quota", "Errno 28", "Errno 122"))
    return _made(evidence, "disk_full" if full else "no_permission",
                 f"the checkpoint of step {event.data.get('step')} was not saved; training continues: "
                 f"{event.data.get('error')}", (line,),
                 "inv check --host {host}   # free some space before the next checkpoint")


def _slow_part(evidence: Evidence) -> Diagnosis | None:
    share = _shares(evidence)
    line = tuple(line for line, _ in evidence.of_kind("step")[-1:])
    if share.get("data", 0) > LARGE_SHARE:
        train = evidence.train
        workers = f" (now {train.loader_workers})" if train else ""
        return _made(evidence, "slow_data", f"steps wait for samples {share['data']:.0%} of their time", line,
                     f"inv train --host {{host}} --resume {{run}} --set loader_workers=...   # more{workers}; or data "
                     "on a faster disk")
    if share.get("save", 0) > LARGE_SHARE:
        return _made(evidence, "slow_checkpoints", "steps wait for the disk of the checkpoints "
                     f"{share['save']:.0%} of their time", line,
                     RESUME + " --set checkpoint_every_steps=...   # more; or a workspace on a faster disk: inv check")
    return None


def _gpus(evidence: Evidence) -> Diagnosis | None:
    shared = [gpu for gpu in evidence.gpus if gpu.get("others")]
    if shared:
        lines = tuple(Line("nvidia-smi", 0, f"GPU {g['index']}: pid {', '.join(map(str, g['others']))} is not of this "
                           "run") for g in shared)
        return _made(evidence, "shared_gpu", f"other processes use {len(shared)} of its GPUs; the slowest GPU "
                     "slows all ranks", lines, "inv gpu --host {host}")
    hot = [gpu for gpu in evidence.gpus if gpu.get("throttled")]
    if hot:
        lines = tuple(Line("nvidia-smi", 0, f"GPU {g['index']}: {g['throttled']}") for g in hot)
        return _made(evidence, "throttled_gpu", f"{len(hot)} of its GPUs run below their normal clock", lines,
                     "inv gpu --host {host}")
    return None


def _slow_rank(evidence: Evidence) -> Diagnosis | None:
    waits = _shares(evidence).get("wait", 0)
    if waits <= LARGE_SHARE or len(evidence.ranks) < 2:
        return None
    line = tuple(line for line, _ in evidence.of_kind("step")[-1:])
    ranks = tuple(Line(f"/proc/{r['pid']}/stat", 0, f"rank {r['rank']} uses {r['cpu_share']:.0%} of a core")
                  for r in evidence.ranks)
    return _made(evidence, "slow_rank", f"rank 0 waits for another rank {waits:.0%} of the time", (*line, *ranks),
                 "inv gpu --host {host}   # look for a shared or slower GPU or core")


def _shares(evidence: Evidence) -> dict[str, float]:
    """Return the fraction of the recent steps' time by part; `wait` is the time of rank 0 outside of all parts."""
    steps = [event.data for _, event in evidence.of_kind("step")][1:][-RECENT:]  # the first one warms up
    whole_s = sum(float(s.get("step_s") or 0) for s in steps)
    if not whole_s:
        return {}
    parts = {part: sum(float(s.get(f"{part}_s") or 0) for s in steps) / whole_s for part in PARTS}
    return {**parts, "wait": max(0.0, 1 - sum(parts.values()))}


def _speed(event: Event) -> str:
    data = event.data
    return f"training: step {data.get('step')}, {data.get('samples_per_s')} samples/s, {data.get('step_s')} s a step"


def _made(evidence: Evidence, cause: str, summary: str, lines: tuple[Line, ...], following: str) -> Diagnosis:
    return Diagnosis(cause, summary, lines, filled(following, evidence))
