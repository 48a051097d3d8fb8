"""What was brought there: encoders, their mirror, MD5 sums, checkpoints."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from rdtops.checks import CheckResult, Status
from rdtops.contract.run import Checkpoint
from rdtops.errors import PreflightVeto, RdtopsError
from rdtops.hostlib import manifest
from rdtops.ssh.connection import Connection
from rdtops.ssh.inventory import load
from tests.lab.checks.findings import by_name, write
from tests.model_hub import HubHandler, model_hub
from tests.told import options

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

T5 = {"config.json": b'{"d_model": 4096}', "pytorch_model.bin": b"t5" * 1000, "spiece.model": b"words",
      "tf_model.h5": b"not wanted"}
SIGLIP = {"config.json": b'{"vision_config": {"hidden_size": 1152, "image_size": 384, "patch_size": 14}}',
          "model.safetensors": b"siglip" * 1000}


def test_missing_encoders_warn_are_brought_and_then_good(plugins, link, spec, tmp_path):
    there = spec()
    local = {"text_encoder": write(tmp_path / "t5", T5), "vision_encoder": write(tmp_path / "siglip", SIGLIP)}
    mirror, md5 = plugins["encoder_mirror"], plugins["md5"]

    def findings() -> dict[str, CheckResult]:
        return by_name([*mirror.preflight_check(link.host, link, there, local, options("encoder_mirror", link.host)),
                        *md5.preflight_check(link.host, link, there, local)])

    before = {n: r.status for n, r in findings().items()}
    wanted = ("text_encoder", "vision_encoder", "md5 text_encoder", "md5 vision_encoder")
    assert {before[n] for n in wanted} == {Status.WARN}  # a FAIL of either would keep before_train from its work
    mirror.before_train(link.host, link, there, local, options("encoder_mirror", link.host))
    after = findings()
    assert {after[n].status for n in wanted} == {Status.OK}
    assert after["md5 text_encoder"].summary == "4 files, 0.0 MB, the same MD5 as here"


def test_a_changed_encoder_fails_by_name(plugins, link, spec, tmp_path):
    there = spec()
    local = {"text_encoder": write(tmp_path / "t5", T5)}
    write(Path(there.assets["text_encoder"]), {**T5, "spiece.model": b"wOrds"})
    found = by_name(plugins["md5"].preflight_check(link.host, link, there, local))["md5 text_encoder"]
    assert found.status is Status.FAIL
    assert found.evidence.startswith("spiece.model: ")
    assert found.remedy == "inv deploy --host lab2"


def test_an_incomplete_copy_vetoes_the_launch(plugins, link, spec, tmp_path):
    local = {"text_encoder": write(tmp_path / "t5", {n: c for n, c in T5.items() if n != "spiece.model"}),
             "vision_encoder": write(tmp_path / "siglip", SIGLIP)}
    mirror = plugins["encoder_mirror"]
    with pytest.raises(PreflightVeto, match="the copy on this laptop is unfit: tokenizer missing"):
        mirror.before_train(link.host, link, spec(), local, options("encoder_mirror", link.host))


class Hub(HubHandler):
    """A mirror that tells which tokens it got, and can be made to wait."""

    tokens: ClassVar[list[str | None]] = []
    asked = threading.Event()
    open_for_all = threading.Event()  # cleared: every request waits

    def notice(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        self.asked.set()
        self.open_for_all.wait(20)


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.tokens.clear()
    Hub.asked.clear()
    Hub.open_for_all.set()
    with model_hub({"google/t5-v1_1-xxl": T5, "google/siglip-so400m-patch14-384": SIGLIP}, handler=Hub) as endpoint:
        yield endpoint
        Hub.open_for_all.set()


def test_encoders_are_downloaded_there_through_the_mirror(plugins, link, spec, hub):
    there = spec()
    host = replace(link.host, env={"HF_ENDPOINT": hub, "HF_TOKEN": "hf_secret"})
    mirror = plugins["encoder_mirror"]
    found = by_name(mirror.preflight_check(host, link, there, {}, options("encoder_mirror", host)))
    assert {found[role].status for role in ("text_encoder", "vision_encoder")} == {Status.WARN}
    assert (found["hf endpoint"].status, "serves the encoders" in found["hf endpoint"].summary) == (Status.OK, True)
    mirror.before_train(host, link, there, {}, options("encoder_mirror", host))
    folder = Path(there.assets["text_encoder"])
    assert (folder / "pytorch_model.bin").read_bytes() == T5["pytorch_model.bin"]
    assert not (folder / "tf_model.h5").exists()
    assert "Bearer hf_secret" in Hub.tokens  # the variables of hosts.toml reach the download
    again = mirror.preflight_check(host, link, there, {}, options("encoder_mirror", host))
    assert {r.status for r in again} == {Status.OK}


def test_a_mirror_that_refuses_vetoes_the_launch_and_is_named(plugins, link, spec):
    host = replace(link.host, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    words = "google/t5-v1_1-xxl could not be downloaded on lab2 from http://127.0.0.1:9: exit 1"
    with pytest.raises(PreflightVeto, match=re.escape(words)) as caught:
        plugins["encoder_mirror"].before_train(host, link, spec(), {}, options("encoder_mirror", host))
    assert caught.value.remedy.startswith("inv train --host lab2")


def test_a_link_that_freezes_within_a_download_ends_it_in_bounded_time(plugins, lab, inventory, spec, hub, monkeypatch):
    monkeypatch.setattr(plugins["encoder_mirror"], "SILENCE_S", 7.0)  # more than the 5 s between two signs of life
    Hub.open_for_all.clear()
    freeze = threading.Thread(target=lambda: Hub.asked.wait(20) and lab.freeze("lab2"))
    host = replace(load(inventory).host("lab2"), env={"HF_ENDPOINT": hub})
    begun_s = time.monotonic()
    freeze.start()
    try:
        with Connection(host) as connection, pytest.raises(PreflightVeto, match="no answer from lab2"):
            plugins["encoder_mirror"].before_train(
                host, connection, spec(), {}, options("encoder_mirror", host))
        assert 6 < time.monotonic() - begun_s < 25  # the silence, then the question whose fault it is
    finally:
        freeze.join()
        lab.thaw("lab2")


@pytest.fixture
def checkpoint(workspace: Path) -> Checkpoint:
    folder = write(workspace / "step_000010", {"model.safetensors": b"weights"})
    write(folder / "ema", {"name with space": b"average"})
    sealed = manifest.seal(folder)
    return Checkpoint(10, folder.name, str(folder), sealed.size_bytes, sealed.digest)


def test_a_whole_checkpoint_is_recorded_as_verified(plugins, link, checkpoint):
    record = plugins["md5"].after_checkpoint(link, checkpoint)
    assert record == {"verified": True, "files": 2, "size_bytes": 14, "digest": checkpoint.digest}


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_of_a_checkpoint_is_named(plugins, link, checkpoint, damage):
    file = Path(checkpoint.path, "ema", "name with space")
    file.write_bytes(b"avarage") if damage == "changed" else file.unlink()
    with pytest.raises(RdtopsError, match="ema/name with space is not what the trainer wrote"):
        plugins["md5"].after_checkpoint(link, checkpoint)


def test_another_manifest_than_the_one_announced_is_named(plugins, link, checkpoint):
    with pytest.raises(RdtopsError, match=r"manifest\.json is not what the trainer wrote"):
        plugins["md5"].after_checkpoint(link, replace(checkpoint, digest="0" * 32))


def test_a_checkpoint_that_retention_has_deleted_is_no_error(plugins, link, checkpoint):
    Path(checkpoint.path, "manifest.json").write_text("")
    with pytest.raises(RdtopsError, match="step_000010 cannot be verified"):
        plugins["md5"].after_checkpoint(link, checkpoint)
    shutil.rmtree(checkpoint.path)
    assert plugins["md5"].after_checkpoint(link, checkpoint) == {"skipped": "it was deleted before it was read"}
