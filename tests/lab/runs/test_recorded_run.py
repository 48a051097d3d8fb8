"""What the version before left on a host and on a laptop is read as if it were of today."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rdtops.lab.site import Lab
from tests.lab import recorded
from tests.lab.commandline import CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
OF_IT = f"--host lab --run {recorded.RUN}"


@pytest.fixture(scope="module")
def inv(lab: Lab, tiny_hosts: Path, tmp_path_factory) -> CommandLine:
    """On a laptop that followed the run when it was new, to a workspace where it lies."""
    recorded.restored(lab.home("lab") / "recorded")
    folder = tmp_path_factory.mktemp("laptop")
    shutil.copytree(recorded.RECORDED / "state", folder / "state")
    hosts = folder / "hosts.toml"
    hosts.write_text(tiny_hosts.read_text().replace('"~/rdtops"', '"~/recorded"'))
    return CommandLine(folder, hosts)


def test_status_tells_how_it_ended(inv):
    (row,) = inv.good("status --host lab --all --json").rows()
    before = json.loads((recorded.RECORDED / "results/lab" / recorded.RUN / "run.json").read_text())
    assert {name: row[name] for name in before} == before
    assert recorded.RUN in inv.good("status --host lab --all").out


def test_why_tells_each_attempt(inv):
    (row,) = inv.good(f"why {OF_IT} --json").rows()
    assert (row["cause"], row["well"], [a["exit_code"] for a in row["attempts"]]) == ("finished", True, [0])


def test_watch_fires_no_hook_again(inv):
    (records,) = (inv.folder / "state/runs/lab").glob("*/hooks.jsonl")
    before = records.read_text()
    inv.good(f"watch {OF_IT}")
    assert records.read_text() == before
    assert '"plugin": "md5"' in before


def test_its_checkpoints_are_known_with_what_the_plugins_said(inv):
    (row,) = inv.good(f"checkpoints {OF_IT} --json").rows()
    assert (row["name"], row["latest"], row["best"], row["state"]) == (recorded.SAVED, True, True, "unverified")
    assert {"md5", "notify"} <= {record["plugin"] for record in row["hooks"]}
    inv.refused(f"checkpoints {OF_IT} --verify", 1, "model.safetensors: MD5 differs")  # there are zeros in it


def test_it_comes_home_and_has_a_report(inv):
    (row,) = inv.good(f"fetch-results {OF_IT} --checkpoint none --into {inv.results} --json").rows()
    home = inv.results / "lab" / recorded.RUN
    assert row["folder"] == str(home)
    assert recorded.RELEASE in (home / "README.md").read_text()
    assert inv.good(f"report --run {home}").out.startswith(f"written {home}/report.html")
    assert recorded.SAVED in (home / "report.html").read_text()
    other = inv.results / "lab" / "20261129-000000-tiny-0000"  # fetched before; the host is asked for the second one
    shutil.copytree(home, other)
    (row,) = inv.good(f"report --compare {other} {recorded.RUN} --host lab --into {inv.results} --json").rows()
    assert (row["page"], row["compared_with"]) == (f"{other}/compare_{recorded.RUN}.html", [recorded.RUN])
    inv.refused(f"fetch-results {OF_IT} --into {inv.results}", 1, "ema/model.safetensors")


CAN_MOUNT = not subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True,
                               check=False).returncode
IN_THE_WAY = {  # what makes it -> what is said
    "touch {home}": "in the target is a file, not a folder", "mkdir -p {home}/report.html": "-> ls -ld ",
    "mkdir {home}; mount -t tmpfs -o ro none {home}": "-> ls -ld "}


@pytest.mark.parametrize("way", [way for way in IN_THE_WAY if "mount" not in way or CAN_MOUNT])
def test_what_is_in_the_way_on_this_laptop_is_named(inv, tmp_path, way):
    home = tmp_path / "lab" / recorded.RUN
    home.parent.mkdir()
    line = f"{sys.executable} -m invoke fetch-results {OF_IT} --checkpoint none --into {tmp_path}"
    unshare = ["unshare", "-m"] if "mount" in way else []
    done = subprocess.run([*unshare, "sh", "-c", f"{way.format(home=home)} && {line}"], cwd=inv.root, env=inv.env,
                          capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert str(home) in done.stderr
    assert IN_THE_WAY[way] in done.stderr


def test_its_release_can_be_had_again(inv):
    inv.good(f"rollback --host lab --to {recorded.RELEASE[:8]}")
    assert f"releases/{recorded.RELEASE}" in inv.good("train --host lab --dry-run").out
