"""inv status: every run of every host side by side, with what each uses, and a host that cannot be reached as a row."""

import re
import signal

import pytest

from rdtops.lab.fake_gpus import FakeGpuProcess, Gpus
from tests.lab.commandline import CommandLine
from tests.lab.watched import Alive

pytestmark = pytest.mark.lab
GONE = """
[hosts.gone]
address = "127.0.0.1"
port = 1
user = "nobody"
"""


@pytest.fixture
def inv(lab_hosts, tmp_path):
    lab_hosts.write_text(lab_hosts.read_text() + GONE)
    return CommandLine(tmp_path, lab_hosts)


@pytest.fixture
def two(lab):
    with Alive(lab, "lab", "20991231-000000-one-0001") as one, Alive(lab, "lab2", "20991231-000000-two-0002") as two:
        one.journal.append("step", step=30, loss=0.25, samples_per_s=12.5, eta_s=600.0)
        one.journal.append("checkpoint", step=20, name="step_000020", size_bytes=1, digest="d")
        yield one, two
    for host in ("lab", "lab2"):
        lab.set_gpus(host, Gpus())


def test_without_a_host_every_host_is_asked_and_one_that_is_gone_is_a_row(inv, lab, two):
    one, other = two
    lab.set_gpus("lab", Gpus(memory_used_mib=(4, 71_680), utilization_percent=(0, 97),
                             processes=(FakeGpuProcess(1, one.process.pid, "python", 71_000),)))
    done = inv.refused("status", 3, "gone no status", "cannot reach gone (nobody@127.0.0.1:1)",
                       "-> inv hosts --ping --host gone")
    assert f"running   {one.run_id}  step 30 of 150  loss 0.2500  12.5 samples/s  10 min to go" in done.out
    assert re.search(r"step_000020, \d+ s ago   GPU 1: 97 %, 70 of 80 GiB   last event \d+ s ago", done.out)
    assert f"running   {other.run_id}" in done.out
    rows = {row.get("run_id", row["host"]): row for row in inv("status --json").rows()}
    assert rows["gone"]["problem"].startswith("cannot reach gone")
    assert [gpu["index"] for gpu in rows[one.run_id]["gpus"]] == [1]
    assert rows[one.run_id]["eta_s"] == 600.0


def test_gpus_that_hide_their_processes_are_told_by_what_the_run_may_use(inv, lab, two):
    """As in a container, where the driver knows other process ids."""
    _, other = two
    config = other.folder / "config.json"
    config.write_text(config.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    (row,) = [r for r in inv.good("status --host lab2 --json").rows() if r["run_id"] == other.run_id]
    assert [gpu["index"] for gpu in row["gpus"]] == [3, 5]


def test_what_runs_and_the_newest_are_shown_and_with_all_every_run(inv, lab, two):
    with Alive(lab, "lab", "20980101-000000-old-0003") as old, Alive(lab, "lab", "20990101-000000-done-0004") as done:
        done.ends()
        shown = inv.good("status --host lab").out
        assert old.run_id in shown
        assert done.run_id not in shown
        assert done.run_id in inv.good("status --host lab --all").out
        assert inv.good("status --host lab --run 20990101 --json").rows()[0]["state"] == "finished"


def test_gpus_are_watched_through_a_cut_link_and_in_a_pipe_each_is_a_line(inv, lab):
    lab.set_gpus("lab", Gpus(count=2, memory_used_mib=(40_960,), utilization_percent=(97,)))
    watching = inv.started("gpu --watch --host lab")
    try:
        assert re.fullmatch(r"\d\d:\d\d:\d\d  lab  GPU 0   97 %  40.0 of 80 GiB  63 °C  372 W\n",
                            watching.stdout.readline())
        lab.stop_server("lab-jump")
        assert any("trying again in" in line for line in watching.stdout)
        lab.start_server("lab-jump")
        assert any("GPU 1" in line for line in watching.stdout)
    finally:
        watching.kill()
        watching.communicate()
        lab.up()


def test_an_interrupted_follower_says_that_the_run_continues(inv, lab):
    with Alive(lab, "lab", "20980101-000000-kept-0005") as kept:
        kept.journal.append("step", step=1, loss=0.5)
        following = inv.started(f"watch --plain --host lab --run {kept.run_id}")
        try:
            assert "connecting to lab" in following.stderr.readline()
            assert following.stdout.readline()
            following.send_signal(signal.SIGINT)
            _, err = following.communicate(timeout=30)
        finally:
            following.kill()
        assert following.returncode == 130
        assert "Detached. The run continues on the host." in err
        assert "running" in inv.good(f"status --host lab --run {kept.run_id}").out
