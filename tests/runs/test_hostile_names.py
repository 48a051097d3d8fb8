"""No name that hosts.toml or a folder may have becomes shell in what a check asks."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rdtops import preflight
from rdtops.contract.config import override, preset
from rdtops.contract.run import RunSpec
from rdtops.plugging import registry
from rdtops.preflight import assets
from rdtops.preflight.check import Subject
from rdtops.ssh.hosts import Environment, Host
from rdtops.ssh.probe import Output, Probe
from tests.told import options

HOSTILE = ("$(touch CANARY)", "`touch CANARY`", "'; touch CANARY; '", '"; touch CANARY; "', "a\ntouch CANARY\n", "-rf",
           "a b", "|| touch CANARY ||", "~/$(touch CANARY)", "*", "失败 $(touch CANARY)")


def spec_of(word: str, root: Path) -> RunSpec:
    train = override(preset("libero_single_task"), ("tracker=wandb",))
    assets = {role: f"{root}/{word}/{role}" for role in ("dataset", "pretrained", "text_encoder", "vision_encoder")}
    return RunSpec("20261124-101530-x-3fa9", word, "now", f"{root}/{word}", f"{root}/{word}/r", "s", assets, train)


def hosts_of(word: str) -> list[Host]:
    """The word wherever hosts.toml takes one. `true` stands for Python, which would take long."""
    env = {"CUDA_VISIBLE_DEVICES": word, "HF_ENDPOINT": f"http://{word}", "WANDB_BASE_URL": f"http://{word}"}
    plain = Host(name=word, address="192.0.2.1", python="true", env=env)
    return [plain, replace(plain, python=word), replace(plain, environment=Environment(conda=word)),
            replace(plain, environment=Environment(venv=word))]


def all_probes(host: Host, spec: RunSpec) -> list[Probe[Any]]:
    plugins = {p.name: p.module for p in registry.load().loaded}
    mirror, disk = plugins["encoder_mirror"], plugins["disk"]
    ours = [p for check in preflight.CHECKS for p in check.probes(Subject(host, spec))]
    source = mirror.mirror_of(host, options("encoder_mirror", host))
    return [*ours, *disk.probes(host, spec.workspace), *mirror.endpoint_probes(host, source, spec),
            mirror.probe("text_encoder", spec.assets["text_encoder"])]


@pytest.mark.parametrize("word", HOSTILE)
def test_a_hostile_word_stays_a_word(word: str, tmp_path: Path) -> None:
    for host in hosts_of(word):
        for probe in all_probes(host, spec_of(word, tmp_path)):
            subprocess.run(["sh", "-c", probe.shell], cwd=tmp_path, capture_output=True, check=False, timeout=30,
                           input=b"", env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
            assert not (tmp_path / "CANARY").exists(), probe.name
    assert list(tmp_path.rglob("CANARY")) == []


@pytest.mark.parametrize("name", ["$(touch CANARY).hdf5", "a'; touch CANARY; '.hdf5", "-n.hdf5", "a\n7 b.hdf5",
                                  "失败.hdf5"])
def test_a_hostile_file_name_is_listed_or_quoted(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(b"123")
    done = subprocess.run(["sh", "-c", assets.listing(str(tmp_path / "data"))], cwd=tmp_path, check=True,
                          capture_output=True, text=True)
    assert list(tmp_path.rglob("CANARY")) == []
    assert sum(assets.parse_folder(Output(0, done.stdout, "")).sizes.values()) >= 3


def test_the_canary_sings_where_a_word_is_not_quoted(tmp_path: Path) -> None:
    """What the tests above look for is what happens otherwise."""
    for word in HOSTILE[:2]:
        subprocess.run(["sh", "-c", f"ls {word}"], cwd=tmp_path, capture_output=True, check=False)
        (tmp_path / "CANARY").unlink()
