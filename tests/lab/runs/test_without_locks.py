"""A host whose file system has no locks, as Lustre without `-o flock` or NFS without lockd. Over real SSH; there every
process gets ENOLCK from the C library."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.hostlib import processes
from rdtops.lab.site import Lab
from rdtops.on_host import run_reporter
from tests.lab.commandline import CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
NO_LOCKS = "#include <errno.h>\nint flock(int descriptor, int how) { errno = ENOLCK; return -1; }\n"
TRAIN = "train --host lab --set max_steps=100000 --set checkpoint_every_steps=100000 --set heldout_share=0"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python whose processes, and those that they start, have no locks."""
    folder = tmp_path_factory.mktemp("without-locks")
    (folder / "nolocks.c").write_text(NO_LOCKS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "nolocks.so", "nolocks.c"], cwd=folder, check=True)
    program = folder / "python3"
    program.write_text(f"#!/bin/sh\nexport LD_PRELOAD={folder}/nolocks.so\nexec {sys.executable} \"$@\"\n")
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def inv(lab: Lab, tiny_hosts: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    folder = tmp_path_factory.mktemp("laptop")
    hosts = folder / "hosts.toml"
    text = tiny_hosts.read_text().replace('"~/rdtops"', '"~/without-locks"')
    hosts.write_text(text.replace("[hosts.lab]\n", f'[hosts.lab]\npython = "{python}"\n'))
    line = CommandLine(folder, hosts)
    line.good("deploy --host lab", timeout_s=400)
    return line


@pytest.fixture(scope="module")
def workspace(lab: Lab, inv: CommandLine) -> Iterator[Path]:
    folder = lab.home("lab") / "without-locks"
    yield folder
    for run in (folder / "runs").glob("2*"):
        processes.end(functools.partial(processes.carrying, f"RDTOPS_RUN={run.name}"))


def test_the_host_has_no_locks(python):
    said = subprocess.run([str(python), "-c", "import fcntl; fcntl.flock(1, fcntl.LOCK_SH)"], capture_output=True,
                          text=True, check=False)
    assert "No locks available" in said.stderr


def test_a_training_starts_and_is_recognised_as_running(inv, workspace):
    (first,) = inv.good(f"{TRAIN} --json", timeout_s=200).rows()
    (again,) = inv.good(f"{TRAIN} --json", timeout_s=200).rows()
    assert (first["is_new"], again["is_new"], again["run_id"]) == (True, False, first["run_id"])
    (shown,) = inv.good("status --host lab --json").rows()
    assert (shown["run_id"], shown["state"]) == (first["run_id"], "running")
    inv.good(f"stop --host lab --run {first['run_id']}", timeout_s=200)
    (ended,) = inv.good("status --host lab --json").rows()
    assert ended["state"] == "stopped"


def test_an_evaluation_is_not_called_under_way_where_nobody_evaluates(python, workspace, tmp_path):
    """The lock of an evaluation alone: the simulator is not everywhere."""
    asks = ("from pathlib import Path\nfrom rdtops.trainer.evaluate import _alone\n"
            f"with _alone(Path({str(tmp_path)!r})):\n    print('alone')")
    done = subprocess.run([str(python), "-c", asks], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("alone\n", "")
    assert not run_reporter.is_locked(str(tmp_path / "lock"))
