"""Diagnosis of a run, or an attempt, that has ended."""

from __future__ import annotations

from dataclasses import replace

from rdtops.contract.diagnosis.causes import LOGS, RESUME, SYMPTOMS, Diagnosis, filled
from rdtops.contract.diagnosis.evidence import Evidence, Line
from rdtops.contract.journal import Event

BY_TYPE = {  # type of the trainer's error -> cause; its message decides first where it is more specific
    "DataError": "bad_sample", "WeightsError": "wrong_weights", "ConfigError": "config",
    "ImportError": "environment", "ModuleNotFoundError": "environment", "PermissionError": "no_permission",
    "MemoryError": "out_of_host_memory", "OutOfMemoryError": "out_of_gpu_memory"}
# Errors about another rank's error. The last two are the names in older Journals
SECONDHAND = ("PeerFailed", "AlreadyReported", "PeerLost", "ToldByAnother")
GENERAL = ("missing_asset", "bad_sample", "environment", "no_permission", "config", "wrong_weights")
MIN_FREE_BYTES = 16 << 20


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the first cause that the evidence shows; the surest are tried first."""
    for rule in (_never_begun, _finished, _requested, _stuck, _reported, _oom_killer, _logged, _disk, _gpu, _unknown,
                 _lost, _exit):
        if found := rule(evidence):
            return found
    return _made(evidence, "bug", "it ended with an unknown error", _last_lines(evidence), LOGS, True)


def _never_begun(evidence: Evidence) -> Diagnosis | None:
    if evidence.launched or evidence.exit_code is not None:
        return None
    return _made(evidence, "prepared", "it was never launched", (), RESUME)


def _finished(evidence: Evidence) -> Diagnosis | None:
    if evidence.exit_code != 0:
        return None
    return _made(evidence, "finished", "all steps are done",
                 tuple(line for line, _ in evidence.of_kind("finished")[-1:]),
                 "inv fetch-results --host {host} --run {run}")


def _requested(evidence: Evidence) -> Diagnosis | None:
    stopped = evidence.of_kind("stopped")
    if stopped and stopped[-1][1].data.get("signal") == "SIGUSR1" and not evidence.stop_requested:
        return _made(evidence, "time_limit", "it got SIGUSR1 from a scheduler, saved and exited", (stopped[-1][0],),
                     RESUME)
    requested = evidence.of_kind("stop_requested")
    if not (stopped or requested or evidence.stop_requested):
        return None
    by = "`inv stop`" if requested or evidence.stop_requested else str(stopped[-1][1].data.get("signal"))
    saved = "it saved and exited" if stopped else "before there was anything to save"
    return _made(evidence, "stopped", f"stopped by {by}: {saved}",
                 tuple(line for line, _ in [*requested[-1:], *stopped[-1:]]), RESUME)


def _stuck(evidence: Evidence) -> Diagnosis | None:
    found = evidence.of_kind("stuck")
    if not found:
        return None
    line, event = found[-1]
    odd = [f"rank {r.get('rank')} (pid {r.get('pid')}) is {STATES[r['state']]}" for r in event.data.get("ranks") or []
           if str(r.get("state")) in STATES]
    stacks = tuple(s for s in evidence.log if s.text.startswith(("Current thread", "Thread 0x")))[:2]
    return _made(evidence, "stuck", f"no event for {event.data.get('silent_s') or 0:.0f} s, "
                 f"{event.data.get('limit_s') or 0:.0f} s were allowed" + (": " + ", ".join(odd) if odd else ""),
                 (line, *stacks), LOGS + "   # the stacks of all ranks", True)


STATES = {"T": "stopped (SIGSTOP)", "t": "held by a debugger", "D": "waiting for a disk or a device", "Z": "dead"}


def _reported(evidence: Evidence) -> Diagnosis | None:
    """Diagnose the error that a rank wrote into the Journal before it exited."""
    firsthand = _firsthand(evidence)
    if not firsthand:
        return None
    line, event = firsthand[0]
    words = Line("", 0, str(event.data.get("error", "")))
    found = _shown_by((words,), evidence) or _by_type(event, words, evidence)
    if not found:
        return None
    if found.cause in ("out_of_gpu_memory", "out_of_host_memory") and event.data.get("training") is False:
        found = replace(found, cause="model_too_big", restart=False,
                        summary="the weights, their EMA and Adam's moments alone do not fit into memory",
                        next=filled(RESUME + " --set sharding=fsdp2   # or more memory", evidence))
    remedy = str(event.data.get("remedy", ""))
    better = remedy if remedy.startswith("inv train --resume RUN --set") else ""
    following = better.replace("inv train --resume RUN", filled(RESUME, evidence))
    return replace(found, lines=(line,), next=following or found.next,
                   summary=words.text if found.cause in (*GENERAL, "not_finite") and words.text else found.summary)


def _firsthand(evidence: Evidence) -> list[tuple[Line, Event]]:
    return [(line, event) for line, event in evidence.of_kind("failed") if event.data.get("type") not in SECONDHAND]


def _unknown(evidence: Evidence) -> Diagnosis | None:
    """Report the error of a rank when it is not a known one."""
    if not (reported := _firsthand(evidence)):
        return None
    line, event = reported[0]
    return _made(evidence, "bug", f"unknown error: {event.data.get('error')}", (line,), LOGS, True)


def _by_type(event: Event, words: Line, evidence: Evidence) -> Diagnosis | None:
    cause = BY_TYPE.get(str(event.data.get("type", "")))
    symptom = next((s for s in SYMPTOMS if s.cause == cause), None)
    if not symptom:
        return None
    return _made(evidence, symptom.cause, filled(symptom.summary, evidence, words), (words,), symptom.next,
                 symptom.restart)


def _oom_killer(evidence: Evidence) -> Diagnosis | None:
    was_killed = _shown_by(evidence.messages, evidence, only=("killed",)) or evidence.exit_code in (137, -9)
    named = tuple(line for line in evidence.kernel if "Killed process" in line.text or "oom-kill" in line.text)
    if not was_killed or not (evidence.oom_kills or (named and evidence.oom_kills is None)):
        return None
    seen = was_killed.lines if isinstance(was_killed, Diagnosis) else ()
    counted = Line("/proc/vmstat", 0, f"oom_kill rose by {evidence.oom_kills or 0} since the attempt began")
    return _made(evidence, "oom_killer", "the kernel killed a process of the run because the host's memory ran out",
                 (*seen, counted, *named[-2:]), "ssh {host} free -g   # what uses it; fewer loader_workers use less; "
                 "then " + RESUME, True)


def _logged(evidence: Evidence) -> Diagnosis | None:
    return _shown_by(evidence.messages, evidence)


def _shown_by(lines: tuple[Line, ...], evidence: Evidence, only: tuple[str, ...] = ()) -> Diagnosis | None:
    for symptom in SYMPTOMS:
        if only and symptom.cause not in only:
            continue
        seen = symptom.seen_in(lines)
        if seen:
            line, _ = seen
            return _made(evidence, symptom.cause, filled(symptom.summary, evidence, line), (line,), symptom.next,
                         symptom.restart)
    return None


def _disk(evidence: Evidence) -> Diagnosis | None:
    free = evidence.disk_free_bytes
    if free is None or (free > MIN_FREE_BYTES and evidence.disk_free_inodes != 0):
        return None
    line = Line("df", 0, f"{free / 1e6:.0f} MB and {evidence.disk_free_inodes} inodes are free")
    return _made(evidence, "disk_full", "the disk of the run folder is full", (line,),
                 "inv check --host {host}   # then free some space and " + RESUME)


def _gpu(evidence: Evidence) -> Diagnosis | None:
    xid = tuple(line for line in evidence.kernel if "Xid" in line.text)
    if not evidence.gpu_problem and not xid:
        return None
    reported = (Line("nvidia-smi", 0, evidence.gpu_problem),) if evidence.gpu_problem else ()
    return _made(evidence, "gpu_lost", "a GPU failed or is missing", (*reported, *xid[-3:]),
                 "inv gpu --host {host}; inv check --host {host}   # then " + RESUME, not evidence.gpu_problem)


def _lost(evidence: Evidence) -> Diagnosis | None:
    if evidence.exit_code is not None:
        return None
    last = tuple(line for line, _ in evidence.events[-1:])
    if not evidence.same_boot:
        return _made(evidence, "rebooted", "the host was rebooted while it ran", last, RESUME)
    return _made(evidence, "lost", "all its processes are gone, and no reason was recorded: killed "
                 "together with their launcher", last, RESUME, True)


def _exit(evidence: Evidence) -> Diagnosis | None:
    code = evidence.exit_code
    line = Line("exit", 0, str(code))
    if code in (126, 127):
        return _made(evidence, "environment", "the program could not be started", (line, *_last_lines(evidence)[-2:]),
                     "inv check --host {host}")
    if code == 2 and not evidence.of_kind("started"):
        return _made(evidence, "config", "the trainer rejected its configuration",
                     (line, *_last_lines(evidence)[-2:]), LOGS)
    if code is not None and (code < 0 or code > 128):
        number = -code if code < 0 else code - 128
        cause = "crashed" if number in (4, 6, 7, 8, 11) else "killed"
        return _made(evidence, cause, f"the launcher of the ranks was killed by signal {number}", (line,), RESUME, True)
    if evidence.of_kind("failed"):  # only reports about other ranks: one rank ended without a report
        return _made(evidence, "killed", "a rank ended without an error message, and the others after it",
                     tuple(line for line, _ in evidence.of_kind("failed")[:1]), LOGS, True)
    return None


def _last_lines(evidence: Evidence) -> tuple[Line, ...]:
    return tuple(line for line in evidence.log if line.text.strip())[-3:]


def _made(evidence: Evidence, cause: str, summary: str, lines: tuple[Line, ...], following: str,
          restart: bool = False) -> Diagnosis:
    return Diagnosis(cause, summary, lines, filled(following, evidence), restart)
