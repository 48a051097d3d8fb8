"""Another user of the host, who creates or damages the folder of the GPUs' locks before or during a training. A
training then begins, or names who blocks it; a running one is never refused what it holds.

Both users have unused ids; only root can switch to them, and is neither."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from proofs.drills import is_wanted
from rdtops.contract import lease
from rdtops.ui.repository import ROOT

OURS, OTHERS = 64_011, 64_012  # user ids
RUN = "20260102-000000-ours-0001"
BEGINS_S, LIMIT_S = 20.0, 45.0  # lease.GATE_S + lease.DYING_S, and room
PYTHONS = (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")  # others may not read root's own
RUBBISH = (b'{"since_s": 1e300, "run_id": ["x"], "user": {}}', b"5", b"[" * 4000, b"\xff\xfe" * 2000,
           b'{"what": "\x1b]52;c;cHduZWQ=\x07", "run_id": "\x1b[2J", "user": "root"}')
_RESTARTED = """\
import os, sys, time
while not os.path.exists("go"):
    time.sleep(0.02)
from rdtops.contract import lease
lease.join(%r)
os.write(1, b"joined\\n")
"""


@dataclass(frozen=True)
class Sat:
    """The other user's action, and its effect on our training."""

    attack: str
    did: str
    seconds: float
    seen: str
    passed: bool


def attacks(only: str = "", *, without: str = "?") -> Iterator[Sat]:
    """Run the attacks whose `C1 attack` is requested. Nothing where it is impossible; `obstacle` says why."""
    if obstacle():
        return
    with tempfile.TemporaryDirectory(prefix="rdtops-stranger-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        for name in ("__init__.py", "errors.py", "contract", "hostlib"):  # a part of a release that all users can read
            (shutil.copytree if (ROOT / "rdtops" / name).is_dir() else _copied)(
                ROOT / "rdtops" / name, folder / "release" / "rdtops" / name)
        for attempt, acts_of in ((_launch, BEFORE), (_restart, MEANWHILE)):
            for attack, acts in acts_of.items():
                if is_wanted(f"C1 {attack}", only) and without not in attack:
                    yield attempt(folder, attack, acts)


def obstacle() -> str:
    """Return why no process can run as two other users here, '' when it can."""
    if os.geteuid() != 0:
        return "only root can run processes as two other users"
    return "" if _python() else f"no other user can start {' or '.join(PYTHONS)}"


# --- actions of the other user ---

def _own_folder(locks: Path) -> None:
    locks.mkdir(mode=0o755)


def _open_folder(locks: Path) -> None:
    locks.mkdir()
    locks.chmod(0o777)  # without the sticky bit


def _link_folder(locks: Path) -> None:
    real = locks.with_name("elsewhere")
    real.mkdir(exist_ok=True)
    locks.symlink_to(real)


def _file(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(locks: Path) -> None:
        locks.mkdir()
        locks.chmod(0o1777)
        for name in (lease.GATE, "gpu-0"):
            make(locks / name)

    return act


def _holds(name: str) -> Callable[[Path], subprocess.Popen[bytes]]:
    """Hold the lock for ever, by a process that does not identify itself."""
    def act(locks: Path) -> subprocess.Popen[bytes]:
        locks.mkdir()
        locks.chmod(0o1777)
        script = ("import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666); "
                  "os.fchmod(f, 0o666); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(100)")
        process = subprocess.Popen([_python(), "-c", script, str(locks / name)], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        return process

    return act


def _written(content: bytes) -> Callable[[Path], object]:
    def act(locks: Path) -> None:
        for path in locks.iterdir():
            with contextlib.suppress(OSError):  # a refusal is acceptable
                path.write_bytes(content)

    return act


def _removed(locks: Path) -> None:
    for path in locks.iterdir():
        with contextlib.suppress(OSError):
            path.rename(path.with_name(f"{path.name}-gone"))


def _rubbish(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)
        path.chmod(0o666)

    return make


def _mode_600(path: Path) -> None:
    path.touch(0o600)
    path.chmod(0o600)


BEFORE: Mapping[str, Callable[[Path], object]] = {
    "makes the folder of the locks, for itself alone": _own_folder,
    "makes the folder of the locks, where everybody may remove": _open_folder,
    "makes a link of the folder": _link_folder,
    "makes a file of the folder": lambda locks: locks.touch(),
    "makes FIFOs of the locks": _file(os.mkfifo),
    "makes links of the locks": _file(lambda path: path.symlink_to("/etc/hostname")),
    "makes folders of the locks": _file(lambda path: path.mkdir()),
    "makes the locks its own, mode 600": _file(_mode_600),
    **{f"writes rubbish into the locks, {number}": _file(_rubbish(content))
       for number, content in enumerate(RUBBISH)},
    "holds the gate": _holds(lease.GATE),
    "holds a GPU": _holds("gpu-0"),
}
MEANWHILE: Mapping[str, Callable[[Path], object]] = {
    **{f"writes rubbish while a training runs, {number}": _written(content) for number, content in enumerate(RUBBISH)},
    "empties the locks while a training runs": _written(b""),
    "renames the locks while a training runs": _removed,
}


# --- effects on our training ---

def _launch(folder: Path, attack: str, acts: Callable[[Path], object]) -> Sat:
    locks, workspace = _fresh(folder)
    process = _as_the_other(lambda: acts(locks))
    begun_s = time.monotonic()
    try:
        out, err, code = _ended(_begin(folder, locks, workspace, ["sh", "-c", "echo began"]), LIMIT_S)
    finally:
        if isinstance(process, subprocess.Popen):
            process.kill()
            process.communicate()
    goes_on = code == 0 and "began" in out
    refused = code == lease.REFUSED and bool(err.strip())
    return _sat(attack, "a training begins", begun_s, err, [] if goes_on or refused else [f"exit {code}"])


def _restart(folder: Path, attack: str, acts: Callable[[Path], object]) -> Sat:
    locks, workspace = _fresh(folder)
    begun_s = time.monotonic()
    run = _begin(folder, locks, workspace, ["sh", "-c", 'echo began; exec "$0" -c "$1"', _python(), _RESTARTED % RUN])
    assert run.stdout
    wrong = [] if run.stdout.readline().strip() == "began" else ["it did not begin"]
    _as_the_other(lambda: acts(locks))
    (workspace / "go").touch()
    out, err, code = _ended(run, LIMIT_S)
    wrong += [] if "joined" in out else [f"a restarted rank was refused: exit {code}"]
    return _sat(attack, "a rank starts again", begun_s, err, wrong)


def _sat(attack: str, did: str, begun_s: float, err: str, wrong: list[str]) -> Sat:
    last = err.strip().splitlines()[-1] if err.strip() else ""
    wrong += ["a traceback"] if "Traceback" in err else []
    wrong += [f"{last!r}: not for a terminal"] if any(not c.isprintable() for c in last) else []
    return Sat(attack, did, round(time.monotonic() - begun_s, 1), "; ".join([*wrong, last[:200] or "it does"]),
               not wrong)


def _fresh(folder: Path) -> tuple[Path, Path]:
    """Return the folder of the locks, in a folder like /run/lock, and our workspace."""
    parent, workspace = folder / "lock", folder / "workspace"
    for path in (parent, workspace):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    parent.chmod(0o1777)
    run = workspace / "runs" / RUN
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({
        "run_id": RUN, "workspace": str(workspace), "train": {"device": "cuda", "num_processes": 1}}))
    for path in (workspace, workspace / "runs", run, run / "config.json"):
        os.chown(path, OURS, OURS)
    return parent / "rdtops", workspace


def _begin(folder: Path, locks: Path, workspace: Path, command: list[str]) -> subprocess.Popen[str]:
    release = folder / "release"
    return subprocess.Popen(
        [_python(), "-I", str(release / "rdtops/contract/lease.py"), str(workspace / "runs" / RUN / "config.json"),
         *command], cwd=workspace, user=OURS, group=OURS, extra_groups=[], text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": str(workspace), "USER": "ours", "LOGNAME": "ours",
             "PYTHONPATH": str(release), "PYTHONDONTWRITEBYTECODE": "1", lease.LOCKS: str(locks)})


def _ended(process: subprocess.Popen[str], limit_s: float) -> tuple[str, str, int | str]:
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return out, err, f"none within {limit_s:g} s"
    return out, err, process.returncode


def _as_the_other(act: Callable[[], object]) -> object:
    """Switch the user of this process temporarily."""
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(OTHERS)
    os.seteuid(OTHERS)
    try:
        return act()
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


@functools.cache
def _python() -> str:
    for python in PYTHONS:
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", ""], user=OURS, group=OURS, extra_groups=[], check=False,
                              capture_output=True).returncode == 0:
                return python
    return ""


def _copied(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
