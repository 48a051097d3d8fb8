import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.checks import Status
from rdtops.contract.run import Checkpoint
from rdtops.errors import ConnectionLost, RdtopsError, TransferError
from rdtops.hostlib import manifest
from rdtops.porter.porter import Entry
from rdtops.transfer.transfer_plan import Item, Plan
from tests.plugins.conftest import BROKEN, ScriptedConnection, said

MD5 = hashlib.md5(b"").hexdigest()
SEALED = manifest.Manifest((manifest.FileDigest("a", 1, MD5),))
CHECKPOINT = Checkpoint(10, "step_000010", "/w/step_000010", 20, SEALED.digest)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "step_000010"
    (folder / "ema").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "ema" / "name with space").write_bytes(b"average")
    sealed = manifest.seal(folder)
    return Checkpoint(10, folder.name, str(folder), sealed.size_bytes, sealed.digest)


def plan(**actions):
    items = [Item(name, 500_000_000, MD5, action, reason, Entry(name, "file", 500_000_000, MD5, 0, False))
             for name, (action, reason) in actions.items()]
    return Plan("/here", "/there", tuple(items), "up")


SAME, GONE, OTHER = ("skip", "same MD5"), ("send", "missing on the host"), ("send", "MD5 differs")


@pytest.mark.parametrize(("role", "there", "status", "words"), [
    ("dataset", {"a": SAME, "b": SAME}, Status.OK, "2 files, 1.0 GB, the same MD5 as here"),
    ("dataset", {"a": SAME}, Status.OK, "1 file, 500.0 MB, the same MD5 as here"),
    ("dataset", {"a": SAME, "b": OTHER}, Status.FAIL, "1 of 2 files differ"),
    ("dataset", {"a": GONE}, Status.FAIL, "1 of 1 file differ"),
    ("dataset", {}, Status.FAIL, "/here is empty on this laptop"),
    ("text_encoder", {"a": GONE, "b": GONE}, Status.WARN, "not on the host yet"),
    ("text_encoder", {"a": SAME, "b": GONE}, Status.FAIL, "1 of 2 files differ"),
    ("text_encoder", {"a": OTHER}, Status.FAIL, "1 of 1 file differ"),
])
def test_a_plan_says_how_equal_both_sides_are(plugins, host, role, there, status, words):
    found = plugins["md5"].compared(role, plan(**there), host(), "x")
    assert (found.status, found.name) == (status, f"md5 {role}")
    assert words in found.summary


def test_a_difference_names_the_file_and_the_next_command(plugins, host):
    found = plugins["md5"].compared("dataset", plan(a=SAME, b=OTHER), host(), "x")
    assert (found.evidence, found.remedy) == ("b: MD5 differs", "inv deploy --host h")
    pinned = plugins["md5"].compared("dataset", plan(b=OTHER), host(assets={"x": "/there"}), "x")
    assert "[hosts.h.assets]" in pinned.remedy  # deploy would leave that folder alone


def test_one_asset_that_cannot_be_compared_leaves_the_others_their_finding(plugins, host, spec, monkeypatch):
    def planned(connection, local, remote):
        if "rdt-1b" in remote:
            raise TransferError("here: /x: not readable", remedy="ls -ld /x")
        return plan(a=SAME)
    monkeypatch.setattr(plugins["md5"], "plan_asset", planned)
    here = dict.fromkeys(("dataset", "pretrained"), Path("/here"))
    found = {r.name: r for r in plugins["md5"].preflight_check(host(), None, spec(), here)}
    assert {n: r.status for n, r in found.items()} == {
        "md5 dataset": Status.OK, "md5 pretrained": Status.FAIL, "md5 text_encoder": Status.SKIP,
        "md5 vision_encoder": Status.SKIP}
    assert (found["md5 pretrained"].evidence, found["md5 pretrained"].remedy) == ("here: /x: not readable", "ls -ld /x")


def test_a_lost_link_is_no_finding_about_a_file(plugins, host, spec, monkeypatch):
    def planned(*_):
        raise ConnectionLost("lost h")
    monkeypatch.setattr(plugins["md5"], "plan_asset", planned)
    with pytest.raises(ConnectionLost):
        plugins["md5"].preflight_check(host(), None, spec(), {"dataset": Path("/here")})


@pytest.mark.parametrize("without_md5sum", [False, True])
def test_both_ways_to_compute_digests_agree_with_the_manifest(plugins, host, checkpoint, tmp_path, without_md5sum):
    probe = {p.name: p for p in plugins["md5"].probes(host(), checkpoint)}["digests"]
    line = probe.shell.replace("command -v md5sum", "command -v no-such-program") if without_md5sum else probe.shell
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    found = probe.parse(said(done.stdout))
    assert {"ema/name with space", "model.safetensors"} < set(found)
    assert found["model.safetensors"] == hashlib.md5(b"weights").hexdigest()


def test_a_large_checkpoint_is_given_the_time_it_takes(plugins, host):
    large = replace(CHECKPOINT, size_bytes=20_000_000_000)
    (probe,) = [p for p in plugins["md5"].probes(host(), large) if p.name == "digests"]
    assert probe.timeout_s > 900  # 20 GB from a disk of 20 MB/s


@pytest.mark.parametrize("name", ["manifest", "digests"])
@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_an_error_that_names_the_checkpoint(plugins, host, name, kind):
    good = {"manifest": said(SEALED.to_json()), "digests": said(f"{MD5}  ./a\n")}
    assert plugins["md5"].after_checkpoint(ScriptedConnection(host(), **good), CHECKPOINT)["verified"] is True
    with pytest.raises(RdtopsError, match="step_000010"):
        plugins["md5"].after_checkpoint(ScriptedConnection(host(), **{**good, name: BROKEN[kind]}), CHECKPOINT)


def test_a_file_that_cannot_be_read_is_quoted_and_not_called_changed(plugins, host):
    partly = said(f"{MD5}  ./a\n", 1, "md5sum: ./b: Permission denied")
    connection = ScriptedConnection(host(), manifest=said(SEALED.to_json()), digests=partly)
    with pytest.raises(RdtopsError, match=r"cannot be verified: not every file can be read .*Permission denied"):
        plugins["md5"].after_checkpoint(connection, CHECKPOINT)


@pytest.mark.parametrize("text", ["[]", "5", '{"files": 3, "digest": ""}', '{"files": ["x"], "digest": ""}', "{}"])
def test_what_is_no_manifest_is_said(plugins, text):
    with pytest.raises(ValueError, match="not a manifest"):
        plugins["md5"].parse_manifest(said(text))


@pytest.mark.parametrize("path", ["../../../../etc/hostname", "/etc/hostname", "a/../../b", ""])
def test_a_manifest_that_names_a_file_elsewhere_verifies_nothing(plugins, host, path):
    sealed = manifest.Manifest((manifest.FileDigest(path, 1, MD5),))
    digests = said(f"{MD5}  ./{path}\n")
    with pytest.raises(RdtopsError, match="cannot be verified: not a manifest"):
        plugins["md5"].after_checkpoint(ScriptedConnection(host(), manifest=said(sealed.to_json()), digests=digests),
                                        replace(CHECKPOINT, digest=sealed.digest))
