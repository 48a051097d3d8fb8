"""The core checks, how many questions they ask and how long they wait; what is deployed, looked into."""

from __future__ import annotations

import importlib.util
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from rdtops import preflight
from rdtops.checks import Status
from rdtops.delivery.plan import Request
from rdtops.errors import ConnectionLost
from rdtops.lab.fake_gpus import Gpus
from rdtops.ssh import stream
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Environment
from rdtops.ssh.inventory import load
from rdtops.ssh.probe import Probe, ask
from rdtops.workflows.session import Session
from tests.lab.checks.findings import by_name, write
from tests.lab.commandline import CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]


def test_the_core_checks_say_what_an_empty_host_lacks(link, spec):
    there = spec(name="tiny")
    write(Path(there.assets["dataset"]), {"demo.txt": b"the trainer reads HDF5 only"})
    found = by_name(preflight.core_checks(link, there))
    good = {"python", "packages", "launcher", "configuration", "workspace", "clock", "memory", "open files", "shm",
            "host keys", "rendezvous", "tracker", "runs"}
    assert {n for n in good if found[n].status is not Status.OK} == set(), found
    lacking = {n: found[n].remedy for n in ("code", "dataset", "pretrained")}
    assert set(lacking.values()) == {"inv deploy --host lab2"}
    assert {n for n, r in found.items() if r.status is Status.SKIP} == {
        "imports", "cuda", "episodes", "statistics", "weights", "conventions"}


@pytest.mark.parametrize(("environment", "words"), [
    ({"conda": "rdt"}, "there is no conda environment rdt; looked in ~/miniconda3/envs/rdt"),
    ({"venv": "~/no such venv"}, "there is no venv ~/no such venv")])
def test_a_missing_environment_names_the_places_searched(link, spec, environment, words):
    elsewhere = Connection(replace(link.host, environment=Environment(**environment)))
    with elsewhere:
        found = by_name(preflight.core_checks(elsewhere, spec(name="tiny")))["python"]
    assert found.status is Status.FAIL
    assert words in found.evidence


# --- round trips ---

@pytest.fixture
def session(inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("RDTOPS_HOSTS", str(inventory))
    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path))
    opened = Session(lambda _: None, lambda *_: None)
    yield opened
    opened.close()


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every command that is started over the connection from now on."""
    started: list[str] = []
    start = paramiko.Channel.exec_command

    def counted(channel: paramiko.Channel, line: str) -> None:
        started.append(line)
        start(channel, line)

    monkeypatch.setattr(paramiko.Channel, "exec_command", counted)
    return started


def test_a_whole_check_needs_at_most_three_round_trips_after_the_login(session, executions):
    host = session.on(session.inventory.host("lab2"))
    report = host.report(host.prepare(Request(preset="tiny")), again=True)
    assert {"disk", "gpu", "md5", "encoder_mirror"} <= set(report.plugins)
    assert len(report.results) > 30
    assert 0 < len(executions) <= 3, executions


@pytest.mark.slow
def test_two_hosts_are_checked_side_by_side(lab, plugins, tiny_hosts, tmp_path):
    """On both nvidia-smi hangs for longer than its probes wait, and both wait at once."""
    inv = CommandLine(tmp_path, tiny_hosts)
    begun_s = time.monotonic()
    inv("check --host lab2 --json")
    quick_s = time.monotonic() - begun_s
    for host in ("lab", "lab2"):
        lab.set_gpus(host, Gpus(hang_s=120))
    try:
        begun_s = time.monotonic()
        rows = inv("check --host lab,lab2 --json").rows()
        took_s = time.monotonic() - begun_s
    finally:
        for host in ("lab", "lab2"):
            lab.set_gpus(host, Gpus())
    assert {row["host"] for row in rows} == {"lab", "lab2"}
    waited_s = plugins["gpu"].GPUS.timeout_s
    assert waited_s < took_s < 2 * waited_s + quick_s


def test_a_hanging_probe_costs_its_own_result_and_its_own_time(session, lab, monkeypatch):
    """nvidia-smi sleeps; its probes end in their own time, and everything else is answered."""
    gpu = next(p.module for p in session.registry.loaded if p.name == "gpu")
    for name in ("GPUS", "PROCESSES", "INSTANCES"):
        monkeypatch.setattr(gpu, name, replace(getattr(gpu, name), timeout_s=1))
    host = session.on(session.inventory.host("lab2"))
    prepared = host.prepare(Request(preset="tiny"))
    lab.set_gpus("lab2", Gpus(hang_s=60))
    try:
        begun_s = time.monotonic()
        report = host.report(prepared, again=True)
        assert time.monotonic() - begun_s < 30
    finally:
        lab.set_gpus("lab2", Gpus())
    found = by_name(list(report.results))
    assert (found["gpu"].status, "no answer within 1 s" in found["gpu"].evidence) == (Status.SKIP, True)
    assert {found[n].status for n in ("clock", "python", "packages", "memory", "disk", "runs")} == {Status.OK}


def test_a_link_that_freezes_within_a_check_is_noticed_before_its_slowest_probe_may_end(lab, inventory, monkeypatch):
    monkeypatch.setattr(stream, "PING_AFTER_S", 1.0)
    monkeypatch.setattr(stream, "PING_S", 5.0)
    with Connection(load(inventory).host("lab2")) as connection:
        connection.open()
        freeze = threading.Timer(1.0, lab.freeze, ["lab2"])
        freeze.start()
        begun_s = time.monotonic()
        try:
            with pytest.raises(ConnectionLost, match="no answer from lab2"):
                ask(connection, [Probe("slow", "sleep 40", str, timeout_s=90)])
        finally:
            freeze.join()
            lab.thaw("lab2")
        assert time.monotonic() - begun_s < 20


# --- what is deployed, looked into ---

@pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="the host's Python is this one")
def test_demonstrations_and_weights_are_looked_into_on_the_host(link, spec, tiny_hosts, workspace):
    made = tiny_hosts.parent
    there = replace(spec(name="tiny"), release=str(ROOT))  # this tree, as if it were deployed
    shutil.copytree(ROOT / "rdtops/lab/data", there.assets["dataset"])
    shutil.copytree(made / "rdt-tiny", there.assets["pretrained"])
    sealed = ROOT / "snapshot.json"
    assert not sealed.exists()
    sealed.write_text("{}")
    try:
        found = by_name(preflight.core_checks(link, there))
        assert found["imports"].status is Status.OK, found["imports"]
        assert found["weights"].summary == "114 tensors, the names and shapes of tiny"
        assert found["episodes"].status is Status.OK, found["episodes"]
        (file,) = Path(there.assets["dataset"]).glob("*.hdf5")
        file.write_bytes(file.read_bytes()[:-1000])
        weights = Path(there.assets["pretrained"], "pytorch_model.bin")
        weights.write_bytes(weights.read_bytes()[:-100])
        found = by_name(preflight.core_checks(link, there))
    finally:
        sealed.unlink()
    assert (found["episodes"].status, file.name in found["episodes"].summary) == (Status.FAIL, True)
    assert (found["weights"].status, "its end is missing" in found["weights"].summary) == (Status.FAIL, True)
    assert found["dataset"].status is Status.OK  # by its size nothing shows
