"""The WAN lab is what its profile says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proofs.wan import profile, wan_lab
from proofs.wan.wan_lab import SERVERS, WanLab
from rdtops.errors import LabError
from rdtops.lab import lab_processes

pytestmark = pytest.mark.lab


def brought_up(lab: WanLab, name: str = "lan") -> WanLab:
    """Only who is not root is excused; where CI runs as root a lab that cannot come up is a failure."""
    if os.geteuid():
        pytest.skip("the WAN lab makes network namespaces, which needs root")
    try:
        lab.up(name)
    except LabError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{error.message}; {error.remedy}")
        pytest.skip(f"no WAN lab here: {error.message}")
    return lab


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WanLab]:
    with WanLab(tmp_path_factory.mktemp("wan")) as lab:
        yield brought_up(lab)


def on_laptop(lab: WanLab, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*lab.laptop, *words], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(("name", "rtt_ms"), [("lan", 0), ("wan", 40), ("far", 120), ("custom:20:100:0", 20)])
def test_a_round_trip_takes_what_the_profile_says(wan: WanLab, name: str, rtt_ms: float) -> None:
    wan.set_profile(name)
    quickest_ms = min(wan.ping(1).rtt_ms for _ in range(7))  # what a busy machine adds is not the line's
    assert quickest_ms == pytest.approx(rtt_ms, abs=5)


def test_packets_are_lost_as_the_profile_says(wan: WanLab) -> None:
    wan.set_profile("custom:4:1000:10")
    echo = wan.ping(600, 0.002)
    assert 13 < echo.loss_percent < 25  # 10 % each way are 19 % of the round trips; 600 of them vary by 1.6


def test_the_line_is_as_fast_as_the_profile_says(wan: WanLab) -> None:
    wan.set_profile("custom:4:80:0")
    before = wan.sent_bytes
    send = f"ssh -F {wan.ssh_config} gpu 'timeout 1 cat >/dev/null' </dev/zero"  # the login is not counted
    on_laptop(wan, "sh", "-c", send)
    assert 2e6 < wan.sent_bytes - before < 80e6 / 8 + 2.5e6  # a second at 10 MB/s, and what waits in the queues


def test_the_gpu_is_reached_through_the_jump_and_not_otherwise(wan: WanLab) -> None:
    wan.set_profile("lan")
    assert on_laptop(wan, "ssh", "-F", str(wan.ssh_config), "gpu", "echo $HOME").stdout == f"{wan.home('gpu')}\n"
    straight = "import socket, sys; socket.create_connection((sys.argv[1], 22), 2)"
    refused = on_laptop(wan, sys.executable, "-c", straight, SERVERS["gpu"])
    assert "unreachable" in refused.stderr
    assert on_laptop(wan, sys.executable, "-c", straight, SERVERS["jump"]).returncode == 0


def test_two_labs_do_not_know_of_each_other(wan: WanLab, tmp_path: Path) -> None:
    with brought_up(WanLab(tmp_path)) as other:
        assert not {n.name for n in other.namespaces} & {n.name for n in wan.namespaces}
    assert on_laptop(wan, "ssh", "-F", str(wan.ssh_config), "gpu", "true").returncode == 0


def test_one_program_at_a_time_has_a_lab(wan: WanLab) -> None:
    with pytest.raises(LabError, match="in use by another program"):
        WanLab(wan.root).up()
    assert on_laptop(wan, "true").returncode == 0


def test_down_leaves_no_namespace_and_no_process(tmp_path: Path) -> None:
    lab = brought_up(WanLab(tmp_path), "wan")
    with subprocess.Popen([*lab.laptop, "sleep", "300"]) as left_behind:
        while "sleep" not in lab_processes.command_line(left_behind.pid).split()[:1]:
            time.sleep(0.01)  # until it is in the namespace
        inside = set().union(*(n.processes() for n in lab.namespaces))
        ended = lab.down()
    assert left_behind.pid in inside
    assert ended >= 4  # two sshd, a line, a sleep
    assert [n for n in lab.namespaces if n.exists] == []
    assert [pid for pid in inside if lab_processes.LabProcess.of(pid)] == []
    assert lab.down() == 0


def test_who_was_told_to_end_has_ended_though_nobody_finds_it_any_more() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(20)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        found = iter([{process.pid}])
        assert lab_processes.end_all(lambda: next(found, set()), grace_s=0.2) == 1
        assert lab_processes.LabProcess.of(process.pid) is None


def test_a_crashed_lab_is_repaired(tmp_path: Path) -> None:
    brought_up(WanLab(tmp_path)).down()
    crash = ("import os, signal; from proofs.wan.wan_lab import WanLab; "
             f"WanLab({str(tmp_path)!r}).up('wan'); os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run([sys.executable, "-c", crash], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -signal.SIGKILL
    lab = WanLab(tmp_path)
    assert all(n.exists for n in lab.namespaces)
    with lab:
        lab.up("lan")
        assert on_laptop(lab, "ssh", "-F", str(lab.ssh_config), "gpu", "true").returncode == 0
    assert [n for n in lab.namespaces if n.exists] == []


@pytest.mark.parametrize("name", ["moon", "custom:1:2", "custom:a:b:c", "custom:1:0:0"])
def test_an_unknown_profile_names_the_known_ones(name: str) -> None:
    with pytest.raises(LabError) as caught:
        profile.named(name)
    assert "lan, wan, far, bad" in caught.value.remedy


def test_what_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(wan_lab, "_found", lambda program: program not in ("gcc", "ip"))
    with pytest.raises(LabError, match=r"needs root, ip \(package iproute2\), gcc \(package gcc\)"):
        wan_lab.require()
