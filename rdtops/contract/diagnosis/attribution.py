"""Attribution: which cause the messages of a run show.

The surest message that names a cause decides: the exception of a traceback, then how a program ended, then other lines,
the last first. A line of level INFO or WARNING never decides. Of chained exceptions the last one counts, as it ended
the process; where it names no cause, those that led to it do. A cause that only says how the run ended (EXPLAINED_BY)
is explained by what other messages and the host say. A cause that forbids a restart is not taken from a line that
somebody printed, unless nothing had been trained and it is among the last words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from rdtops.contract.diagnosis.causes import LOGS, RESUME, Diagnosis, filled
from rdtops.contract.diagnosis.evidence import Evidence
from rdtops.contract.diagnosis.messages import Kind, Line, Message
from rdtops.contract.diagnosis.symptoms import EXPLAINED_BY, symptom_of
from rdtops.contract.exit_codes import CRASHES, by_signal

LAST_WORDS = 5  # messages at the end of the log
NEAR = 12  # messages before one: those of the other ranks stand between
ABORTED, TERMINATED = -6, -15  # what a process does after an exception in another thread, and what its launcher does
BY_EXIT_CODE = {2: ("config",), 126: ("environment", "no_permission"), 127: ("environment",)}  # not started
MIN_FREE_BYTES = 16 << 20
OF_A_DEVICE = ("RuntimeError", "AcceleratorError", "OSError", "SystemError", "")  # errors for which GPU or disk may be
ASKS_FOR_WARNINGS = re.compile("nccl(?:System|UnhandledCuda|Internal)Error|unhandled (?:system|cuda) error")
ENDED_BY_LAUNCHER = re.compile(r"Sending process (\d+) closing signal")
PID = re.compile(r"\b[Pp][Ii][Dd]:? (\d+)")
KILLED_WORKER = re.compile("DataLoader worker .*killed by signal: Killed")
NCCL_WARNING = re.compile(r"\bNCCL WARN\b")
APPLICATION_XIDS = ("13", "31", "43", "45")  # of a kernel's own error: the GPU is well


def attribute(evidence: Evidence) -> Diagnosis | None:
    """Return the cause that the log and the exit code show; None where they show none."""
    for message in _surest_first(evidence):
        if found := named(message, evidence):
            return explained(found, evidence, message)
    return None


def _surest_first(evidence: Evidence) -> Iterator[Message]:
    said, exits = list(_said(evidence)), _exits(evidence)
    exceptions = [message for message in said if message.kind is Kind.EXCEPTION]
    own = [message for message in exceptions if not _is_secondhand(message, evidence)]
    root = next((message.rank for message in exits if message.is_root and message.rank is not None), None)
    has_spoken = root is not None and any(message.rank == root for message in own)
    if not has_spoken:  # a signal ends a process at once: the exceptions are those of others
        yield from (ended for ended in exits if ended.exit_code not in (ABORTED, TERMINATED))
    yield from sorted(own, key=lambda message: root is not None and message.rank != root)
    if any(ended.exit_code == ABORTED for ended in exits):  # by its C++ runtime or a watchdog, which say why
        yield from (message for message in said if message.kind in (Kind.ERROR, Kind.EXIT)
                    and symptom_of(message.text))
    yield from exits
    yield from exceptions
    yield from (message for message in said if message.kind in (Kind.ERROR, Kind.PLAIN))


def _said(evidence: Evidence) -> Iterator[Message]:
    """Yield what was said since the training last went on, the last first."""
    return (message for message in reversed(evidence.messages) if not message.is_survived)


def _exits(evidence: Evidence) -> list[Message]:
    """Return how programs ended, the last first: only the first failure that a launcher observed, where it says which;
    then the exit code of the launcher itself."""
    exits = [message for message in _said(evidence) if message.kind is Kind.EXIT]
    roots = [message for message in exits if message.is_root]
    code = evidence.exit_code or 0
    launcher = Message(Kind.EXIT, (Line("exit", 0, str(code)),), exit_code=128 - code if code > 128 else code)
    return [*(roots or exits), *([launcher] if code < 0 or code > 128 else [])]


def exit_code(evidence: Evidence) -> int | None:
    """Return the exit code of the rank that failed first, where its launcher says it, else that of the launcher."""
    codes = [message.exit_code for message in _exits(evidence) if message.exit_code]
    return codes[0] if codes else evidence.exit_code


def _is_secondhand(message: Message, evidence: Evidence) -> bool:
    """Tell whether an exception is about the end of another process."""
    found = named(message, evidence)
    return found is not None and found.cause in ("collective_timeout", "killed")


# the cause that a message names ---------------------------------------------------------------------------------------

def named(message: Message, evidence: Evidence) -> Diagnosis | None:
    """Return the cause that a message names by itself."""
    for shown in _chain(message):
        symptom = symptom_of(shown.text, shown.type)
        if symptom and symptom.cause not in EXPLAINED_BY and (
                symptom.restart or _is_certain(message, symptom.cause, evidence)):
            return symptom.diagnosis(evidence, shown.lines[:1])
    if generals := [general for shown in _chain(message) if (general := _general(shown, evidence))]:
        return generals[-1]  # how another process ended, not that this one missed it
    if message.kind is Kind.EXCEPTION:
        return _made(evidence, "bug", f"unknown error: {message.lines[0].text.strip()[:300]}", message.lines[:1], LOGS)
    return None


def _chain(message: Message | None) -> Iterator[Message]:
    while message:
        yield message
        message = message.cause


def _is_certain(message: Message, cause: str, evidence: Evidence) -> bool:
    """Tell whether a message may forbid a restart."""
    if message.kind in (Kind.EXCEPTION, Kind.EXIT):
        return True
    if causes := BY_EXIT_CODE.get(exit_code(evidence) or 0):
        return cause in causes
    telling = [said for said in _said(evidence) if said.kind not in (Kind.INFO, Kind.WARNING)]
    return not evidence.of_kind("step") and any(said is message for said in telling[:LAST_WORDS])


def _general(message: Message, evidence: Evidence) -> Diagnosis | None:
    """Return a cause that says only how a process ended."""
    symptom = symptom_of(message.text, message.type)
    if symptom and symptom.cause in EXPLAINED_BY:
        return symptom.diagnosis(evidence, message.lines[:1])
    number = -(message.exit_code or 0)
    if number <= 0:
        return None
    who = "a process of the run" if message.rank is None else f"rank {message.rank}"
    summary = f"{by_signal(number)}: {who} ended with exit code {128 + number}"
    if number in CRASHES:
        return _made(evidence, "crashed", summary, message.lines[:1], LOGS + "   # the stack, if it could be written")
    return _made(evidence, "killed", summary, message.lines[:1], RESUME)


# the reason of a cause that says only how the run ended ---------------------------------------------------------------

def explained(found: Diagnosis, evidence: Evidence, message: Message) -> Diagnosis:
    """Return the reason of a cause that says only how the run ended, where something shows one; else the same cause.
    `message`: what showed it."""
    found = _by_exit(found, evidence)
    reasons = EXPLAINED_BY.get(found.cause, ())
    said = list(_said(evidence))
    near = said[:(said.index(message) if message in said else 0) + NEAR]
    for other in said:
        symptom = symptom_of(other.text, other.type)
        if symptom and symptom.cause in reasons and _may_explain(other, message, is_near=other in near):
            return symptom.diagnosis(evidence, (other.lines[0], *found.lines))
    if found.cause == "killed":
        reason = of_oom_killer(evidence) or _of_limit(message, evidence)
        return replace(reason, lines=(*found.lines, *reason.lines)) if reason else found
    if found.cause in ("crashed", "collective_timeout", "gpu_lost"):
        return of_gpu(evidence) or found
    if found.cause == "bug" and message.type in OF_A_DEVICE:
        return of_gpu(evidence) or of_disk(evidence) or found
    return found


def _by_exit(found: Diagnosis, evidence: Evidence) -> Diagnosis:
    """Return how another process ended, where it is why the others lost it."""
    if found.cause != "collective_timeout":
        return found
    # a launcher may see several ends at once and call any of them the first; those that it made itself do not count
    ended = {pid for message in _said(evidence) for pid in ENDED_BY_LAUNCHER.findall(message.text)}
    rows = [message for message in _said(evidence) if message.kind is Kind.EXIT and message.rank is not None
            and not ended.intersection(PID.findall(message.text))]
    return next(filter(None, (_general(message, evidence) for message in (*_exits(evidence), *rows)
                              if message.exit_code not in (ABORTED, TERMINATED))), found)


def _may_explain(other: Message, message: Message, *, is_near: bool) -> bool:
    """Tell whether another message may be the reason of one. NCCL writes its reasons as warnings shortly before, and
    says so."""
    if other.kind is Kind.WARNING:
        return is_near and bool(ASKS_FOR_WARNINGS.search(message.text) and NCCL_WARNING.search(other.text))
    return other.kind in (Kind.EXIT, Kind.ERROR, Kind.PLAIN)


# what the host knows --------------------------------------------------------------------------------------------------

def of_oom_killer(evidence: Evidence) -> Diagnosis | None:
    named_by = tuple(line for line in evidence.kernel if "Killed process" in line.text or "oom-kill" in line.text)
    if not (evidence.oom_kills or (named_by and evidence.oom_kills is None)):
        return None
    counted = Line("/proc/vmstat", 0, f"oom_kill rose by {evidence.oom_kills or 0} since the attempt began")
    return _made(evidence, "oom_killer", "the kernel killed a process of the run because the host's memory ran out",
                 (counted, *named_by[-2:]), "ssh {host} free -g   # what uses it; fewer loader_workers use less; then "
                 + RESUME)


def _of_limit(message: Message, evidence: Evidence) -> Diagnosis | None:
    """Return the usual reason of a SIGKILL to a loader's worker, where the kernel's count of such ends is not known."""
    is_of_worker = any(KILLED_WORKER.search(shown.text) for shown in _chain(message))
    if evidence.oom_kills is not None or not is_of_worker:
        return None
    return _made(evidence, "out_of_host_memory", "a loader's worker was killed, as a limit of memory does; the host or "
                 "the container has too little", (), RESUME + " --set loader_workers=...   # fewer; ssh {host} free -g "
                 "shows what uses the memory")


def of_disk(evidence: Evidence) -> Diagnosis | None:
    free = evidence.disk_free_bytes
    if free is None or (free > MIN_FREE_BYTES and evidence.disk_free_inodes != 0):
        return None
    line = Line("df", 0, f"{free / 1e6:.0f} MB and {evidence.disk_free_inodes} inodes are free")
    return _made(evidence, "disk_full", "the disk of the run folder is full", (line,),
                 "inv check --host {host}   # then free some space and " + RESUME, restart=False)


def of_gpu(evidence: Evidence) -> Diagnosis | None:
    problem, reported = evidence.gpu_problem, Line("nvidia-smi", 0, evidence.gpu_problem)
    if (symptom := symptom_of(problem)) and symptom.cause == "driver_replaced":
        return symptom.diagnosis(evidence, (reported,))
    xid = tuple(line for line in evidence.kernel if "Xid" in line.text
                and not any(f": {number}," in line.text for number in APPLICATION_XIDS))
    if not problem and not xid:
        return None
    return _made(evidence, "gpu_lost", "a GPU failed or is missing", (*((reported,) if problem else ()), *xid[-3:]),
                 "inv gpu --host {host}; inv check --host {host}   # then " + RESUME, restart=not problem)


def _made(evidence: Evidence, cause: str, summary: str, lines: tuple[Line, ...], following: str, *,
          restart: bool = True) -> Diagnosis:
    return Diagnosis(cause, summary, lines, filled(following, evidence), restart)
