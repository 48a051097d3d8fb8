"""A container as an environment, run by a real sh. Debian 12 has no apptainer: a program of that name stands in for it,
which does what the manual says of `apptainer exec`: it runs the program, with the environment it was given."""

import os
import subprocess
from dataclasses import replace

import pytest

from rdtops.errors import ConfigError
from rdtops.ssh import environment, inventory
from rdtops.ssh.command import Command
from rdtops.ssh.hosts import Environment, Host

STAND_IN = """\
#!/bin/sh
echo "$@" > "$SEEN"
echo "$APPTAINER_BIND" >> "$SEEN"
while [ "$1" != python3 ]; do shift; done
exec "$@"
"""
HOST = Host(name="h", address="192.0.2.1", workspace="~/rdt ops",
            environment=Environment(container="~/images/it's.sif", binds=("/shared/data", "~/more")))


@pytest.fixture
def home(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "it's.sif").touch()
    (tmp_path / "bin").mkdir()
    for name in ("apptainer", "singularity"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def run(home, line, host=HOST):
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(["sh", "-c", environment.activation(host) + line],
                          env={"HOME": str(home), "PATH": path, "SEEN": str(home / "seen")},
                          capture_output=True, text=True, check=False)


@pytest.mark.parametrize("runner", ["apptainer", "singularity"])
def test_python_is_that_of_the_image_with_the_gpus_and_folders(home, runner):
    (home / "bin" / {"apptainer": "singularity", "singularity": "apptainer"}[runner]).unlink()
    assert environment.python(HOST) == "python"
    program = Command("python", "-c", "import sys; print('inside', sys.argv[1])", "a 'word'").shell()
    done = run(home, f"exec env X=1 {program}")  # as a launch script runs it, not as a function of the shell
    assert done.stdout == "inside a 'word'\n", done.stderr
    words, binds = (home / "seen").read_text().splitlines()[:2]
    assert words.startswith(f"exec --nv {home}/images/it's.sif python3 -c")
    assert binds == f"{home}/rdt ops,/shared/data,{home}/more"


def test_a_second_activation_writes_nothing(home):
    run(home, "python -c 1")
    wrapper = home / ".cache/rdtops/container/python"
    before = wrapper.stat().st_mtime_ns
    assert run(home, "python -c 1").returncode == 0
    assert wrapper.stat().st_mtime_ns == before


def test_an_image_or_runner_that_is_not_there_is_named(home):
    gone = replace(HOST, environment=Environment(container="/nowhere/rdt.sif"))
    assert run(home, "python -c 1", gone).stderr == "there is no image /nowhere/rdt.sif\n"
    for name in ("apptainer", "singularity"):
        (home / "bin" / name).unlink()
    done = run(home, "python -c 1")
    assert done.returncode != 0
    assert "there is neither apptainer nor singularity on this host" in done.stderr


@pytest.mark.parametrize(("declared", "words"), [
    ('{ container = "/a.sif", venv = "/v" }', "venv and container cannot be used together"),
    ('{ venv = "/v", binds = ["/data"] }', "binds require a container"),
    ('{ container = "/a.sif", binds = ["/a,/b"] }', "hosts.h.environment.binds"),
])
def test_hosts_toml_takes_one_environment(tmp_path, declared, words):
    (tmp_path / "hosts.toml").write_text(f'[hosts.h]\naddress = "192.0.2.1"\nenvironment = {declared}\n')
    with pytest.raises(ConfigError, match=words):
        inventory.load(tmp_path / "hosts.toml")


def test_hosts_toml_declares_a_container(tmp_path):
    (tmp_path / "hosts.toml").write_text('[hosts.h]\naddress = "192.0.2.1"\nlauncher = "slurm"\n'
                                         'environment = { container = "/a.sif", binds = ["/data"] }\n')
    host = inventory.load(tmp_path / "hosts.toml").host("h")
    assert host.environment == Environment(container="/a.sif", binds=("/data",))
    assert host.launcher == "slurm"
