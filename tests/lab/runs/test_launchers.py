"""The promises of a launcher, on a real host: the bundled ones, and Slurm on a cluster of two nodes."""

import types
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.contract.evaluation import EvalPaths
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunPaths, RunState
from rdtops.errors import RunError
from rdtops.hookspecs import hookimpl
from rdtops.hostlib import processes
from rdtops.plugging import registry
from rdtops.plugging.registry import Registry
from rdtops.runs import admission, detached, evaluations, jobs, launchers, overview
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.testing import conform, load
from rdtops.testing.launching import promises

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]


@pytest.mark.parametrize("name", ["tmux", pytest.param("setsid", marks=pytest.mark.slow)])
def test_a_bundled_launcher_keeps_its_promises(name, rdtops_lab, lab_host):
    host = replace(lab_host, launcher=name)
    tried = list(promises(launchers.launcher(host), host, host.workspace, gone=lambda: rdtops_lab.stop_server("lab2"),
                          back=rdtops_lab.up))
    assert [p for p in tried if p.holds is not True] == []
    assert len(tried) >= 15


def test_slurm_keeps_its_promises_on_two_nodes(cluster, rdtops_lab, tmp_path, monkeypatch):
    """As a third party tries its own: with the program of the kit, on a host of hosts.toml."""
    rdtops_lab.write_inventory(tmp_path / "hosts.toml", {})
    text = (tmp_path / "hosts.toml").read_text()
    (tmp_path / "hosts.toml").write_text(text.replace("[hosts.lab]", '[hosts.lab]\nlauncher = "slurm"'))
    monkeypatch.setenv("RDTOPS_HOSTS", str(tmp_path / "hosts.toml"))
    said: list[str] = []
    code = conform.main(["slurm", "--host", "lab", "--set", "nodes=2", "--set", "time='5'"], said.append)
    assert code == 0, "\n".join(said)
    assert said[-1] == "slurm: conforms, 18 tested"
    assert sum(line.startswith("skipped") for line in said) == 1  # a real cluster cannot be taken away


class Nohup:
    """A launcher as a third party wrote it before there were traits: the methods of the protocol and nothing else."""

    name, is_local = "nohup", True

    def __init__(self) -> None:
        own = detached.Detached("setsid")
        self.files, self.spread, self.inside = own.files, own.spread, own.inside
        self.submit, self.states, self.stop = own.submit, own.states, own.stop
        self.start_line, self.attach_line = own.start_line, own.attach_line


@pytest.fixture
def nohup(monkeypatch):
    module = types.ModuleType("nohup")
    module.register_launchers = hookimpl(lambda: [Nohup()])
    plugins = Registry([load(module)])
    monkeypatch.setattr(registry, "loaded", lambda: plugins)


def test_a_launcher_without_traits_starts_a_training_once_and_stops_it(nohup, lab_host, lab_spec):
    """What the host has prepared is submitted. The training itself ends soon: its data are not there."""
    spec = lab_spec()
    release = Path(spec.release)
    release.mkdir(parents=True)
    (release / "snapshot.json").touch()
    (release / "rdtops").symlink_to(Path(conform.__file__).parents[1])
    with Connection(replace(lab_host, launcher="nohup")) as connection:
        begun, submitted = admission.admit(connection, spec)
        assert (begun, submitted.words, submitted.already) == (spec, "setsid", False)
        (run,) = overview.list_runs(connection)
        assert (run.run_id, run.job) == (spec.run_id, None)  # its own files tell, as of any training on this machine
        if run.state.can_be_stopped:
            overview.stop(connection, run, 1.0)
        assert overview.find(connection).state.ended
    kinds = [event.kind for event in Journal(Path(str(spec.paths.journal))).read()]
    assert kinds.count("launched") == 1


EVALUATES = """\
cd "$(dirname "$0")" || exit 1
sleep 300 &
echo "$$ $(cut -d' ' -f22 /proc/$$/stat) $(cat /proc/sys/kernel/random/boot_id)" > process
wait
"""


def test_an_evaluation_is_stopped_with_what_it_started(lab_host):
    """A line of sh stands for the simulator, which is not everywhere."""
    paths = EvalPaths(RunPaths(lab_host.workspace, "20261124-101530-x-3fa9"), "step_000010-libero_90-0a1b2c3d")
    job = jobs.evaluation_job(paths)
    with Connection(replace(lab_host, launcher="tmux")) as connection:
        connection.run(Command("mkdir", "-p", str(job.folder)))
        overview.write_file(connection, job.script, EVALUATES)
        assert launchers.launcher(connection.host).submit(connection, job).words == "tmux"
        run = overview.find(connection)
        view = evaluations.find(connection, run)
        assert (view.name, view.state) == (paths.name, RunState.RUNNING)
        assert len(processes.carrying(job.tag)) == 2
        evaluations.stop(connection, view, 5.0)
        assert evaluations.find(connection, run).state is RunState.STOPPED
        assert processes.carrying(job.tag) == []
        with pytest.raises(RunError, match="is stopped, not running"):
            evaluations.stop(connection, evaluations.find(connection, run))
