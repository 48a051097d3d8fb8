"""Batch: the files for Slurm: job.sbatch, which it runs, and node.sh, which runs on every node. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdtops.api import Command, Job, Spread

BATCH, NODE = "job.sbatch", "node.sh"
REQUEUED = "requeued"  # a file of the job: what it had kept when it was last requeued
NO_PROGRESS = "no progress"  # in the file `ended`
_WARNING = "at its time limit the job has kept nothing since it was last requeued: it is not requeued again"
# how much of its work a job has kept: the step of its newest checkpoint, or the trials that have ended
_CHECKPOINTS = ("sed -n 's/^{\"kind\": \"checkpoint\".*\"step\": \\([0-9]*\\).*/\\1/p' journal.jsonl 2>/dev/null | "
                "sort -n | tail -n 1")
_TRIALS = "cat trials.jsonl 2>/dev/null | wc -l"

_BATCH = """\
#!/bin/sh
{directives}
# Job of {title}: written by rdtops. To submit it by hand: cd to its folder, then: sbatch {batch}
out_of_time=
trap 'out_of_time=1' USR1  # it may come before there is a job
umask go-w
cd {folder} || exit 1
export RDTOPS_LAUNCHER="Slurm job $SLURM_JOB_ID"
RDTOPS_MASTER=$(scontrol show node "$SLURMD_NODENAME" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
export RDTOPS_MASTER RDTOPS_PORT=$((20000 + SLURM_JOB_ID % 12000))  # the nodes meet on the first of them
tell() {{  # a line of the Journal: kind, and more fields
    printf '{{"kind": "%s", "time_s": %s, "launcher": "slurm", "job": "%s", "restarts": %s%s}}\\n' "$1" "$(date +%s)" \\
        "$SLURM_JOB_ID" "${{SLURM_RESTART_COUNT:-0}}" "$2" >> {journal}
}}
tell scheduled ", \\"nodes\\": \\"$SLURM_JOB_NODELIST\\""
rm -f ended

# Slurm's signal before the time limit comes to this shell. Pass it to the supervisor, which then restarts nothing, and
# to the ranks, which save and exit: repeatedly, since a starting rank has no handler yet.
warn() {{
    while kill -0 "$job" 2>/dev/null; do
        [ ! -r supervisor ] || kill -USR1 "$(cut -d' ' -f1 supervisor)" 2>/dev/null
        scancel --signal=USR1 "$SLURM_JOB_ID"
        sleep 15
    done
}}
trap 'out_of_time=1; warn & ' USR1
# On cancellation, preemption or the time limit. Slurm forgets in minutes how a job ended; this file stays.
trap 'date +%s > ended' TERM
{command} &
job=$!
[ -z "$out_of_time" ] || warn &
while kill -0 "$job" 2>/dev/null; do wait "$job"; code=$?; done
if [ -n "$out_of_time" ] && [ "$code" -ne 0 ] && [ ! -e stop ]; then
    kept=$({kept})
    if [ "${{kept:-0}}" = "$(cat {requeued} 2>/dev/null)" ]; then  # it came back, and has kept nothing since
        echo {no_progress} > ended
        tell warning ", \\"message\\": \\"{warning}\\""
        exit "$code"
    fi
    echo "${{kept:-0}}" > {requeued}
    tell requeued ""
    for again in 1 2 3 4 5; do
        scontrol requeue "$SLURM_JOB_ID" && exec sleep 600  # Slurm ends the sleep: the job is requeued
        sleep 10
    done
fi
exit "$code"
"""
_NODE = """\
#!/bin/sh
# One node of {title}: run by srun, once on each.
trap '' USR1  # for the ranks only; their launcher would die
exec {launch} \\
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \\
    --main_process_ip "$RDTOPS_MASTER" --main_process_port "$RDTOPS_PORT" \\
    {program}
"""


def job_name(job: Job) -> str:
    """Return the job's name in Slurm."""
    return f"rdtops-{job.name.replace('/', '--')}"


def batch(job: Job, options: Mapping[str, Any]) -> str:
    """Return job.sbatch. A job over several nodes starts its own steps; any other is a step of one task."""
    line = Command("sh", str(job.script)) if job.spreads else Command("srun", "--ntasks=1", "--nodes=1", "sh",
                                                                     str(job.script))
    return _BATCH.format(directives="\n".join(f"#SBATCH {words}" for words in directives(job, options)),
                         title=job.name, batch=BATCH, folder=_quoted(str(job.folder)), command=line.shell(),
                         journal="journal.jsonl" if job.spreads else "/dev/null",
                         kept=_CHECKPOINTS if job.spreads else _TRIALS, requeued=REQUEUED, no_progress=NO_PROGRESS,
                         warning=_WARNING)


def node(job: Job, spread: Spread) -> str:
    return _NODE.format(title=job.name, launch=spread.launch.shell(), program=spread.program.shell())


def step(job: Job, options: Mapping[str, Any]) -> Command:
    """Return the srun of node.sh on every node. Slurm gives the number of CPUs to a job, not to its steps."""
    nodes = str(nodes_of(job, options))
    return Command("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", *_cpus(options),
                   "--kill-on-bad-exit=1", "--input=none", "sh", job.file(NODE))


def directives(job: Job, options: Mapping[str, Any]) -> list[str]:
    """Return what follows #SBATCH, line by line; the user's own lines come last and override."""
    nodes = nodes_of(job, options)
    gpus = gpus_per_node(job, options)
    kind = f"{options['gpu_type']}:" if options["gpu_type"] else ""
    lines = [f"--job-name={_quoted(job_name(job))}", "--output=slurm.log", "--open-mode=append",
             f"--nodes={nodes}", "--ntasks-per-node=1", *_cpus(options)]
    lines += [f"--gres=gpu:{kind}{gpus}"] if gpus else []
    lines += [f"--{name}={_quoted(options[name])}" for name in ("partition", "account", "qos", "constraint", "time")
              if options[name]]
    return [*lines, "--requeue", f"--signal=B:USR1@{options['save_before_limit_s']}", *options["sbatch"]]


def requested(option: str, options: Mapping[str, Any]) -> str:
    """Return the value of an option of sbatch: that of the user's own lines, which override, else that of ours."""
    own = [line.partition("=")[2] for line in options["sbatch"] if line.startswith(f"--{option}=")]
    return str(own[-1]).strip("'\"") if own else str(options[option])


def nodes_of(job: Job, options: Mapping[str, Any]) -> int:
    return int(options["nodes"]) if job.spreads else 1


def gpus_per_node(job: Job, options: Mapping[str, Any]) -> int:
    """Return the configured number, else one a process; none for a job on CPUs."""
    if not job.uses_gpus:
        return 0
    return int(options["gpus_per_node"]) or -(-job.processes // nodes_of(job, options))


def _cpus(options: Mapping[str, Any]) -> list[str]:
    return [f"--cpus-per-task={options['cpus_per_node']}"] if options["cpus_per_node"] else []


def _quoted(word: str) -> str:
    return Command(word).shell()
