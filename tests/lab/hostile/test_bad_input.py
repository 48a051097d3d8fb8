"""What a person can get wrong ends with what, where and the next command; no traceback, no half file."""

import getpass
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdtops.hostlib import manifest
from rdtops.lab.fake_gpus import Gpus
from rdtops.lab.site import Lab
from tests.lab.commandline import ROOT, CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture
def inv(lab: Lab, tiny_hosts: Path, tmp_path) -> CommandLine:
    (tmp_path / "hosts.toml").write_text(tiny_hosts.read_text())
    return CommandLine(tmp_path, tmp_path / "hosts.toml")


@pytest.fixture
def edit(inv, tmp_path):
    """Change the inventory: old text, new text, how often."""
    def change(old: str, new: str, count: int = -1) -> None:
        file = tmp_path / "hosts.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, count))
    return change


def test_unknown_host_names_the_nearest(inv):
    inv.refused("check --host lab3", 2, "there is no host 'lab3'", "did you mean", "inv hosts")


def test_no_host_and_no_default_says_which_hosts_there_are(inv):
    inv.refused("train", 2, "no --host", "hosts: lab, lab2", "--host lab")


def test_two_hosts_in_one_chain_are_a_usage_error(inv):
    inv.refused("deploy --host lab check --host lab2", 2, "--host lab and --host lab2")


def test_a_wrong_setting_needs_no_connection(inv, edit):
    edit('address = "127.0.0.1"', 'address = "192.0.2.1"')
    inv.refused("train --host lab --set max_stepz=3", 2, "did you mean 'max_steps'")
    inv.refused("deploy --host lab --only wheights", 2, "did you mean 'weights'")
    inv.refused("deploy --host lab --preset tinny", 2, "did you mean 'tiny'")


def test_a_broken_inventory_is_explained(inv, edit):
    edit("workspace =", "workspce =", 1)
    inv.refused("hosts", 2, "hosts.lab.workspce: unknown key", "did you mean 'workspace'")


def test_an_unreachable_jump_is_named(inv, lab, edit):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        edit(f"port = {lab.ports.jump}", f"port = {taken.getsockname()[1]}", 1)
        inv.refused("check --host lab", 3, "cannot reach lab-jump", "on the route here -> lab-jump -> lab")


def test_an_unreachable_host_behind_the_jump_is_named(inv, lab):
    lab.stop_server("lab2")
    try:
        inv.refused("check --host lab2", 3, "cannot reach lab2", "here -> lab-jump -> lab2")
    finally:
        lab.start_server("lab2")


@pytest.mark.parametrize("hop", ["lab-jump", "lab"])
def test_an_unknown_host_key_of_either_hop_is_refused_and_named(inv, lab, edit, tmp_path, hop):
    port = lab.ports.jump if hop == "lab-jump" else lab.ports.lab
    known = tmp_path / "known_hosts"
    known.write_text("".join(line for line in lab.known_hosts.read_text().splitlines(keepends=True)
                             if f"]:{port} " not in line))
    edit(str(lab.known_hosts), str(known))
    inv.refused("check --host lab", 3, f"the host key of {hop}", "is not known", f"[127.0.0.1]:{port}",
                "inv trust --host lab")
    assert inv("trust --host lab").code == 3  # nobody at the terminal to say yes
    assert f"]:{port} " not in known.read_text()
    inv.good("trust --host lab --yes")
    inv.good("hosts --host lab --ping")


def test_a_changed_host_key_is_refused_and_called_changed(inv, lab, edit, tmp_path):
    known = tmp_path / "known_hosts"
    lines = lab.known_hosts.read_text().splitlines()
    jump, host = (next(line for line in lines if f"]:{p} " in line) for p in (lab.ports.jump, lab.ports.lab))
    known.write_text(f"{jump}\n{host.split()[0]} {' '.join(jump.split()[1:])}\n")
    edit(str(lab.known_hosts), str(known))
    inv.refused("check --host lab", 3, "the host key of lab", "has CHANGED", "inv trust --host lab")


def test_a_wrong_user_is_named(inv, tmp_path):
    before, table, after = (tmp_path / "hosts.toml").read_text().partition("[hosts.lab]\n")
    after = after.replace(f'user = "{getpass.getuser()}"', 'user = "nobody-here"', 1)
    (tmp_path / "hosts.toml").write_text(before + table + after)
    done = inv.refused("check --host lab", 3, "nobody-here", "lab")
    assert getpass.getuser() != "nobody-here"
    assert "does not accept the user" in done.err


def test_a_wrong_key_is_named(inv, lab, edit, tmp_path):
    from rdtops.lab import keys

    keys.make(tmp_path / "other_key")
    edit(str(lab.identity_file), str(tmp_path / "other_key"))
    inv.refused("check --host lab", 3, "lab-jump", "does not accept the user", "other_key")


def test_a_missing_key_file_is_named(inv, lab, edit, tmp_path):
    edit(str(lab.identity_file), str(tmp_path / "no_such_key"))
    inv.refused("check --host lab", 3, "no_such_key", "identity_file")


def test_a_missing_dataset_is_said_before_anything_is_launched(inv, edit, tmp_path):
    text = (tmp_path / "hosts.toml").read_text()
    old = next(line for line in text.splitlines() if line.startswith('"libero_tiny"'))
    edit(old, f'"libero_tiny" = "{tmp_path / "nowhere"}"')
    inv.refused("deploy --host lab2 --only data", 1, "the dataset 'libero_tiny' is neither on this laptop nor in",
                "[assets]")
    inv.refused("check --host lab2", 1, "FAIL", "dataset")


def test_corrupt_weights_on_the_host_are_found_and_mended_by_deploy(inv, lab):
    inv.good("deploy --host lab2")
    weights = lab.home("lab2") / "rdtops/assets/rdt-tiny/pytorch_model.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    inv.refused("check --host lab2", 1, "FAIL", "pytorch_model.bin", "inv deploy --host lab2")
    inv.refused("train --host lab2", 1, "not started", "pytorch_model.bin")
    assert not list((lab.home("lab2") / "rdtops").glob("runs/[0-9]*"))
    sent = inv.good("deploy --host lab2 --json").rows()
    assert [f["path"] for r in sent for f in r["files"] if f["action"] == "send"] == ["pytorch_model.bin"]
    inv.good("check --host lab2")


def test_no_gpu_where_some_are_asked_for_is_a_fail(inv, lab):
    inv.good("deploy --host lab2")
    lab.set_gpus("lab2", Gpus(count=2))
    try:
        inv.refused("check --host lab2 --set device=cuda --set num_processes=8", 1, "FAIL", "gpu", "8")
    finally:
        lab.set_gpus("lab2", Gpus())


def test_a_tree_that_is_not_deployed_is_not_trained(inv, lab):
    inv.good("deploy --host lab2")
    releases = lab.home("lab2") / "rdtops/releases"
    releases.rename(releases.with_name("elsewhere"))
    try:
        inv.refused("train --host lab2", 1, "not started", "inv deploy --host lab2")
    finally:
        releases.with_name("elsewhere").rename(releases)


def test_a_frozen_jump_ends_in_bounded_time_and_is_named(inv, lab, edit):
    edit(f"port = {lab.ports.jump}\n", f"port = {lab.ports.jump}\nconnect_timeout_s = 3\n", 1)
    lab.freeze("lab-jump")
    try:
        begun = time.monotonic()
        inv.refused("check --host lab", 3, "lab-jump")
        assert time.monotonic() - begun < 40
    finally:
        lab.thaw("lab-jump")


def test_asking_for_what_is_not_there_names_what_is(inv):
    inv.refused("status --host lab2 --run nope", 1, "lab2")
    inv.refused("fetch-results --host lab2", 1, "there is no run", "inv deploy check train --host lab2")


@pytest.fixture
def heavy(inv, edit, tmp_path):
    """The tiny weights made 200 MB heavy, so that there is time to cut a deploy in two."""
    text = (tmp_path / "hosts.toml").read_text()
    line = next(row for row in text.splitlines() if row.startswith('"rdt-tiny"'))
    source = Path(line.split('"')[3])
    folder = tmp_path / "rdt-heavy"
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    with (folder / "pytorch_model.bin").open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    edit(line, f'"rdt-tiny" = "{folder}"')
    return folder


def test_a_deploy_that_is_killed_leaves_no_half_file_and_goes_on(inv, lab, edit, heavy):
    edit('workspace = "~/rdtops"', 'workspace = "~/cut"')
    there = lab.home("lab2") / "cut/assets/rdt-tiny"
    command = [sys.executable, "-m", "invoke", "deploy", "--host", "lab2", "--only", "weights"]
    begun = subprocess.Popen(command, cwd=ROOT, env=inv.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while arrived(there) < 30 << 20:
        assert time.monotonic() < end, "the deploy did not get going"
        time.sleep(0.05)
    begun.kill()
    begun.wait()
    assert not (there / "pytorch_model.bin").exists()
    (planned,) = inv.good("deploy --host lab2 --only weights --dry-run --json").rows()
    (item,) = [f for f in planned["files"] if f["path"] == "pytorch_model.bin"]
    assert item["action"] == "resume", item
    (sent,) = inv.good("deploy --host lab2 --only weights --json").rows()
    assert sent["sent_bytes"] < (200 << 20) - (20 << 20)
    assert manifest.md5_of(there / "pytorch_model.bin") == manifest.md5_of(heavy / "pytorch_model.bin")
    assert list(there.glob(".rdtops-part-*")) == []


def arrived(folder: Path) -> int:
    """Bytes of ranges that the host has recorded; their file has its full length from the beginning."""
    lines = [line for record in folder.glob(".rdtops-part-*.ranges") for line in record.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if len(line.split()) == 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_a_full_disk_is_said_with_how_much_is_missing_and_nothing_is_half_there(inv, lab, edit, heavy):
    small = lab.home("lab2") / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)], check=True)
    try:
        edit('workspace = "~/rdtops"', 'workspace = "~/small/rdtops"')
        inv.refused("deploy --host lab2 --only weights", 1, "not enough space", "MB more are needed")
        assert not (small / "rdtops/assets/rdt-tiny/pytorch_model.bin").exists()
        inv.refused("check --host lab2 --set max_steps=100000 --set checkpoint_every_steps=1000 "
                    "--set checkpoints_total_limit=100", 1, "FAIL", "disk", "are missing")
    finally:
        subprocess.run(["umount", str(small)], check=True)
