"""Diagnosis of a run, or an attempt, that has ended."""

from __future__ import annotations

from dataclasses import replace

from rdtops.contract.diagnosis.attribution import attribute, exit_code, explained, named, of_disk, of_gpu
from rdtops.contract.diagnosis.causes import LOGS, RESUME, Diagnosis, filled, with_host
from rdtops.contract.diagnosis.evidence import Evidence
from rdtops.contract.diagnosis.messages import Kind, Line, Message
from rdtops.contract.journal import Event

# Errors about another rank's error. The last two are the names in older Journals
SECONDHAND = ("PeerFailed", "AlreadyReported", "PeerLost", "ToldByAnother")
# causes of which the trainer's own words say more: its error is the summary, its remedy the next command
TOLD = ("missing_asset", "bad_sample", "environment", "no_permission", "config", "wrong_weights", "not_finite",
        "file_locked")


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the first cause that the evidence shows; the surest are tried first."""
    for rule in (_never_begun, _finished, _requested, _stuck, _reported, attribute, of_disk, of_gpu, _lost, _exit):
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
    error, exception = str(event.data.get("error", "")), str(event.data.get("type", ""))
    message = Message(Kind.EXCEPTION, tuple(Line("", 0, text) for text in error.split("\n")), exception)
    found = named(message, evidence)
    assert found  # an exception is a bug at least
    if found.cause in ("out_of_gpu_memory", "out_of_host_memory") and event.data.get("training") is False:
        found = replace(found, cause="model_too_big", restart=False,
                        summary="the weights, their EMA and Adam's moments alone do not fit into memory",
                        next=filled(RESUME + " --set sharding=fsdp2   # or more memory", evidence))
    if found.cause in TOLD and error:
        found = replace(found, summary=error)
    if following := _remedy(str(event.data.get("remedy", "")), found.cause, evidence):
        found = replace(found, next=following)
    return explained(replace(found, lines=(line,)), evidence, message)


def _remedy(told: str, cause: str, evidence: Evidence) -> str:
    """Return the trainer's remedy as what to type for this run and host; '' where the cause's own says more."""
    resume = filled(RESUME, evidence)
    for beginning in ("inv train --resume RUN", "inv train", ""):
        settings = told.removeprefix(beginning).lstrip()
        if told.startswith(beginning) and settings.startswith("--set "):
            return f"{resume} {settings}"
    if cause not in TOLD or not told or told.startswith(("inv logs", "inv status")) or "inv train" in told:
        return ""
    command, _, comment = with_host(told, evidence.host).partition("   # ")
    return f"{command}   # {comment}{'; ' if comment else ''}then {resume}"


def _firsthand(evidence: Evidence) -> list[tuple[Line, Event]]:
    return [(line, event) for line, event in evidence.of_kind("failed") if event.data.get("type") not in SECONDHAND]


def _lost(evidence: Evidence) -> Diagnosis | None:
    if evidence.exit_code is not None:
        return None
    last = tuple(line for line, _ in evidence.events[-1:])
    if not evidence.same_boot:
        return _made(evidence, "rebooted", "the host was rebooted while it ran", last, RESUME)
    return _made(evidence, "lost", "all its processes are gone, and no reason was recorded: killed "
                 "together with their launcher", last, RESUME, True)


def _exit(evidence: Evidence) -> Diagnosis | None:
    code = exit_code(evidence)
    line = Line("exit", 0, str(code))
    if code in (126, 127):
        return _made(evidence, "environment", "the program could not be started", (line, *_last_lines(evidence)[-2:]),
                     "inv check --host {host}")
    if code == 2 and not evidence.of_kind("started"):
        return _made(evidence, "config", "the trainer rejected its configuration",
                     (line, *_last_lines(evidence)[-2:]), LOGS)
    if evidence.of_kind("failed"):  # only reports about other ranks: one rank ended without a report
        return _made(evidence, "killed", "a rank ended without an error message, and the others after it",
                     tuple(line for line, _ in evidence.of_kind("failed")[:1]), LOGS, True)
    return None


def _last_lines(evidence: Evidence) -> tuple[Line, ...]:
    return tuple(line for line in evidence.log if line.text.strip())[-3:]


def _made(evidence: Evidence, cause: str, summary: str, lines: tuple[Line, ...], following: str,
          restart: bool = False) -> Diagnosis:
    return Diagnosis(cause, summary, lines, filled(following, evidence), restart)
