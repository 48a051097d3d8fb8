"""Launcher: start a job on a host so that it outlives the connection, tell its state, and stop it.

tmux and setsid are bundled (rdtops.runs.detached), Slurm is a plugin (plugins/slurm). docs/clusters.md says how to
write one for another scheduler; `python -m rdtops.testing.conform NAME` tests the guarantees below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection


@dataclass(frozen=True)
class Job:
    """A script in its own folder, which is visible on every machine where the job runs.

    The script writes its log, and `exit` (its exit code) beside itself when it ends. A file `stop` beside it means that
    a stop was requested.
    """

    name: str  # unique on this host
    script: PurePosixPath  # for sh
    log: PurePosixPath
    tag: str  # NAME=value, in the environment of every process of the job
    processes: int = 1  # of all nodes together
    uses_gpus: bool = False
    spreads: bool = False  # its program goes through Launcher.spread, so that it may use several nodes

    @property
    def folder(self) -> PurePosixPath:
        return self.script.parent

    def file(self, name: str) -> str:
        return str(self.folder / name)


@dataclass(frozen=True)
class Spread:
    """A program for several nodes, in two pieces; the options of each node go between them: `--num_machines`,
    `--machine_rank`, `--main_process_ip`, `--main_process_port`, as `accelerate launch` names them.

    `launch` ends with its own options (rdtops.trainer.process_group), `program` begins with `-m`.
    """

    launch: Command
    program: Command

    def alone(self) -> Command:
        """Return the command for one machine, on a free port: two jobs on a host must not use the same."""
        return Command(*self.launch.argv, "--num_machines", "1", "--main_process_port", "0", *self.program.argv)


class Phase(str, Enum):
    ABSENT = "absent"  # never submitted here, as far as the launcher knows
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"  # the scheduler does not answer: it may be running


class Cause(str, Enum):
    """Why a job is not running, where the launcher knows more than the job's own exit code."""

    NONE = ""  # it ended by itself: see its exit code
    WAITS = "waits"
    HELD = "held"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    TIMED_OUT = "timed_out"
    NODE_FAILED = "node_failed"
    OUT_OF_MEMORY = "out_of_memory"
    NOT_STARTED = "not_started"  # the launcher could not run the script
    FORGOTTEN = "forgotten"  # it ended, and the scheduler no longer knows how


@dataclass(frozen=True)
class JobState:
    """One job at one moment. `words` is a line for people, `remedy` the next command."""

    phase: Phase
    cause: Cause = Cause.NONE
    id: str = ""  # the launcher's own: a job number
    words: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Submitted:
    """The result of a submit. `already`: the job was running or queued, and nothing was started."""

    words: str  # "tmux", "Slurm job 4711"
    already: bool = False
    note: str = ""  # a warning for people; the job was started


@dataclass(frozen=True)
class Traits:
    """How launchers differ beside their methods. A launcher may have them as its attribute `traits`; without it,
    `Traits.of` derives them from `is_local`.

    `is_local`: as Launcher.is_local. Preflight checks of the host's memory, GPUs and lease apply to a training, and
    `inv gpu --watch` shows its GPUs.
    `is_scheduled`: a scheduler queues jobs, assigns their GPUs and tells their state. Else a training takes its GPUs by
    the lease (rdtops.contract.lease), and its files and processes tell its state.
    `programs`: one of them must be on the host; the first one that exists is used.
    `detach_keys`: what a person types to leave `attach_line`.
    `detaches_with`: auto, tmux or setsid: our host program starts a training itself, under the same lock under which
    it decides that it may begin. '': it prepares the run folder, and `submit` follows.
    """

    is_local: bool = False
    is_scheduled: bool = True
    programs: tuple[str, ...] = ()
    detach_keys: str = "Ctrl-c"
    detaches_with: str = ""

    @classmethod
    def of(cls, launcher: Launcher) -> Traits:
        own = getattr(launcher, "traits", None)
        return own if isinstance(own, cls) else cls(launcher.is_local, is_scheduled=not launcher.is_local)


@runtime_checkable
class Launcher(Protocol):
    """Start jobs, tell their state and stop them. Every method may raise a HostError or RemoteError; none guesses.

    - A job that was started continues when the connection, the laptop or the sshd of the host ends.
    - A folder's or job's name is always quoted as one word.
    - The answers do not depend on which laptop asks.
    """

    name: str  # as in hosts.toml
    is_local: bool  # the job runs on the same machine that we log in to: its processes and GPUs can be inspected
    # traits: Traits   optional, where the defaults that follow from `is_local` do not apply

    def files(self, job: Job, spread: Spread | None) -> Mapping[str, str]:
        """Return the files to put beside the script, by name; `inv train --dry-run` shows them. Write nothing."""

    def spread(self, job: Job, spread: Spread) -> Command:
        """Return the command that the script runs to start the program on all its nodes."""

    def submit(self, connection: Connection, job: Job) -> Submitted:
        """Start a job exactly once: leave a job of this name that is queued or running alone, and return `already`,
        also when two laptops submit at the same moment or an answer was lost. A job that has ended may be submitted
        again; remove `exit`, `stop` and other traces of the earlier end before it begins.

        Raise RunError when it did not start."""

    def states(self, connection: Connection, jobs: Sequence[Job]) -> Mapping[str, JobState]:
        """Return the state of each of `jobs`, by name, in one round trip. Return RUNNING or ENDED only for what was
        observed: where the scheduler does not answer, return UNKNOWN with the reason."""

    def stop(self, connection: Connection, job: Job, grace_s: float) -> None:
        """Ask a job to save and end, and kill what is left after `grace_s`; 0: kill now, without asking. When it
        returns, none of its processes runs. Remove a queued job from the queue. Raise RunError when something is
        left."""

    def inside(self, connection: Connection, job: Job, command: Command) -> Command:
        """Return the command that runs `command` where the job runs: `nvidia-smi` on its nodes."""

    def start_line(self, job: Job) -> str:
        """Return what a person types on the host to start a job by hand, once its files exist."""

    def attach_line(self, job: Job) -> str:
        """Return a line of sh, for a terminal on the host, that shows a running job."""
