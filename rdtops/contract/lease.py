"""Lease: locks that a run holds on its GPUs and its output folder while any of its processes lives.

    python3 -I lease.py config.json sh launch.sh   # lock what config.json needs and exec `sh launch.sh`, or exit 75
    lease.join(run_id)                             # every process of the training holds it too
    {"config": {...}, "visible": "0,1", "locks": ""}   # on stdin, without arguments: who holds it?

The kernel holds the locks (rdtops.hostlib.locks), so they end with the last process of the run, however it ends, and
never outlive a reboot. The holder of a lease has its files locked shared; to take one, a process must for a moment
lock them exclusively. A gate lets one process at a time try. What a lock file says of its holder is a hint for people,
and never decides anything.

Who can block whom: all users share the GPUs, so their locks lie where every user can lock them, and any user of the
machine can hold one, with or without a training. The locks in a workspace are 0600: no other user can touch those of
a run's folder, of the CPUs, and of the GPUs among the trainings of one workspace, which therefore never share a GPU.
Standard library, Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

if "rdtops" not in sys.modules:  # started as a file: its imports are in the same release, which must not change
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    sys.dont_write_bytecode = True
from rdtops.hostlib import fields, files, locks, names, nvidia_smi

REFUSED = 75  # the exit code: EX_TEMPFAIL
REFUSAL = "refused"  # a file in the run folder: why, as JSON
OF, FILES = "RDTOPS_LEASE", "RDTOPS_LEASE_FILES"  # variables of the run's processes
LOCKS = "RDTOPS_LOCKS"  # a variable that names another folder for the locks of GPUs
OWN = ".lease"  # in the folder of a run: locked exactly while a process of the run lives
GATE, GATE_S = "gate", 10.0
COMMON = "gpu-"  # prefix of the GPU locks that all users share
EVERYBODYS = 0o666
FOLDER_OF_ALL = 0o1777  # sticky: only its owner removes a lock
PARENTS = ("/run/lock", "/tmp")  # noqa: S108  # created safely below
DYING_S = 10.0  # for the processes of a run that was killed or has ended to exit
JOIN_S = 1.0  # to wait for a process that holds a lock only to look at it
ANYBODY = "any user of this machine can keep a GPU's lock; its owner or root can remove it"

_joined: list[int] = []  # descriptors that stay open as long as this process lives


class Taken(Exception):
    """Something requested is locked; `holders` says what each thing is, and who holds it since when."""

    def __init__(self, holders: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("; ".join(words(holder) for holder in holders))
        self.holders = list(holders)


def words(holder: Mapping[str, Any]) -> str:
    """Return `GPU 0 is held by RUN (user, since ...)`, or why it cannot be locked. Any user may have written the lock
    file, so all of it is escaped."""
    what, problem = _shown(holder.get("what")) or "something", _shown(holder.get("problem"), 400)
    if problem:
        return f"{what} cannot be locked: {problem}"
    since_s = fields.number(holder.get("since_s")) or 0.0
    since = (time.strftime("since %Y-%m-%d %H:%M:%S UTC", time.gmtime(since_s)) if 0 < since_s < 1e11
             else "since an unknown time")
    return (f"{what} is held by {_shown(holder.get('run_id')) or 'an unnamed run'} "
            f"({_shown(holder.get('user')) or 'unknown user'}, {since})")


def run_of(holders: Sequence[Mapping[str, Any]]) -> str:
    """Return the id of the run that holds it, '' where no holder gives a valid one."""
    return next((str(h["run_id"]) for h in holders if names.is_run_id(h.get("run_id"))), "")


def claims(config: Mapping[str, Any], visible: str | None, uuids: Mapping[str, str], common: str) -> dict[str, str]:
    """Return the lock files of a run, each with what it locks. `config` is its config.json, `uuids` has those of the
    GPUs by index, `common` is the folder that all users share.

    A GPU is locked under each of its names, since one run may call it 0 and another GPU-8932f937. A training on CPUs
    locks the CPUs of its workspace on this machine.
    """
    train, runs, node = config["train"], _runs(config), os.uname().nodename
    found = {os.path.join(runs, config["run_id"], OWN): "the output folder"}
    if train["device"] != "cuda":
        return {os.path.join(runs, ".cpu-" + node): "the CPU of this workspace", **found}
    for gpu in nvidia_smi.requested(train["num_processes"], visible):
        called = {gpu}
        for index, uuid in uuids.items():
            if nvidia_smi.is_named(uuid, fields.decimal(index), gpu):
                called |= {index, uuid}
        for name in sorted(called):
            found[os.path.join(runs, f".gpu-{node}-{name}")] = f"GPU {gpu}"  # first: only we can write it
            found[os.path.join(common, COMMON + name)] = f"GPU {gpu}"
    return found


def take(wanted: Mapping[str, str], holder: Mapping[str, Any], gate: str) -> list[int]:
    """Lock all of `wanted` or nothing, and return the open descriptors that hold it. Raises Taken, or OSError when the
    gate cannot be passed."""
    with _passed(gate):
        descriptors, in_the_way = _alone(wanted)
        for path, descriptor in descriptors.items():
            with contextlib.suppress(OSError):  # a full disk: then the file does not name its holder
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(dict(holder)).encode(), 0)
            if not locks.flocked(descriptor, locks.SHARED):  # a program that is not ours waited for it
                in_the_way.append({"what": wanted[path], **_hint(descriptor)})
        if in_the_way:
            _close(descriptors.values())
            raise Taken(in_the_way)
    return list(descriptors.values())


def in_the_way(wanted: Mapping[str, str], gate: str) -> list[dict[str, Any]]:
    """Return who holds something of `wanted` now. No file is created. Raises OSError when the gate cannot be passed."""
    with _passed(gate) if os.path.lexists(gate) else contextlib.nullcontext():
        descriptors, found = _alone({path: what for path, what in wanted.items() if os.path.lexists(path)})
        _close(descriptors.values())
    return found


def join(run_id: str) -> None:
    """Hold the run's lease in this process too, until it ends. Do nothing where the run was started without one. Raises
    Taken when the run has lost it meanwhile: then the launcher of this process is dead.

    The lock of the run folder, which no other user can hold, proves that the lease is the run's: while it is held, a
    process of the run lives and holds the rest. A GPU's lock that another user has replaced is then left out.
    """
    if os.environ.get(OF) != run_id or _joined:
        return
    wanted = fields.words(fields.loads(os.environ[FILES]))
    lives = any(locks.is_held(path) for path in wanted if os.path.basename(path) == OWN)
    for path in wanted:
        descriptor, problem = _try(path, locks.SHARED if lives else locks.EXCLUSIVE, JOIN_S if lives else 0.0)
        if not problem:
            locks.flocked(descriptor, locks.SHARED)
            _joined.append(descriptor)
        elif lives and os.path.basename(path).startswith(COMMON):
            sys.stderr.write(f"continuing without a lock of this run: {words({'what': path, **problem})}\n")
        else:
            raise Taken([{"what": path, **problem}])


def common_folder() -> tuple[str, str]:
    """Return the folder of the GPU locks that all users of this machine share, and why it is not the usual one. That is
    /run/lock/rdtops, which its first user creates with mode 1777; where it has another mode, every user takes
    /tmp/rdtops, and at last a folder of their own, where only their own trainings exclude each other. Not /dev/shm:
    logind empties it at a logout."""
    given = os.environ.get(LOCKS)
    if given:
        return given, ""
    passed_over: list[str] = []
    for parent in PARENTS:
        with contextlib.suppress(OSError):
            if os.stat(parent).st_mode & 0o1002 == 0o1002:
                folder = os.path.join(parent, "rdtops")
                problem = _unfit(folder)
                if not problem:
                    return folder, _instead(passed_over, folder)
                passed_over.append(problem)
    own = os.path.join(os.path.expanduser("~"), ".rdtops-locks")
    return own, _instead(passed_over, f"{own}, where only your own trainings are seen")


# --- files and locks ---

def _alone(wanted: Mapping[str, str]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return descriptors of what could be locked exclusively, and who holds the rest."""
    descriptors: dict[str, int] = {}
    others: dict[str, dict[str, Any]] = {}
    for path, what in wanted.items():
        descriptor, problem = _try(path, locks.EXCLUSIVE)
        if problem:
            others.setdefault(what, {"what": what, **problem})  # once, however many names a GPU has
        else:
            descriptors[path] = descriptor
    return descriptors, list(others.values())


def _try(path: str, how: int, patience_s: float = 0.0) -> tuple[int, dict[str, Any]]:
    """Return a descriptor that has the lock, or -1 and what the file says of its holder, or what is wrong with it."""
    is_common = os.path.basename(path).startswith(COMMON)
    try:
        descriptor = locks.opened(path, EVERYBODYS if is_common else locks.OURS)
    except OSError as error:
        return -1, {"problem": f"{error}: {ANYBODY}" if is_common else str(error)}
    if locks.flocked(descriptor, how, patience_s):
        return descriptor, {}
    hint = _hint(descriptor)
    os.close(descriptor)
    return -1, hint or {"run_id": ""}


def _hint(descriptor: int) -> dict[str, Any]:
    """Return what a lock file says of its holder; any user may have written it."""
    try:
        holder = fields.table(fields.loads(os.pread(descriptor, 4096, 0)))
    except (OSError, ValueError):
        return {}
    return {**{key: fields.text(holder.get(key)) for key in ("run_id", "workspace", "user")},
            "since_s": fields.number(holder.get("since_s"))}


def _shown(word: object, limit: int = 80) -> str:
    return names.quoted(word, limit).strip("'\"") if isinstance(word, str) else ""


@contextlib.contextmanager
def _passed(gate: str) -> Iterator[None]:
    """Hold the gate, which one process at a time can. Raises OSError."""
    is_ours = os.path.basename(gate) != GATE
    if not is_ours:
        _make_common(os.path.dirname(gate))
    descriptor = locks.opened(gate, locks.OURS if is_ours else EVERYBODYS)
    try:
        if not locks.flocked(descriptor, patience_s=GATE_S):
            raise OSError(f"{gate} is locked by a process that does not release it; find it with: fuser -v {gate}")
        yield
    finally:
        os.close(descriptor)


def _gate_of(config: Mapping[str, Any], common: str) -> str:
    """Return the gate; a training on CPUs needs only that of its workspace."""
    return os.path.join(common, GATE) if config["train"]["device"] == "cuda" else os.path.join(_runs(config), ".gate")


def _make_common(folder: str) -> None:
    """Create the folder with its mode from the first moment, so that no process finds it unusable."""
    before = os.umask(0)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, FOLDER_OF_ALL)
    finally:
        os.umask(before)
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise OSError(f"{folder} {locks.obstacle(folder)}; {LOCKS} names another folder")


def _unfit(folder: str) -> str:
    """Return why a folder cannot hold the locks of all users; '' when it can, or does not exist yet. The answer is the
    same for every user, so that all choose the same folder."""
    gate = os.path.join(folder, GATE)
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(folder).st_mode
        if not stat.S_ISDIR(mode) or stat.S_IMODE(mode) & FOLDER_OF_ALL != FOLDER_OF_ALL:
            return f"{folder} {locks.obstacle(folder)}"
        mode = os.lstat(gate).st_mode
        if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & EVERYBODYS != EVERYBODYS:
            return f"{gate} {locks.obstacle(gate)}"
    return ""


def _instead(passed_over: Sequence[str], used: str) -> str:
    return f"{'; '.join(passed_over)}: GPUs are locked in {used}" if passed_over else ""


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _runs(config: Mapping[str, Any]) -> str:
    return os.path.join(config["workspace"], "runs")


# --- the program ---

def _hold(config_path: str, command: Sequence[str]) -> NoReturn:
    """Exec `command`, which inherits the lease."""
    config = fields.loads(files.head_of(config_path))
    common, note = common_folder()
    wanted, gate = _wanted(config, os.environ.get(nvidia_smi.VISIBLE), common), _gate_of(config, common)
    holder = {"run_id": config["run_id"], "workspace": config["workspace"],
              "user": locks.user_name(os.geteuid()) or str(os.geteuid()), "since_s": round(time.time(), 3)}
    descriptors: list[int] = []

    def refused() -> list[dict[str, Any]]:
        try:
            descriptors.extend(take(wanted, holder, gate))
        except Taken as refusal:
            return [dict(other) for other in refusal.holders]
        return []

    # processes of this run that were killed just now may not have released their locks yet
    others = _settled(refused, lambda other: other.get("run_id") == config["run_id"] or _has_ended(other))
    if others:
        _tell(os.path.dirname(os.path.abspath(config_path)), Taken(others))
        raise SystemExit(REFUSED)
    if os.path.dirname(gate) == common:
        folder = os.open(common, os.O_RDONLY | os.O_DIRECTORY)
        locks.flocked(folder, locks.SHARED)  # so that systemd-tmpfiles removes nothing in it, however old
        descriptors.append(folder)
    if note:
        sys.stderr.write(f"{note}\n")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    os.environ[OF], os.environ[FILES] = config["run_id"], json.dumps(list(wanted))
    os.execvp(command[0], list(command))  # noqa: S606  # the purpose of this program


def _settled(look: Callable[[], list[dict[str, Any]]],
             is_leaving: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    """Return who holds it once those who are exiting have gone; they get DYING_S."""
    end_s = time.monotonic() + DYING_S
    while True:
        try:
            found = look()
        except OSError as error:  # of the gate
            return [{"what": "what the training needs", "problem": str(error)}]
        if not found or not all(is_leaving(holder) for holder in found) or time.monotonic() > end_s:
            return found
        time.sleep(0.2)


def _has_ended(holder: Mapping[str, Any]) -> bool:
    """Return whether the run of a holder has written its exit code; its last processes then exit soon."""
    return os.path.exists(os.path.join(str(holder.get("workspace")), "runs", str(holder.get("run_id")), "exit"))


def _tell(root: str, refusal: Taken) -> None:
    sys.stderr.write(f"not started: {refusal}\n")
    files.write_whole(os.path.join(root, REFUSAL), json.dumps(refusal.holders))


def main() -> None:
    if len(sys.argv) > 2:
        _hold(sys.argv[1], sys.argv[2:])
    request = fields.loads(sys.stdin.buffer.readline())
    config = request["config"]
    common, note = (request["locks"], "") if request["locks"] else common_folder()
    visible = os.environ.get(nvidia_smi.VISIBLE) if request["visible"] is None else request["visible"]
    wanted, gate = _wanted(config, visible, common), _gate_of(config, common)
    found = _settled(lambda: in_the_way(wanted, gate), _has_ended)
    sys.stdout.write(json.dumps({"in_the_way": found, "note": note if os.path.dirname(gate) == common else ""}) + "\n")


def _wanted(config: Mapping[str, Any], visible: str | None, common: str) -> dict[str, str]:
    listed = nvidia_smi.gpus().gpus if config["train"]["device"] == "cuda" else ()
    return claims(config, visible, {str(gpu.index): gpu.uuid for gpu in listed}, common)


if __name__ == "__main__":
    main()
