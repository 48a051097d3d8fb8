"""What the host has: GPUs, disk, workspace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rdtops import preflight
from rdtops.checks import CheckResult, Status
from rdtops.contract.run import RunSpec
from rdtops.lab.fake_gpus import Failure, FakeGpuProcess, Gpus
from rdtops.lab.site import Lab
from rdtops.launcher import Traits
from rdtops.ssh.connection import Connection
from tests.lab.checks.findings import by_name

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture
def gpu_findings(lab: Lab, link: Connection, plugins, spec):
    def look(gpus: Gpus, *settings: str) -> dict[str, CheckResult]:
        lab.set_gpus("lab2", gpus)
        return by_name(plugins["gpu"].preflight_check(link.host, link, spec(*settings), Traits(is_local=True)))
    yield look
    lab.set_gpus("lab2", Gpus())


def test_eight_idle_gpus_are_good(gpu_findings):
    found = gpu_findings(Gpus())
    assert {r.status for n, r in found.items() if n != "gpu xid"} == {Status.OK}  # the kernel's log is this machine's
    assert found["gpu count"].summary == "8 x NVIDIA A800-SXM4-80GB; 8 requested"


def test_busy_and_broken_gpus_are_named(gpu_findings):
    gpus = Gpus(memory_used_mib=(4, 70000), utilization_percent=(0, 99), ecc_errors=(0, 0, 3),
                processes=(FakeGpuProcess(1, 4711, "python", 69996),))
    found = gpu_findings(gpus)
    assert (found["gpu memory"].status, found["gpu memory"].evidence) == (Status.FAIL, "GPU 1: 11920 MiB")
    assert (found["gpu load"].status, found["gpu load"].evidence) == (Status.WARN, "GPU 1: 99 %")
    assert (found["gpu ecc"].status, found["gpu ecc"].evidence) == (Status.FAIL, "GPU 2: 3")
    assert found["gpu processes"].evidence == "GPU 1: python (pid 4711, 69996 MiB)"


def test_a_broken_driver_is_quoted(gpu_findings):
    message = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    found = gpu_findings(Gpus(fail=Failure(9, message)))["gpu"]
    assert found.status is Status.FAIL
    assert message in found.evidence


def test_a_hanging_nvidia_smi_ends_in_its_own_time(gpu_findings, plugins, monkeypatch):
    for name in ("GPUS", "PROCESSES"):
        monkeypatch.setattr(plugins["gpu"], name, replace(getattr(plugins["gpu"], name), timeout_s=1))
    found = gpu_findings(Gpus(hang_s=30))["gpu"]
    assert found.status is Status.FAIL
    assert "nvidia-smi hangs (no answer within 1 s)" in found.summary


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has an nvidia-smi of its own")
def test_a_host_without_nvidia_smi_fails_only_where_gpus_are_asked_for(lab, gpu_findings):
    program = lab.folder("lab2") / "bin/nvidia-smi"
    program.rename(program.with_name("hidden"))
    try:
        assert gpu_findings(Gpus())["gpu"].summary == "nvidia-smi is not installed, and 8 GPUs are requested"
        assert gpu_findings(Gpus(), "device=cpu")["gpu"].status is Status.SKIP
    finally:
        program.with_name("hidden").rename(program)


# --- disk and workspace ---

@pytest.fixture
def small_disk(lab: Lab) -> Iterator[Any]:
    """A file system of its own for the workspace: 64 MB, mounted with the options given."""
    folder = lab.home("lab2") / "checks-disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        mounted.append(folder)
        return folder
    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)
    folder.rmdir()


def of_disk(plugins, link: Connection, run: RunSpec) -> dict[str, CheckResult]:
    return by_name(plugins["disk"].preflight_check(link.host, link, run, {"min_free_gb": 0.0}))


def test_a_disk_with_room_is_good(plugins, link, spec):
    found = of_disk(plugins, link, spec(name="tiny"))
    assert found["disk"].status is Status.OK


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")


@needs_root
def test_a_small_disk_fails_with_the_number_that_is_missing(plugins, link, spec, small_disk):
    place = small_disk("size=64m")
    found = of_disk(plugins, link, replace(spec(), workspace=str(place / "w")))
    assert found["disk"].status is Status.FAIL
    assert found["disk"].summary == f"0.1 GB free on {place}, 314.65 GB needed: 314.58 GB are missing"
    assert found["disk speed"].status is Status.SKIP  # the last megabytes are not for trials


@needs_root
def test_few_inodes_fail(plugins, link, spec, small_disk):
    place = small_disk("size=64m,nr_inodes=50")
    found = of_disk(plugins, link, replace(spec(name="tiny"), workspace=str(place)))
    assert found["disk inodes"].status is Status.FAIL


@needs_root
def test_a_read_only_disk_fails_in_both_checks(plugins, link, spec, small_disk):
    there = replace(spec(name="tiny"), workspace=str(small_disk("ro,size=64m") / "w"))
    found = of_disk(plugins, link, there)
    assert (found["disk"].status, "is mounted read-only" in found["disk"].summary) == (Status.FAIL, True)
    assert by_name(preflight.core_checks(link, there))["workspace"].status is Status.FAIL
