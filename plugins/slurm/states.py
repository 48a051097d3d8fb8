"""Interpret Slurm's states of a job. Pure: from the facts of slurm_on_host to a JobState."""

from __future__ import annotations

from collections.abc import Mapping

from rdtops.api import Cause, JobState, Phase

from . import batch

# state of an ended job -> why it ended, and how to say it
_ENDS = {
    "CANCELLED": (Cause.CANCELLED, "was cancelled (scancel, by you or by an administrator)"),
    "PREEMPTED": (Cause.PREEMPTED, "was preempted by a job of higher priority and not requeued"),
    "TIMEOUT": (Cause.TIMED_OUT, "reached its time limit"),
    "DEADLINE": (Cause.TIMED_OUT, "reached its deadline"),
    "NODE_FAIL": (Cause.NODE_FAILED, "lost a node: it failed, or does not respond to Slurm"),
    "BOOT_FAIL": (Cause.NODE_FAILED, "got a node that did not boot"),
    "OUT_OF_MEMORY": (Cause.OUT_OF_MEMORY, "used more memory than it was allocated"),
    "COMPLETED": (Cause.NONE, "ended by itself"),
    "FAILED": (Cause.NONE, "ended by itself, with an error"),
}
# reason of a waiting job -> what to say
_HELD = {"JobHeldUser": "held by you", "JobHeldAdmin": "held by an administrator", "JobHoldMaxRequeue": "held: it was "
         "requeued too often", "launch_failed_requeued_held": "held: a node could not start it",
         "launch failed requeued held": "held: a node could not start it"}
_WAITS = {
    "Priority": "jobs of higher priority are ahead of it",
    "Resources": "no nodes are free",
    "None": "Slurm has not considered it yet",
    "BeginTime": "it was requeued; Slurm delays such a job by two minutes",
    "Dependency": "another job must end first",
    "PartitionTimeLimit": "its time limit is above that of the partition: it will never start",
    "PartitionNodeLimit": "it requests more nodes than the partition allows: it will never start",
    "PartitionConfig": "the partition does not allow what it requests: it will never start",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition accepts no jobs",
    "InvalidAccount": "its account is not valid", "InvalidQOS": "its QOS is not valid",
    "ReqNodeNotAvail": "nodes that it requests are not available",
}
_NEVER = ("PartitionConfig", "PartitionTimeLimit", "PartitionNodeLimit", "InvalidAccount", "InvalidQOS",
          "BadConstraints")
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING", "CONFIGURING")


def job_state(facts: Mapping[str, str], host: str) -> JobState:
    """Return the state by the facts. Without facts the job was never submitted."""
    number, state = facts.get("id", ""), facts.get("state", "")
    job = f"job {number}"
    if not number:
        return JobState(Phase.ABSENT)
    if facts.get("problem"):
        return JobState(Phase.UNKNOWN, id=number, words=f"Slurm gives no state of {job}: {facts['problem']}",
                        remedy=f"scontrol ping   # on {host}: is its controller up? {job} runs without it")
    if state in _RUNNING:
        return _running(job, number, state, facts)
    if state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "REQUEUE_FED", "RESV_DEL_HOLD"):
        return _waiting(job, number, state, facts, host)
    if facts.get("ended_note") == batch.NO_PROGRESS:
        return _without_progress(job, number, host)
    if not state:
        return _forgotten(job, number, facts, host)
    cause, words = _ENDS.get(state, (Cause.NONE, f"ended as {state}"))
    return JobState(Phase.ENDED, _not_started(cause, state, facts), number, f"{job} {words}{_where(facts)}",
                    "" if state == "COMPLETED" else f"scontrol show job {number}   # on {host}; or: sacct -j {number}")


def _running(job: str, number: str, state: str, facts: Mapping[str, str]) -> JobState:
    again = f", requeued {facts['restarts']} times" if facts.get("restarts", "0") not in ("0", "") else ""
    what = {"RUNNING": "runs", "COMPLETING": "is ending", "CONFIGURING": "is preparing its nodes",
            "SUSPENDED": "is suspended by Slurm"}.get(state, f"is {state}")
    left = f", {facts['left']} of its time left" if facts.get("left") and state == "RUNNING" else ""
    return JobState(Phase.RUNNING, id=number, words=f"{job} {what}{_where(facts)}{left}{again}")


def _waiting(job: str, number: str, state: str, facts: Mapping[str, str], host: str) -> JobState:
    reason = facts.get("reason", "").partition(",")[0].strip("()")
    if reason in _HELD or "HOLD" in state or "SPECIAL" in state:
        words = _HELD.get(reason, f"held ({reason or state})")
        return JobState(Phase.QUEUED, Cause.HELD, number, f"{job} is {words}",
                        f"scontrol release {number}   # on {host}")
    words = _WAITS.get(reason, f"it waits ({facts.get('reason', '')})")
    start = facts.get("start", "")
    expected = f"; Slurm expects to start it at {start}" if start and start not in ("N/A", "Unknown") else ""
    remedy = (f"inv stop --host {host}; then correct [hosts.{host}.plugins.slurm] and launch again" if reason in _NEVER
              else f"squeue --start -j {number}   # on {host}")
    return JobState(Phase.QUEUED, Cause.WAITS, number, f"{job} is queued: {words}{expected}", remedy)


def _without_progress(job: str, number: str, host: str) -> JobState:
    """Return the state of a job that job.sbatch did not requeue, since it would begin for ever."""
    words = f"{job} reached its time limit again without a new checkpoint or trial, and was not requeued"
    return JobState(Phase.ENDED, Cause.TIMED_OUT, number, words,
                    f"set time or save_before_limit_s under [hosts.{host}.plugins.slurm] in hosts.toml, then: "
                    f"inv train --host {host} --resume RUN")


def _forgotten(job: str, number: str, facts: Mapping[str, str], host: str) -> JobState:
    """Return the state of a job without one: without accounting Slurm forgets an ended job in minutes (MinJobAge)."""
    if facts.get("ended_note"):  # its shell got SIGTERM, so the job did not end by itself
        return JobState(Phase.ENDED, Cause.CANCELLED, number, f"{job} was ended by Slurm (cancelled, preempted, or out "
                        "of time), which has no record of why", f"ask the administrator of the cluster about {job}")
    return JobState(Phase.ENDED, Cause.FORGOTTEN, number, f"Slurm has no record of {job}", f"inv logs --host {host}")


def _not_started(cause: Cause, state: str, facts: Mapping[str, str]) -> Cause:
    """Return NOT_STARTED for a batch script that could not be run."""
    reason = facts.get("reason", "")
    return Cause.NOT_STARTED if state == "FAILED" and "launch" in reason.lower() else cause


def _where(facts: Mapping[str, str]) -> str:
    return f" on {facts['nodes']}" if facts.get("nodes") else ""
