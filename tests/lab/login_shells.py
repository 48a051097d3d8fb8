"""A host whose user has another login shell and start-up files of his own: a real sshd, and a real shell."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdtops.ssh.hosts import Host
from tests.lab.test_bastions import SSHD, server

WANTED = ("sh", "bash", "dash", "zsh", "fish", "tcsh", "csh")  # rdtops.lab.packages has those that Debian lacks
SHELLS = (*WANTED, *(name for name in ("mksh", "ksh", "yash") if shutil.which(name)))
START_UP = {"bash": ".bashrc", "zsh": ".zshenv", "fish": ".config/fish/config.fish", "tcsh": ".tcshrc", "csh": ".cshrc"}
NEEDS = pytest.mark.skipif(os.geteuid() != 0 or not Path(SSHD).exists(), reason="needs root and sshd")

# sshd runs it by the login shell of the passwd file, which finds no start-up files; then it is as if the other one were
# the login shell
_SESSION = """\
#!/bin/sh
. {folder}/account
unset SHLVL OLDPWD
command=$SSH_ORIGINAL_COMMAND
unset SSH_ORIGINAL_COMMAND
cd "$HOME" || echo "Could not chdir to home directory $HOME: No such file or directory" >&2
[ -n "$command" ] || exec "$SHELL"
exec "$SHELL" -c "$command"
"""


@dataclass(frozen=True)
class Account:
    """The user of a host: tests give it a shell and start-up files, and its next session has them."""

    host: Host
    folder: Path
    config: Path  # of sshd

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def has(self, shell: str, start_up: str = "", *, before: str = "") -> None:
        """Let it have this login shell and this start-up file. `before`: lines of sh that run before the shell does."""
        path = shutil.which(shell, path="/bin:/usr/bin:/usr/sbin:/sbin")
        if path is None:
            pytest.skip(f"{shell} is not installed")
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()
        if start_up:
            file = self.home / START_UP[shell]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(start_up + "\n", encoding="utf-8")
        self.runs(f"export HOME={shlex.quote(str(self.home))} SHELL={path}\n{before}")

    def runs(self, lines: str) -> None:
        (self.folder / "account").write_text(lines + "\n", encoding="utf-8")


def account_of(folder: Path, lines: str = "") -> Iterator[Account]:
    """Start an sshd with this account; `lines` of its configuration."""
    (folder / "session").write_text(_SESSION.format(folder=shlex.quote(str(folder))), encoding="utf-8")
    (folder / "session").chmod(0o755)
    (folder / "empty").mkdir()
    (folder / "account").write_text("", encoding="utf-8")
    with server(folder, f"UsePAM no\nSetEnv HOME={folder / 'empty'}\nForceCommand {folder / 'session'}\n"
                        + lines) as host:
        yield Account(host, folder, folder / "config")


Made = Callable[..., Account]
