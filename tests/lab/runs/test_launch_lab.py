"""Exactly one training, however often and from how many laptops it is asked for. Over real SSH."""

import calendar
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.hostlib import processes
from rdtops.lab.site import Lab
from rdtops.on_host import detacher
from tests.command_lines import watched_command_lines
from tests.lab.commandline import ROOT, CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
SECRET = f"hf_{secrets.token_hex(12)}"  # this file is deployed as well, and greps
TRAIN = "train --host lab --set max_steps=100000 --set checkpoint_every_steps=100000 --set heldout_share=0"


@pytest.fixture(scope="module")
def hosts(tiny_hosts: Path) -> Path:
    """With a secret, and a workspace where nobody else trains."""
    file = tiny_hosts.with_name("hosts-with-secret.toml")
    text = tiny_hosts.read_text().replace("[hosts.lab]\n", '[hosts.lab]\nsecrets = ["HF_TOKEN"]\n')
    file.write_text(text.replace('"~/rdtops"', '"~/launches"'))
    return file


def laptop(folder: Path, hosts: Path) -> CommandLine:
    line = CommandLine(folder, hosts)
    line.env["HF_TOKEN"] = SECRET
    return line


@pytest.fixture(scope="module")
def inv(lab: Lab, hosts: Path, tmp_path_factory) -> Iterator[CommandLine]:
    """To a host whose users write for everybody."""
    session = lab.folder("lab") / "session"
    before = session.read_text()
    session.write_text(before.replace("\n", "\numask 000\n", 1))
    line = laptop(tmp_path_factory.mktemp("laptop"), hosts)
    line.good("deploy --host lab", timeout_s=200)
    yield line
    session.write_text(before)


@pytest.fixture(scope="module")
def workspace(lab: Lab, inv) -> Iterator[Path]:
    folder = lab.home("lab") / "launches"
    yield folder
    for name in names(folder):
        detacher.stop(str(folder / name), f"RDTOPS_RUN={name}", 1.0)


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """Command lines that held the secret while trainings were launched."""
    return set()


@pytest.fixture(scope="module")
def rows(inv, workspace, hosts, tmp_path_factory, seen) -> list[dict]:
    """What two laptops are told that type the same at the same moment."""
    laptops = [laptop(tmp_path_factory.mktemp(name), hosts) for name in ("one", "other")]
    with watched_command_lines(seen):
        said = typed_at_once(laptops)
    return [json.loads(out)[0] for out, _ in said]


def typed_at_once(laptops: list[CommandLine]) -> list[tuple[str, str]]:
    typed = [subprocess.Popen([sys.executable, "-m", "invoke", *TRAIN.split(), "--json"], cwd=ROOT, text=True,
                              env=laptop.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for laptop in laptops]
    said = [process.communicate(timeout=200) for process in typed]
    assert [process.returncode for process in typed] == [0, 0], said
    return said


@pytest.fixture(scope="module")
def run_id(rows) -> str:
    return rows[0]["run_id"]


def names(workspace: Path) -> list[str]:
    return sorted(p.name for p in (workspace / "runs").iterdir() if not p.name.startswith("."))


def test_two_laptops_at_the_same_moment_get_one(rows, workspace):
    assert rows[0]["run_id"] == rows[1]["run_id"]
    assert sorted(row["is_new"] for row in rows) == [False, True]
    assert names(workspace) == [rows[0]["run_id"]]


def test_a_secret_reaches_the_training_and_is_seen_nowhere(rows, run_id, workspace, inv, seen, hosts):
    file = workspace / ".secrets" / "lab.sh"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (f"export HF_TOKEN={SECRET}\n", 0o600)
    assert file.parent.stat().st_mode & 0o077 == 0
    wait_for(lambda: any(processes.rank_of(pid) is not None for pid in processes.carrying(f"RDTOPS_RUN={run_id}")))
    (rank, *_) = [pid for pid in processes.carrying(f"RDTOPS_RUN={run_id}") if processes.rank_of(pid) is not None]
    assert f"HF_TOKEN={SECRET}".encode() in Path(f"/proc/{rank}/environ").read_bytes().split(b"\0")
    assert any("launch.sh" in line for line in seen)  # there was something to see
    assert not [line for line in seen if SECRET in line]
    shown = inv.good(f"{TRAIN} --dry-run")
    assert "HF_TOKEN" in shown.out
    assert SECRET not in shown.said
    found = subprocess.run(["grep", "-rlF", SECRET, str(workspace), str(inv.folder), str(hosts)], capture_output=True,
                           text=True, check=False)
    assert found.stdout.split() == [str(file)]


def test_the_password_of_an_address_is_neither_in_a_command_line_nor_in_what_is_printed(inv, hosts, tmp_path):
    password, seen = secrets.token_hex(12), set()
    mine = tmp_path / "hosts.toml"
    mine.write_text(f'{hosts.read_text()}\n[hosts.lab2.env]\nHF_ENDPOINT = "http://ann:{password}@127.0.0.1:9/"\n'
                    f'MY_TOKEN = "{password}"\n')
    other = laptop(tmp_path / "laptop", mine)
    with watched_command_lines(seen):
        shown = [other("check --host lab2 --json").said, other.good("train --host lab2 --dry-run").said,
                 other.good("train --host lab2 --dry-run --json").said, other("stats --host lab2").said]
    assert not [line for line in seen if password in line]
    assert password not in "".join(shown)
    assert '"start": "' in shown[2]
    assert any("zlib.decompress" in line for line in seen)  # a program of ours on the host


def test_nothing_that_we_make_may_be_written_by_others_whatever_the_umask_there(inv, run_id, workspace):
    journal = workspace / "runs" / run_id / "journal.jsonl"
    wait_for(lambda: journal.exists() and '"kind": "step"' in journal.read_text())  # the trainer's files are there, too
    there = [path for path in [workspace, *workspace.rglob("*")] if not path.is_symlink()]
    assert [path for path in there if path.stat().st_mode & 0o022] == []
    ours = [f".cpu-{os.uname().nodename}", ".gate", ".launch.lock", f"{run_id}/.lease", f"{run_id}/supervisor"]
    assert {(workspace / "runs" / name).stat().st_mode & 0o777 for name in ours} == {0o600}


def test_typed_again_with_its_check_it_is_the_same_training(inv, run_id, workspace):
    again = inv.good(f"check {TRAIN}")
    assert f"running already: {run_id} on lab is the same training" in " ".join(again.out.split())
    assert names(workspace) == [run_id]


def test_a_home_without_room_costs_a_warning_and_no_training(inv, run_id, workspace):
    again = inv(TRAIN, RDTOPS_STATE="/dev/null/state")  # nobody can write there, root neither
    assert again.code == 0, again.said
    assert "/dev/null/state/last_host cannot be written" in " ".join(again.said.split())
    assert "Traceback" not in again.said
    assert names(workspace) == [run_id]


def test_ranks_that_outlived_their_launcher_are_in_the_way_until_they_are_stopped(inv, run_id, workspace):
    wait_for(lambda: any(processes.rank_of(pid) is not None for pid in processes.carrying(f"RDTOPS_RUN={run_id}")))
    wait_for(lambda: '"kind": "step"' in (workspace / "runs" / run_id / "journal.jsonl").read_text())
    every = processes.carrying(f"RDTOPS_RUN={run_id}")
    ranks = [pid for pid in every if processes.rank_of(pid) is not None]
    for pid in ranks:  # so that they cannot leave with their launcher
        os.kill(pid, signal.SIGSTOP)
    launcher = int((workspace / "runs" / run_id / "process").read_text().split()[0])
    for pid in (launcher, *(set(every) - {launcher, *ranks})):  # first the one that would start another supervisor
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    inv.refused(f"{TRAIN} --set seed=5", 1, f"resources held by {run_id}", "the CPU of this workspace is held by",
                f"inv stop --host lab --run {run_id}")
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    inv.good(f"stop --host lab --run {run_id} --grace 20")
    assert not processes.carrying(f"RDTOPS_RUN={run_id}")


def test_what_was_prepared_and_never_launched_is_launched(inv, run_id, workspace):
    """As a host leaves it that went down in the middle."""
    for name in ("process", "exit", "stop", "journal.jsonl", "train.log"):
        (workspace / "runs" / run_id / name).unlink(missing_ok=True)
    half_made = workspace / "runs" / ".preparing-20261124-101530-tiny-aaaa"
    half_made.mkdir()
    row = inv.good(f"{TRAIN} --json").rows()[0]
    assert (row["run_id"], row["is_new"]) == (run_id, True)
    assert names(workspace) == [run_id]
    assert not half_made.exists()


def test_a_rollback_overrules_the_tree_until_the_next_deploy(inv, workspace):
    (current,) = [p.name for p in (workspace / "releases").iterdir()]
    inv.refused("rollback --host lab", 1, f"there is no release before {current}")
    shutil.copytree(workspace / "releases" / current, workspace / "releases" / "11111111-before", symlinks=True)
    deployed = workspace / ".deployed"
    deployed.write_text("1.0 11111111-before\n" + deployed.read_text())
    (row,) = inv.good("rollback --host lab --json").rows()
    assert (row["to"], row["before"]) == ("11111111-before", current)
    there = inv.good(f"{TRAIN} --dry-run")
    assert "lab was rolled back to 11111111-before" in there.err
    assert "releases/11111111-before" in there.out
    inv.refused("rollback --host lab --to 2222", 1, "there is no release '2222'", "11111111-before", current)
    inv.good("deploy --host lab --only code")
    again = inv.good(f"{TRAIN} --dry-run")
    assert "rolled back" not in again.err
    assert f"releases/{current}" in again.out
    shutil.rmtree(workspace / "releases" / "11111111-before")  # other tests deploy here, too


def wait_for(condition, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)


WRONG_CLOCK = """\
import os, time
_time = time.time
time.time = lambda: _time() + float(os.environ["WRONG_BY_S"])
_gmtime = time.gmtime
time.gmtime = lambda now_s=None: _gmtime(time.time() if now_s is None else now_s)
"""


def test_the_newest_run_is_the_one_launched_last_whatever_clock_the_laptop_has(inv, workspace, hosts, tmp_path):
    inv("stop --host lab --grace 20")
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
    for seed, wrong_by_s in enumerate((86400, -86400), 11):  # the laptop of the second is two days behind the first's
        wrong = laptop(tmp_path / str(seed), hosts)
        wrong.env |= {"WRONG_BY_S": str(wrong_by_s), "PYTHONPATH": f"{tmp_path}:{wrong.env.get('PYTHONPATH', '')}"}
        before = time.time()
        (row,) = wrong.good(f"{TRAIN} --set seed={seed} --json").rows()
        assert names(workspace)[-1] == row["run_id"]
        stamp = calendar.timegm(time.strptime(row["run_id"][:15], "%Y%m%d-%H%M%S"))
        assert before - 2 < stamp < time.time() + 2
        assert row["run_id"] in wrong.good("stop --host lab --grace 20").said
