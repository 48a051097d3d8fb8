"""Two Unix users of one machine: what one may do to the trainings of the other. Real users, real locks."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.contract import lease

ROOT = Path(lease.__file__).parents[2]
ANN, MALLORY = "daemon", "nobody"  # users that every machine has


def python_of_all() -> str:
    """One that another user may start; '' where there is none."""
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        with contextlib.suppress(PermissionError):
            if python and subprocess.run([python, "-c", ""], user=ANN, extra_groups=[], cwd="/", env={},
                                         check=False).returncode == 0:
                return python
    return ""


@pytest.fixture(scope="module")
def python() -> str:
    if os.geteuid() != 0:
        pytest.skip("only root may be two users")
    for name in (ANN, MALLORY):
        try:
            pwd.getpwnam(name)
        except KeyError:
            pytest.skip(f"there is no user {name} here")
    return python_of_all() or pytest.skip("there is no python3 that every user may start")


class Machine:
    def __init__(self, root: Path, python: str) -> None:
        self.root, self.python, self.locks = root, python, root / "locks"
        self.started: list[subprocess.Popen] = []
        for name in ("contract", "hostlib"):
            shutil.copytree(ROOT / "rdtops" / name, root / "code" / "rdtops" / name,
                        ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "rdtops" / "__init__.py", root / "code" / "rdtops")
        self.program = root / "code" / "rdtops" / "contract" / "lease.py"
        for user in (ANN, MALLORY):
            (root / user / "runs").mkdir(parents=True)
            shutil.chown(root / user, user)
            shutil.chown(root / user / "runs", user)

    def as_user(self, user: str, *words: object, **env: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [str(word) for word in words], user=user, group=pwd.getpwnam(user).pw_gid, extra_groups=[], cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.root / user), "RDTOPS_LOCKS": str(self.locks),
                 "CUDA_VISIBLE_DEVICES": "0", **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def does(self, user: str, line: str) -> None:
        process = self.as_user(user, "sh", "-ec", line)
        assert process.wait() == 0, process.stderr.read()

    def trains(self, user: str, run_id: str = "a") -> str:
        """'' when it trains, else what it said."""
        folder = self.root / user / "runs" / run_id
        folder.mkdir(exist_ok=True)
        config = {"run_id": run_id, "workspace": str(self.root / user), "train": {"device": "cuda", "num_processes": 1}}
        (folder / "config.json").write_text(json.dumps(config))
        shutil.chown(folder, user)
        process = self.as_user(user, self.python, "-I", self.program, folder / "config.json", "sh", "-c",
                               "echo up; exec sleep 60")
        if process.stdout.readline() == "up\n":
            return ""
        assert process.wait() == lease.REFUSED
        return process.stderr.read()

    def holds(self, user: str, path: Path, how: str = "SH") -> bool:
        """Whether another program of a user gets the lock of a file, and keeps it."""
        line = (f"import fcntl, time; f = open({str(path)!r}); fcntl.flock(f, fcntl.LOCK_{how} | fcntl.LOCK_NB); "
                "print('up', flush=True); time.sleep(60)")
        return self.as_user(user, self.python, "-c", line).stdout.readline() == "up\n"

    def joins(self, user: str, run_id: str = "a") -> str:
        files = lease.claims({"run_id": run_id, "workspace": str(self.root / user),
                              "train": {"device": "cuda", "num_processes": 1}}, "0", {}, str(self.locks))
        process = self.as_user(user, self.python, "-c", "from rdtops.contract import lease; "
                               f"lease.join({run_id!r}); print('joined')", PYTHONPATH=str(self.root / "code"),
                               RDTOPS_LEASE=run_id, RDTOPS_LEASE_FILES=json.dumps(list(files)))
        out, err = process.communicate(timeout=30)
        return out + err


@pytest.fixture
def machine(python) -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="rdtops-users-"))  # every user may go there, as not to pytest's
    root.chmod(0o755)
    root.joinpath("locks").mkdir()
    root.joinpath("locks").chmod(0o1777)
    found = Machine(root, python)
    yield found
    for process in found.started:
        process.kill()
        process.communicate()
    shutil.rmtree(root)


@pytest.mark.parametrize(("act", "is_what"), [
    ("mkfifo locks/gpu-0", "is a FIFO of"), ("mkdir locks/gpu-0", "is a folder of"),
    ("ln -s /etc/passwd locks/gpu-0", "is a link of"), ("umask 177; : > locks/gpu-0", "belongs to")])
def test_a_lock_that_another_user_spoiled_is_named_with_its_owner(machine, act, is_what):
    machine.does(MALLORY, act)
    said = machine.trains(ANN)
    assert f"not started: GPU 0 cannot be locked: {machine.locks}/gpu-0 {is_what} {MALLORY} (uid " in said
    assert "any user of this machine can keep a GPU's lock" in said
    assert said.count("\n") == 1


def test_another_user_who_holds_a_gpu_is_named_by_what_he_said(machine):
    assert machine.trains(MALLORY, "m") == ""
    assert f"GPU 0 is held by m ({MALLORY}, since " in machine.trains(ANN)


def test_what_another_user_wrote_into_a_lock_that_is_free_keeps_nobody_off(machine):
    machine.does(MALLORY, r"""umask 0; printf '{"run_id": "\\u001b[2J", "since_s": 1e300}' > locks/gpu-0""")
    assert machine.trains(ANN) == ""


def test_another_user_may_keep_a_gpu_and_is_shown_escaped(machine):
    machine.does(MALLORY, r"""umask 0; printf '{"run_id": "\\u001b[2J", "since_s": 1e300}' > locks/gpu-0""")
    assert machine.holds(MALLORY, machine.locks / "gpu-0")
    said = machine.trains(ANN)
    assert r"GPU 0 is held by \x1b[2J (" in said
    assert said.strip().isprintable()


def test_a_running_training_starts_its_ranks_whatever_another_user_does_to_the_lock(machine):
    machine.does(MALLORY, "umask 0; : > locks/gpu-0")  # whoever is first owns the file
    assert machine.trains(ANN) == ""
    machine.does(MALLORY, """echo '{"run_id": "b"}' > locks/gpu-0""")
    assert machine.joins(ANN) == "joined\n"
    assert not machine.holds(MALLORY, machine.locks / "gpu-0", "EX")
    machine.does(MALLORY, "rm locks/gpu-0; mkfifo locks/gpu-0")
    said = machine.joins(ANN)
    assert said.startswith("joined\n")
    assert f"continuing without a lock of this run: {machine.locks}/gpu-0 cannot be locked: " in said
    assert "GPU 0 is held by a (" in machine.trains(ANN, "b")  # of the same workspace


def test_nobody_else_can_touch_the_locks_of_a_workspace(machine):
    assert machine.trains(ANN) == ""
    own = [path for path in (machine.root / ANN / "runs").rglob(".*") if path.is_file()]
    assert {path.name[:5] for path in own} == {".leas", ".gpu-"}
    assert not [path for path in own if machine.holds(MALLORY, path)]
