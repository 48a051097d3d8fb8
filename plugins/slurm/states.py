"""Interpret Slurm's states of a job. Pure: from the facts that there.py answers with to a JobState."""

from __future__ import annotations

from collections.abc import Mapping

from rdtops.api import Cause, JobState, Phase

# state of an ended job -> why it ended, and how to say it
_ENDS = {
    "CANCELLED": (Cause.CANCELLED, "was cancelled (scancel, by you or by an administrator)"),
    "PREEMPTED": (Cause.PREEMPTED, "was preempted by a job of higher priority and not queued again"),
    "TIMEOUT": (Cause.TIMED_OUT, "ran into its time limit"),
    "DEADLINE": (Cause.TIMED_OUT, "ran into its deadline"),
    "NODE_FAIL": (Cause.NODE_FAILED, "lost a node: it failed, or Slurm no longer hears from it"),
    "BOOT_FAIL": (Cause.NODE_FAILED, "got a node that did not boot"),
    "OUT_OF_MEMORY": (Cause.OUT_OF_MEMORY, "used more memory of the node than it was given"),
    "COMPLETED": (Cause.NONE, "ended by itself"),
    "FAILED": (Cause.NONE, "ended by itself, with an error"),
}
# reason of a waiting job -> what to say
_HELD = {"JobHeldUser": "held by you", "JobHeldAdmin": "held by an administrator", "JobHoldMaxRequeue": "held: it was "
         "queued again too often", "launch_failed_requeued_held": "held: a node could not start it",
         "launch failed requeued held": "held: a node could not start it"}
_WAITS = {
    "Priority": "jobs of higher priority are before it",
    "Resources": "no nodes are free",
    "None": "Slurm has not looked at it yet",
    "BeginTime": "it was queued again; Slurm lets such a job rest for two minutes",
    "Dependency": "another job must end first",
    "PartitionTimeLimit": "its time is more than the partition allows: it will never start",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows: it will never start",
    "PartitionConfig": "the partition does not allow what it asks for: it will never start",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs",
    "InvalidAccount": "its account is not valid", "InvalidQOS": "its QOS is not valid",
    "ReqNodeNotAvail": "nodes that it asks for are not available",
}
_NEVER = ("PartitionConfig", "PartitionTimeLimit", "PartitionNodeLimit", "InvalidAccount", "InvalidQOS",
          "BadConstraints")
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING", "CONFIGURING")


def job_state(facts: Mapping[str, str], host: str) -> JobState:
    """Return the state that the facts mean. Without facts it was never submitted."""
    number, state = facts.get("id", ""), facts.get("state", "")
    job = f"job {number}"
    if not number:
        return JobState(Phase.ABSENT)
    if facts.get("problem"):
        return JobState(Phase.UNKNOWN, id=number, words=f"Slurm does not tell of {job}: {facts['problem']}",
                        remedy=f"scontrol ping   # on {host}: whether its controller is up; the {job} does not need it")
    if state in _RUNNING:
        return _running(job, number, state, facts)
    if state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "REQUEUE_FED", "RESV_DEL_HOLD"):
        return _waiting(job, number, state, facts, host)
    if not state:
        return _forgotten(job, number, facts, host)
    cause, words = _ENDS.get(state, (Cause.NONE, f"ended as {state}"))
    return JobState(Phase.ENDED, _not_started(cause, state, facts), number, f"{job} {words}{_where(facts)}",
                    "" if state == "COMPLETED" else f"scontrol show job {number}   # on {host}; or: sacct -j {number}")


def _running(job: str, number: str, state: str, facts: Mapping[str, str]) -> JobState:
    again = f", queued again {facts['restarts']} x" if facts.get("restarts", "0") not in ("0", "") else ""
    what = {"RUNNING": "runs", "COMPLETING": "is ending", "CONFIGURING": "gets its nodes ready",
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
    remedy = (f"inv stop --host {host}; then mend [hosts.{host}.plugins.slurm] and launch again" if reason in _NEVER
              else f"squeue --start -j {number}   # on {host}")
    return JobState(Phase.QUEUED, Cause.WAITS, number, f"{job} is queued: {words}{expected}", remedy)


def _forgotten(job: str, number: str, facts: Mapping[str, str], host: str) -> JobState:
    """Without accounting Slurm knows an ended job for some minutes (MinJobAge)."""
    if facts.get("ended_note"):  # its shell heard SIGTERM, which is not how a job ends by itself
        return JobState(Phase.ENDED, Cause.CANCELLED, number, f"{job} was ended by Slurm (cancelled, preempted, or out "
                        "of time), which has forgotten why", f"ask who looks after the cluster for the {job}")
    return JobState(Phase.ENDED, Cause.FORGOTTEN, number, f"Slurm no longer knows {job}", f"inv logs --host {host}")


def _not_started(cause: Cause, state: str, facts: Mapping[str, str]) -> Cause:
    """A batch script that could not even be run."""
    reason = facts.get("reason", "")
    return Cause.NOT_STARTED if state == "FAILED" and "launch" in reason.lower() else cause


def _where(facts: Mapping[str, str]) -> str:
    return f" on {facts['nodes']}" if facts.get("nodes") else ""
