"""The promises of a launcher, on a real host: the bundled ones, and Slurm on a cluster of two nodes."""

from dataclasses import replace

import pytest

from rdtops.ops import launchers
from rdtops.remote import inventory
from rdtops.testing.launching import promises

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]


@pytest.mark.parametrize("name", ["tmux", "setsid"])
def test_a_bundled_launcher_keeps_its_promises(name, rdtops_lab, lab_host):
    host = replace(lab_host, launcher=name)
    tried = list(promises(launchers.of(host), host, host.workspace, gone=lambda: rdtops_lab.stop_server("lab2"),
                          back=rdtops_lab.up))
    assert [p for p in tried if p.holds is not True] == []
    assert len(tried) >= 15


def test_slurm_keeps_its_promises_on_two_nodes(cluster, rdtops_lab, tmp_path):
    rdtops_lab.write_inventory(tmp_path / "hosts.toml", {})
    host = replace(inventory.load(tmp_path / "hosts.toml").host("lab"), launcher="slurm",
                   plugins={"slurm": {"nodes": 2, "time": "5"}})
    tried = list(promises(launchers.of(host), host, str(rdtops_lab.home("lab") / tmp_path.name),
                          gone=lambda: rdtops_lab.stop_server("lab"), back=rdtops_lab.up))
    assert [p for p in tried if p.holds is not True] == []
