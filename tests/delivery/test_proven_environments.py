"""Which of the proven environments a host gets, by its driver and its Python."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rdtops.delivery import provision, requirements
from rdtops.delivery.proven_environments import choose, proven
from rdtops.errors import RunError
from rdtops.hostlib import nvidia_smi
from rdtops.ssh.hosts import Environment, Host
from tests import package_index

HOST = Host(name="h", address="192.0.2.1", environment=Environment(venv="~/v"))
# as nvidia-smi --query-gpu=driver_version --format=csv,noheader,nounits printed it
RECORDED = {
    "535.129.03\n" * 8: "535.129.03", "580.65.06\n": "580.65.06", "470.256.02\n470.256.02\n": "470.256.02",
    "Unable to determine the device handle for GPU0000:3D:00.0: Unknown Error\n550.54.15\n": "550.54.15",
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n": "",
    "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.183\n": "",
    "No devices were found\n": "", "no answer within 10 s": "", "": "", f"{'9' * 5000}\n": ""}


CUDA_11 = 'requirements = ["torch==2.6.0+cu118"], extra_index_urls = ["https://download.pytorch.org/whl/cu118"]'


def declaring(**declared) -> Host:
    return replace(HOST, environment=Environment(venv="~/v", **declared))


@pytest.mark.parametrize(("text", "driver"), RECORDED.items())
def test_the_driver_is_read_from_what_nvidia_smi_prints(text, driver):
    assert nvidia_smi.driver(text) == driver


@pytest.mark.parametrize(("driver", "python", "torch", "why"), [
    ("580.65.06", "3.12", "2.13.0", ""), ("", "3.11", "2.13.0", ""), ("", "3.14", "2.13.0", ""),
    ("535.129.03", "3.11", "2.6.0", "torch 2.13.0 was built for CUDA 13, which needs driver 580 or newer"),
    ("525.60.13", "3.10", "2.6.0", "needs driver 580 or newer; the host has 525.60.13"),
    ("580.65.06", "3.10", "2.6.0", "the packages of torch 2.13.0 need Python 3.11 or newer"),
    ("", "3.10", "2.6.0", "the packages of torch 2.13.0 need Python 3.11 or newer"),
    ("579.99", "", "2.6.0", "needs driver 580")])
def test_a_host_gets_the_newest_torch_that_its_driver_and_its_python_run(driver, python, torch, why):
    chosen = choose(HOST, driver, python)
    assert chosen.environment.torch == torch
    assert why in chosen.why
    assert bool(chosen.why) == bool(why)


@pytest.mark.parametrize(("declared", "driver", "python", "words", "remedy"), [
    ({}, "470.256.02", "3.11", "the driver 470.256.02 is too old for CUDA 12",
     f"{CUDA_11} under [hosts.h.environment] in hosts.toml; or ask the administrator of h for driver 525 or newer"),
    ({}, "390.1", "3.11", "the driver 390.1 is too old", "ask the administrator of h for driver 525 or newer"),
    ({"index_url": "https://download.pytorch.org/whl/cu130"}, "535.1", "3.11", "too old for CUDA 13",
     'extra_index_urls = ["https://download.pytorch.org/whl/cu126"] under'),
    ({}, "535.1", "3.13", "has packages for Python 3.10 to 3.12, and the host has 3.13",
     'python = "python3.12" under [hosts.h] in hosts.toml'),
    ({"extras": ("trackers", "eval")}, "580.1", "3.12", "the extra eval has packages for Python up to 3.11",
     'python = "python3.11" under [hosts.h] in hosts.toml'),
    ({}, "580.1", "3.9", "the trainer needs 3.10", 'python = "python3.11" under [hosts.h]')])
def test_where_none_fits_nothing_is_downloaded_and_what_to_do_is_said(declared, driver, python, words, remedy):
    with pytest.raises(RunError) as refused:
        choose(declaring(**declared), driver, python)
    assert words in refused.value.message
    assert refused.value.remedy.startswith(remedy)


@pytest.mark.parametrize(("declared", "driver", "torch"), [
    ({"requirements": ("Torch==2.6.0+cu118",)}, "470.1", "2.6.0"),  # the other packages of that torch's environment
    ({"requirements": ("torch==2.8.0+cu126",)}, "470.1", "2.13.0"),
    ({"requirements": ("torch",)}, "470.1", "2.13.0"),
    ({"extras": ("eval",)}, "535.1", "2.6.0"),
    ({"index_url": "https://download.pytorch.org/whl/cu126"}, "535.1", "2.13.0"),
    ({"extra_index_urls": ("https://mirror.example/pytorch/whl/cu118/",)}, "470.1", "2.13.0"),
    ({"index_url": "https://download.pytorch.org/whl/cpu"}, "470.1", "2.13.0"),
    ({"index_url": "https://pypi.example/simple"}, "535.1", "2.6.0")])
def test_what_hosts_toml_says_of_torch_comes_before_the_driver(declared, driver, torch):
    assert choose(declaring(**declared), driver, "3.11").environment.torch == torch


def test_the_pins_of_a_proven_environment_are_all_that_holds_its_packages():
    chosen = choose(HOST, "535.1", "3.11")
    found = provision.recipe(HOST.environment, chosen)
    assert found.constraints == chosen.environment.constraints
    assert "torch==2.6.0" in found.constraints
    assert "transformers==5.23.0" not in found.constraints
    assert (found.torch, found.why) == ("torch==2.6.0", chosen.why)
    own = declaring(requirements=("torch==2.6.0+cu118",))
    found = provision.recipe(own.environment, choose(own, "470.1"))
    assert "transformers==4.51.3" in found.constraints
    assert [line for line in found.constraints if line.startswith("torch")] == []
    assert found.torch == "torch==2.6.0+cu118"


def test_each_proven_environment_has_all_packages_of_the_trainer_at_its_floor_or_above():
    floors = requirements.lowest(requirements.of_trainer())
    for each in proven():
        assert [name for name, floor in floors.items()
                if requirements.numbers(each.pins[name]) < requirements.numbers(floor)] == []


def test_pip_takes_the_versions_of_the_environment_that_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index = package_index.of_proven_environments(tmp_path / "simple")
    host = declaring(index_url=index.as_uri(), offline=True)
    wanted = provision.recipe(host.environment, choose(host, "535.129.03", "3.11"))
    folder = provision.fetch_wheels(wanted, {"python": "3.11", "machine": "x86_64", "glibc": "2.35"},
                                    wanted.digest("3.11"))
    versions = dict(wheel.name.split("-")[:2] for wheel in folder.iterdir())
    assert versions == proven()[1].pins
