"""Lease: what a run holds for itself while any process of it lives: its GPUs, and its output folder.

    python3 -I lease.py config.json sh launch.sh   # hold what config.json needs and become `sh launch.sh`, or exit 75
    lease.join(run_id)                             # every process of the training holds it too
    {"config": {...}, "visible": "0,1", "locks": ""}   # on stdin, when there is no argument: who is in the way?

The kernel holds it (flock), so that it ends with the last process of the run, however that ends, and never outlives a
reboot. Who holds a lease has its files locked shared; who wants one must for a moment have them alone. A gate lets one
at a time try. Standard library, Python 3.8, one file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

REFUSED = 75  # the exit code: EX_TEMPFAIL
REFUSAL = "refused"  # a file in the run folder: why, as JSON
OF, FILES = "RDTOPS_LEASE", "RDTOPS_LEASE_FILES"  # variables of the run's processes
LOCKS = "RDTOPS_LOCKS"  # a variable that names another folder for the locks of GPUs
GATE, GATE_S = "gate", 10.0
DYING_S = 10.0  # that the processes of a run that was killed or has ended get to be gone
_UNLOCKABLE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre and NFS without locks

_joined: list[int] = []  # descriptors that stay open as long as this process lives


class Taken(Exception):
    """Somebody holds what is wanted; `holders` says of each thing what it is and who has it since when."""

    def __init__(self, holders: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("; ".join(words(holder) for holder in holders))
        self.holders = list(holders)


def words(holder: Mapping[str, Any]) -> str:
    """`GPU 0 is held by RUN (user, since …)`."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(holder.get("since_s", 0))))
    who = f"{holder.get('run_id') or 'a run that did not say its name'}"
    return f"{holder['what']} is held by {who} ({holder.get('user') or 'unknown user'}, since {since})"


def gpus_of(num_processes: int, visible: str | None) -> list[str]:
    """The GPUs of processes 0, 1, 2 … as CUDA counts them: those that CUDA_VISIBLE_DEVICES names, else 0, 1, 2 …

    >>> gpus_of(2, "3,5,7"), gpus_of(2, None), gpus_of(2, "4,-1,5")
    (['3', '5'], ['0', '1'], ['4'])
    """
    if visible is None:
        return [str(number) for number in range(num_processes)]
    named: list[str] = []
    for name in (part.strip() for part in visible.split(",")):
        if not name or name.startswith("-") or name in named:
            break  # CUDA sees nothing behind a wrong name
        named.append(name)
    return named[:num_processes]


def claims(config: Mapping[str, Any], visible: str | None, uuids: Mapping[str, str], locks: str) -> dict[str, str]:
    """Lock file -> what it stands for. `config` is a run's config.json, `uuids` those of the GPUs by index.

    A GPU is locked under each of its names, since one run may call it 0 and another GPU-8932f937. A training on CPUs
    has those of its workspace on this machine.
    """
    train, workspace = config["train"], config["workspace"]
    found = {os.path.join(workspace, "runs", config["run_id"], ".lease"): "the output folder"}
    if train["device"] != "cuda":
        return {os.path.join(workspace, "runs", ".cpu-" + os.uname().nodename): "the CPU of this workspace", **found}
    for gpu in gpus_of(train["num_processes"], visible):
        names = {gpu}
        for index, uuid in uuids.items():
            if gpu == index or (gpu.startswith("GPU-") and uuid.startswith(gpu)):
                names |= {index, uuid}
        found.update({os.path.join(locks, f"gpu-{name}"): f"GPU {gpu}" for name in sorted(names)})
    return found


def take(wanted: Mapping[str, str], holder: Mapping[str, Any], locks: str) -> list[int]:
    """Hold all of `wanted` or nothing: the open descriptors that hold it. Raises Taken."""
    with _gate(locks):
        descriptors, in_the_way = _alone(wanted)
        if in_the_way:
            _close(descriptors)
            raise Taken(in_the_way)
        for descriptor in descriptors:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(dict(holder)).encode(), 0)
            _flock(descriptor, fcntl.LOCK_SH)
    return descriptors


def in_the_way(wanted: Mapping[str, str], locks: str) -> list[dict[str, Any]]:
    """Who holds something of `wanted` now. Nothing is made for the question."""
    if not os.path.exists(os.path.join(locks, GATE)):  # nobody ever took a lease since the machine is up
        return []
    with _gate(locks):
        descriptors, found = _alone({path: what for path, what in wanted.items() if os.path.exists(path)})
        _close(descriptors)
    return found


def join(run_id: str) -> None:
    """This process holds the run's lease too, until it ends. Nothing to do where the run was started without one.
    Raises Taken when another run has it meanwhile: then whoever started this process is long dead."""
    if os.environ.get(OF) != run_id or _joined:
        return
    for path in json.loads(os.environ[FILES]):
        descriptor = os.open(path, os.O_RDWR)
        if not _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB) or _holder(descriptor).get("run_id") != run_id:
            raise Taken([{"what": path, **_holder(descriptor)}])
        _joined.append(descriptor)


def locks_folder() -> str:
    """Where all users of this machine keep the locks of its GPUs. Not /dev/shm: logind empties it at a logout."""
    given = os.environ.get(LOCKS)
    if given:
        return given
    for parent in ("/run/lock", "/tmp"):  # noqa: S108  # made with care below
        with contextlib.suppress(OSError):
            if os.stat(parent).st_mode & 0o1002 == 0o1002:
                return os.path.join(parent, "rdtops")
    return os.path.join(os.path.expanduser("~"), ".rdtops-locks")


def gpu_uuids() -> dict[str, str]:
    """By index, as nvidia-smi counts; nothing where it does not answer."""
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [line.split(",") for line in said.stdout.splitlines()]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2 and row[1].strip().startswith("GPU-")}


# --- files and locks ---

def _alone(wanted: Mapping[str, str]) -> tuple[list[int], list[dict[str, Any]]]:
    """Descriptors of what could be locked exclusively, and who has the rest."""
    descriptors: list[int] = []
    others: dict[str, dict[str, Any]] = {}
    for path, what in wanted.items():
        descriptor = _open(path)
        if _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            descriptors.append(descriptor)
        else:
            others[what] = {"what": what, **_holder(descriptor)}  # once, whatever names a GPU has
            os.close(descriptor)
    return descriptors, list(others.values())


def _flock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNLOCKABLE:
            raise
    return True


def _open(path: str) -> int:
    """A lock file that every user may lock. Opened before it is created: in /tmp the kernel refuses O_CREAT for the
    file of another user."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        os.fchmod(descriptor, 0o666)  # a GPU is everybody's
        return descriptor
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


@contextlib.contextmanager
def _gate(locks: str) -> Iterator[None]:
    with contextlib.suppress(FileExistsError):
        os.mkdir(locks)
        os.chmod(locks, 0o1777)  # noqa: S103  # likewise
    if not stat.S_ISDIR(os.lstat(locks).st_mode):
        raise OSError(f"{locks} is no folder; RDTOPS_LOCKS names another")
    gate = _open(os.path.join(locks, GATE))
    try:
        end_s = time.monotonic() + GATE_S
        while not _flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.monotonic() > end_s:
                raise OSError(f"{locks}/{GATE} is locked by a process that does not go on: fuser -v {locks}/{GATE}")
            time.sleep(0.01)
        yield
    finally:
        os.close(gate)


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


# --- the program ---

def _hold(config_path: str, command: Sequence[str]) -> NoReturn:
    """Become `command`, which inherits the lease and so hands it on."""
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    root, locks = os.path.dirname(os.path.abspath(config_path)), locks_folder()
    wanted = _wanted(config, os.environ.get("CUDA_VISIBLE_DEVICES"), locks)
    holder = {"run_id": config["run_id"], "workspace": config["workspace"], "user": getpass.getuser(),
              "since_s": round(time.time(), 3)}
    descriptors: list[int] = []

    def refused() -> list[dict[str, Any]]:
        try:
            descriptors.extend(take(wanted, holder, locks))
        except Taken as refusal:
            return [dict(other) for other in refusal.holders]
        return []

    # processes of this very run that were killed just now may still be giving back what they had
    others = _settled(refused, lambda other: other.get("run_id") == config["run_id"] or _has_ended(other))
    if others:
        _tell(root, Taken(others))
        raise SystemExit(REFUSED)
    folder = os.open(locks, os.O_RDONLY | os.O_DIRECTORY)
    _flock(folder, fcntl.LOCK_SH)  # systemd-tmpfiles then removes nothing of it, however old
    for descriptor in (*descriptors, folder):
        os.set_inheritable(descriptor, True)
    os.environ[OF], os.environ[FILES] = config["run_id"], json.dumps(list(wanted))
    os.execvp(command[0], list(command))  # noqa: S606  # that is what it is for


def _settled(look: Callable[[], list[dict[str, Any]]],
             is_leaving: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    """Who is in the way once those who are just leaving have gone, for which they have DYING_S."""
    end_s = time.monotonic() + DYING_S
    while True:
        found = look()
        if not found or not all(is_leaving(holder) for holder in found) or time.monotonic() > end_s:
            return found
        time.sleep(0.2)


def _has_ended(holder: Mapping[str, Any]) -> bool:
    """Its run has written its exit code, and its last processes are about to go."""
    return os.path.exists(os.path.join(str(holder.get("workspace")), "runs", str(holder.get("run_id")), "exit"))


def _tell(root: str, refusal: Taken) -> None:
    sys.stderr.write(f"not started: {refusal}\n")
    temporary = os.path.join(root, REFUSAL + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(refusal.holders, file)
    os.replace(temporary, os.path.join(root, REFUSAL))


def main() -> None:
    if len(sys.argv) > 2:
        _hold(sys.argv[1], sys.argv[2:])
    request = json.loads(sys.stdin.buffer.readline().decode())
    locks = request["locks"] or locks_folder()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if request["visible"] is None else request["visible"]
    wanted = _wanted(request["config"], visible, locks)
    sys.stdout.write(json.dumps({"in_the_way": _settled(lambda: in_the_way(wanted, locks), _has_ended)}) + "\n")


def _wanted(config: Mapping[str, Any], visible: str | None, locks: str) -> dict[str, str]:
    return claims(config, visible, gpu_uuids() if config["train"]["device"] == "cuda" else {}, locks)


if __name__ == "__main__":
    main()
