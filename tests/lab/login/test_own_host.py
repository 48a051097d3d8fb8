"""README's "Your own host", line by line, from a host that nobody prepared to the results of a training on it.

The host is not the lab's: another Unix user behind a jump of its own, plain servers, an alias in ssh's configuration, a
key that only an agent has."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdtops.ssh import inventory
from tests import package_index
from tests.lab.commandline import ROOT, clone_into
from tests.lab.login import world as worlds
from tests.lab.unix_users import python_for, unix_user

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="only root makes another Unix user")]
SHORT = 'preset = "tiny"\nset = { max_steps = 12, checkpoint_every_steps = 6 }'  # in place of 150 steps
CONFIG = """\
Host gate
  HostName 127.0.0.1
  Port {jump}
Host gpu7
  HostName 127.0.0.1
  Port {gpu}
  ProxyJump gate
Host gate gpu7
  User {user}
  UserKnownHostsFile {known}
"""


@dataclass(frozen=True)
class Walk:
    """What the section says: the two files of hosts, and the lines to type in between."""

    hosts: str
    lines: list[str]
    own: str


def walk() -> Walk:
    section = (ROOT / "README.md").read_text().partition("## Your own host\n")[2].partition("\n## ")[0]
    blocks = [re.sub(r"^    ", "", block, flags=re.MULTILINE)
              for block in re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", section, re.MULTILINE)]
    hosts, lines, own = blocks
    return Walk(hosts, lines.splitlines(), own)


@dataclass(frozen=True)
class Person:
    """At a laptop, in a clone of rdtops, with a home of its own."""

    clone: Path
    env: dict[str, str]

    def type(self, line: str, answer: str = "") -> str:
        """Type a line after the activation, in a terminal where a question is to be answered. Return what was shown."""
        words = ["bash", "-ec", f"{walk().lines[0]}\n{line}"]
        if answer:
            return self._at_a_terminal(words, answer)
        done = subprocess.run(words, cwd=self.clone, env=self.env, capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=600)
        assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _at_a_terminal(self, words: list[str], answer: str) -> str:
        master, slave = pty.openpty()
        shown = ""
        with subprocess.Popen(words, cwd=self.clone, env=self.env, stdin=slave, stdout=slave, stderr=slave,
                              start_new_session=True) as process:
            os.close(slave)
            with contextlib.suppress(OSError):  # the terminal is gone
                while piece := os.read(master, 4096).decode(errors="replace"):
                    shown += piece
                    if piece.rstrip().endswith("[y/N]"):
                        os.write(master, answer.encode() + b"\n")
        os.close(master)
        assert process.returncode == 0, shown
        return shown


@pytest.fixture(params=["index", pytest.param("registry", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def person(request, tmp_path, named_assets) -> Iterator[Person]:
    """Before a host that has Python, an sshd and nothing else. Its pip knows an index of stand-ins, which lead to the
    packages of these tests, or that of this machine."""
    with contextlib.ExitStack() as ends:
        user, home = ends.enter_context(unix_user())
        python = Path(python_for(user))
        (home / "bin").mkdir()
        (home / "bin" / "python3").symlink_to(python)
        if request.param == "index":
            index = ends.enter_context(package_index.served(stand_ins(tmp_path / "index")))
            variables = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index.url()}
        else:
            variables = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        given = " ".join(f'"{name}={value}"' for name, value in variables.items())
        servers = home / "sshd"
        servers.mkdir()
        world = ends.enter_context(worlds.world(
            servers, gpu=f'AllowUsers {user}\nSetEnv "PATH={home}/bin:/usr/bin:/bin" {given}\n'))
        agent = ends.enter_context(worlds.agent(tmp_path, [world.key]))
        world.key.unlink()  # nothing but the agent has it
        yield Person(cloned(tmp_path / "rdtops", named_assets), laptop(tmp_path / "home", world, user, agent))


def laptop(folder: Path, world: worlds.World, user: str, agent: Path) -> dict[str, str]:
    """Return the variables of a person whose home has an ssh_config and no hosts.toml."""
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh" / "config").write_text(CONFIG.format(user=user, known=folder / ".ssh" / "known_hosts",
                                                          **world.ports))
    return {"HOME": str(folder), "PATH": "/usr/bin:/bin", "SSH_AUTH_SOCK": str(agent), "LANG": "C.UTF-8",
            "TERM": "xterm", "COLUMNS": "200"}


def cloned(folder: Path, assets: dict[str, str]) -> Path:
    """Copy this tree as a clone is after `./bootstrap.sh demo`, with the Python of these tests."""
    clone_into(folder, assets)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f'export PATH="{binaries}:$PATH" PYTHONPATH="{folder}"\n')
    (binaries / "inv").write_text(f'#!/bin/sh\nexec {sys.executable} -m invoke "$@"\n')
    (binaries / "inv").chmod(0o755)
    return folder


def stand_ins(folder: Path) -> Path:
    """Make an index of empty packages that let Python find those of these tests."""
    package_index.of_proven_environments(folder, code={"zz_tests.pth": f"{sysconfig.get_path('purelib')}\n"})
    return folder


@pytest.mark.timeout(300)
def test_the_readme_leads_from_an_alias_of_ssh_to_the_results_of_a_training(person):
    file = Path(person.env["HOME"]) / ".config" / "rdtops" / "hosts.toml"
    file.parent.mkdir(parents=True)
    file.write_text(walk().hosts.replace('preset = "tiny"', SHORT))
    activate, trust, train, watch, fetch = walk().lines
    assert activate == ". .venv/bin/activate"
    assert "Add it to" in person.type(trust, answer="y")
    said = person.type(train)
    assert "gpu7: environment: looking at the driver and the Python, 0 s" in said
    assert "gpu7: the environment ~/venvs/rdt made" in said
    assert "finished" in person.type(watch)
    person.type(fetch)
    (run,) = (person.clone / "results" / "gpu7").iterdir()
    assert (run / "report.html").exists()
    assert (run / "checkpoints" / "step_000012" / "manifest.json").exists()


def test_the_hosts_file_for_a_training_of_ones_own_is_valid(tmp_path, monkeypatch):
    (tmp_path / "hosts.toml").write_text(walk().own)
    (tmp_path / "ssh_config").write_text("Host gpu7\n  HostName 192.0.2.7\n")
    monkeypatch.setenv("RDTOPS_SSH_CONFIG", str(tmp_path / "ssh_config"))
    host = inventory.load(tmp_path / "hosts.toml").host("gpu7")
    assert (host.problem, host.preset, host.environment.extras) == ("", "libero_single_task", ("eval",))
