"""The promises of a launcher, on a real host: the bundled ones, and Slurm on a cluster of two nodes."""

from dataclasses import replace

import pytest

from rdtops.ops import launchers
from rdtops.testing import conform
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
    assert said[-1] == "slurm: conforms, 18 tried"
    assert sum(line.startswith("skipped") for line in said) == 1  # a real cluster cannot be taken away
