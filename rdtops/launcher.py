"""The Launcher: start a job on a host so that it outlives us, and answer for it afterwards.

tmux and setsid are bundled (rdtops.runs.detached), Slurm is a plugin (plugins/slurm). docs/clusters.md says how to
write one for another scheduler; `python -m rdtops.testing.conform NAME` tests the promises below.
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
    """A script in a folder of its own, which is visible from wherever the job runs.

    The script writes its log, and `exit` (its exit code) beside itself when it ends. A file `stop` there means that
    somebody asked for the end.
    """

    name: str  # no other job of this host has it
    script: PurePosixPath  # for sh
    log: PurePosixPath
    tag: str  # NAME=value, in the environment of every process of the job
    processes: int = 1  # of all nodes together
    uses_gpus: bool = False
    spreads: bool = False  # its program goes through Launcher.spread, so that it may take several nodes

    @property
    def folder(self) -> PurePosixPath:
        return self.script.parent

    def file(self, name: str) -> str:
        return str(self.folder / name)


@dataclass(frozen=True)
class Spread:
    """A program for several nodes, in the pieces between which each node says which one it is.

    accelerate: `launch` ends with its own options, `program` begins with `-m`.
    """

    launch: Command
    program: Command

    def alone(self) -> Command:
        """For one machine, on a port that is free: two jobs on a host do not meet."""
        return Command(*self.launch.argv, "--num_machines", "1", "--main_process_port", "0", *self.program.argv)


class Phase(str, Enum):
    ABSENT = "absent"  # never submitted here, as far as the launcher knows
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"  # who could tell does not answer: it may be running


class Cause(str, Enum):
    """Why a job is not running, where the launcher knows more than the job's own exit code."""

    NONE = ""  # it ended by itself: its exit code tells
    WAITS = "waits"
    HELD = "held"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    TIMED_OUT = "timed_out"
    NODE_FAILED = "node_failed"
    OUT_OF_MEMORY = "out_of_memory"
    NOT_STARTED = "not_started"  # the launcher could not run the script
    FORGOTTEN = "forgotten"  # it ended, and nobody remembers how


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
    """`already`: it was there, and nothing was started."""

    words: str  # "tmux", "Slurm job 4711"
    already: bool = False
    note: str = ""  # what a person should know, though the job was started


@dataclass(frozen=True)
class Traits:
    """How launchers differ beside their methods. A launcher may have them as its attribute `traits`; of one that has
    not, `Traits.of` derives them from `is_local`.

    `is_local`: as Launcher.is_local. Preflight checks of the host's memory, GPUs and lease apply to a training, and
    `inv gpu --watch` shows its GPUs.
    `is_scheduled`: a scheduler queues jobs, gives them their GPUs and is asked for their state. Else a training takes
    its GPUs by the lease (rdtops.contract.lease), and its files and processes are asked.
    `programs`: one of them must be on the host, the first one that is there is used.
    `detach_keys`: what a person types to leave `attach_line`.
    `detaches_with`: auto, tmux or setsid: our program on the host starts a training itself, under the lock under which
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
    """Start jobs and answer for them. Every method may raise a HostError or RemoteError; none guesses.

    - A job that was started goes on when the connection, the laptop or the sshd of the host ends.
    - Whatever is in a folder's or job's name, it is one word.
    - What is told does not depend on which laptop asks.
    """

    name: str  # as in hosts.toml
    is_local: bool  # the job runs on the very machine that we log in to: its processes and GPUs can be asked there
    # traits: Traits   optional, where the defaults that go with `is_local` are not true of it

    def files(self, job: Job, spread: Spread | None) -> Mapping[str, str]:
        """What it puts beside the script, by name; `inv train --dry-run` shows it. Writes nothing itself."""

    def spread(self, job: Job, spread: Spread) -> Command:
        """The command that the script runs to have the program on all its nodes."""

    def submit(self, connection: Connection, job: Job) -> Submitted:
        """Start it, exactly once: a job of this name that is queued or running is left alone, and said to be there
        already, also when two laptops submit at the same moment or an answer was lost. A job that has ended may be
        submitted again; `exit`, `stop` and what else told of the earlier end is gone before it begins.

        Raises RunError when it did not start."""

    def states(self, connection: Connection, jobs: Sequence[Job]) -> Mapping[str, JobState]:
        """By name, each of `jobs`, in one round trip. RUNNING or ENDED is said only of what was seen so: where the
        scheduler does not answer it is UNKNOWN, with the reason."""

    def stop(self, connection: Connection, job: Job, grace_s: float) -> None:
        """Ask it to save and leave, and end what is left after `grace_s`; 0: now, without asking. When it returns
        nothing of it runs. A queued job leaves the queue. Raises RunError when something is left."""

    def inside(self, connection: Connection, job: Job, command: Command) -> Command:
        """The command that runs `command` where the job runs: `nvidia-smi` of its nodes."""

    def start_line(self, job: Job) -> str:
        """What a person types on the host to start it by hand, once its files are there."""

    def attach_line(self, job: Job) -> str:
        """A line of sh, for a terminal on the host, that shows a running job."""
