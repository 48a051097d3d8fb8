"""Unix users of a test's own, which only root can make."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rdtops.hostlib import processes
from rdtops.lab import lab_processes


@contextmanager
def unix_user() -> Iterator[tuple[str, Path]]:
    """Give the name and the home folder of a new user; all that it runs ends with it. No password lets it in."""
    user, home = f"rdtlab{os.getpid()}", Path(tempfile.mkdtemp(prefix="rdtops-user-", dir="/tmp"))
    subprocess.run(["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/bash", "--password", "*", user],
                   check=True)
    uid = pwd.getpwnam(user).pw_uid
    try:
        home.chmod(0o755)
        os.chown(home, uid, -1)
        yield user, home
    finally:
        of_user = (path for path in lab_processes.PROC.glob("[0-9]*") if path.stat().st_uid == uid)
        processes.send((int(path.name) for path in of_user), signal.SIGKILL)
        subprocess.run(["userdel", "--force", user], check=True, capture_output=True)
        shutil.rmtree(home)


def python_for(user: str) -> str:
    """Return a Python of this version that the user may run; skip the test where there is none."""
    version = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        tried = subprocess.run(["runuser", "-u", user, "--", python, "-c", ""], capture_output=True, check=False)
        if tried.returncode == 0:
            return python
    pytest.skip(f"no {version} that another user may run")
