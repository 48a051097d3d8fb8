"""The main job, as the user types it, over real SSH through the jump host, on real robot data."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import h5py
import pytest

from rdtops.contract.journal import Journal
from rdtops.hostlib import manifest, processes
from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

@pytest.fixture(scope="module")
def inv(lab: Lab, tiny_hosts: Path, tmp_path_factory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("laptop"), tiny_hosts)


@pytest.fixture(scope="module")
def workspace(lab: Lab) -> Path:
    return lab.home("lab") / "rdtops"


@pytest.fixture(scope="module")
def job(inv, workspace):
    """The literal line of the user, then the run followed to its end. Everything below looks at what it left."""
    line = inv.good("deploy check train --host lab", timeout_s=300)
    followed = inv.good("watch --host lab", timeout_s=300)
    (run,) = inv.good("status --host lab --json").rows()
    return line, followed, run


def test_the_line_deploys_checks_and_launches_and_says_so(job, workspace):
    line, _, run = job
    assert "deployed to lab" in line.out
    assert "plugins that ran: checkpoint_guard, disk, encoder_mirror, gpu, md5, notify" in line.out
    assert f"started {run['run_id']} on lab, detached in tmux" in line.out
    assert line.err.count("connecting to lab") == 1  # three tasks, one connection
    releases = [p.name for p in (workspace / "releases").iterdir()]
    assert len(releases) == 1
    assert (workspace / "releases" / releases[0] / "snapshot.json").exists()


def test_the_conventions_of_the_data_are_checked_there(job, inv):
    (report,) = inv.good("check --host lab --json").rows()
    (found,) = [r for r in report["results"] if r["name"] == "conventions"]
    assert found["status"] == "OK"
    assert re.match(r"2\d hold, 2 episodes in 1 files; not decidable from these data: ", found["summary"])


def test_why_says_how_it_ended_and_what_to_type_next(job, inv):
    run_id = job[2]["run_id"]
    (row,) = inv.good(f"why --host lab --run {run_id} --json").rows()
    assert (row["cause"], row["well"], row["attempts"][-1]["exit_code"]) == ("finished", True, 0)
    assert f"-> inv fetch-results --host lab --run {run_id}" in inv.good(f"why --host lab --run {run_id}").out
    inv.refused("why --host lab --run nobody", 1, "no run matches 'nobody'", "inv status --host lab")


def test_the_log_says_what_the_data_were_taken_for(job, workspace):
    log = (workspace / "runs" / job[2]["run_id"] / "train.log").read_text()
    assert ("observations after the action of their index (found in states); images stored upside down, turned upright "
            "(the file says opengl)") in log


@pytest.fixture(params=["there", "here"])
def statistics(request, job, inv, workspace, tiny_hosts):
    """`inv stats` on the host and on the laptop: its options, and the folder of the data."""
    options, data = ("--host lab", workspace / "assets" / "libero_tiny") if request.param == "there" else (
        "", tiny_hosts.parent / "libero_tiny")
    yield options, data
    (data / "statistics.json").unlink()  # the laptop's would go along with the next deploy


def test_statistics_are_computed_once_and_verified_after_that(inv, statistics):
    options, data = statistics
    (first,) = inv.good(f"stats {options} --json").rows()
    assert (first["host"], first["why"], first["is_sound"]) == (
        "lab" if options else "this laptop", "there were none", True)
    assert (first["path"], list(first["files"])) == (
        str(data / "statistics.json"), [p.name for p in data.glob("*.hdf5")])
    shown = inv.good(f"stats {options}").out
    assert "no recomputation is needed: the MD5 of every file is unchanged, and so is the codec" in shown
    assert "action, slot 10, gripper open (0 to 1): always 0" in shown  # it pushes, closed
    (again,) = inv.good(f"stats {options} --json").rows()
    assert again == {**first, "why": "", "is_written": False}
    (anew,) = inv.good(f"stats {options} --json --recompute").rows()
    assert anew == {**first, "why": "asked for"}


def test_statistics_of_changed_data_and_broken_ones_are_computed_anew_and_named(inv, statistics):
    options, data = statistics
    inv.good(f"stats {options}")
    stored = json.loads((data / "statistics.json").read_text())
    stored["action"]["std"][40] = float("nan")
    (data / "statistics.json").write_text(json.dumps(stored))
    (found,) = inv.good(f"stats {options} --json").rows()
    assert found["why"].startswith("they were implausible: action, slot 40, velocity 1 (m/s): not finite")
    (file,) = data.glob("*.hdf5")
    whole = file.rename(data.parent / "whole.hdf5")
    try:
        shutil.copy(whole, file)
        with h5py.File(file, "r+") as content:
            for demo in content["data"].values():
                demo["obs/ee_pos"][:, 1] *= 1e5
        inv.refused(f"stats {options}", 1, f"computed: the MD5 of {file.name} has changed", "implausible",
                    "state, slot 31, position 1 (m): std ", " is above 100")
        (told,) = json.loads(inv.refused(f"stats {options} --json", 1).out)
        assert [u["slot"] for u in told["unsound"] if u["is_wrong"]] == ["slot 31, position 1 (m)"]
    finally:
        whole.replace(file)
    (found,) = inv.good(f"stats {options} --json").rows()
    assert found["why"]


def test_statistics_of_data_that_are_not_here_name_what_to_do(inv, tiny_hosts):
    inv.refused("stats --preset libero_single_task", 2, "this laptop has no dataset libero_single_task")


def test_the_run_is_followed_to_its_end_with_every_checkpoint(job):
    _, followed, run = job
    assert (run["state"], run["step"], run["max_steps"], run["exit_code"]) == ("finished", 150, 150, 0)
    for step in ("000050", "000100", "000150"):
        assert f"checkpoint step_{step}" in followed.out
    assert followed.out.count("md5: ") == 3


def test_two_processes_trained_and_the_loss_fell(job, workspace):
    events = Journal(workspace / "runs" / job[2]["run_id"] / "journal.jsonl").read()
    assert next(e for e in events if e.kind == "started").data["world_size"] == 2
    losses = [e.data["loss"] for e in events if e.kind == "step"]
    tenth = max(1, len(losses) // 10)
    assert len(losses) == 150
    assert sum(losses[-tenth:]) / tenth < sum(losses[:tenth]) / tenth


def test_the_md5_plugin_s_record_of_each_checkpoint_can_be_read(job, inv):
    rows = inv.good("checkpoints --host lab --json").rows()
    assert [r["step"] for r in rows] == [50, 100, 150]
    assert [r["latest"] for r in rows] == [False, False, True]
    for row in rows:
        (record,) = [r for r in row["hooks"] if r["plugin"] == "md5"]
        assert (record["error"], record["digest"]) == ("", row["digest"])
        assert record["value"]["verified"] is True
    shown = inv.good("checkpoints --host lab").out
    assert all(r["digest"][:12] in shown for r in rows)


def test_the_best_checkpoint_is_marked_and_comes_home(job, inv, workspace):
    rows = inv.good("checkpoints --host lab --json").rows()
    (best,) = [r for r in rows if r["best"]]
    assert best["heldout_loss"] == min(r["heldout_loss"] for r in rows)
    saved = json.loads((Path(best["path"]) / "trainer.json").read_text())
    assert saved["heldout_loss"] == best["heldout_loss"] > 0
    shown = inv.good("checkpoints --host lab").out
    (line,) = [line for line in shown.splitlines() if "best" in line]
    assert best["name"] in line
    assert f"{best['heldout_loss']:.6f}" in line
    (fetched,) = inv.good(f"fetch-results --host lab --checkpoint best --into {inv.results} --json").rows()
    assert fetched["checkpoint"]["name"] == best["name"]
    home = inv.results / "lab" / job[2]["run_id"]
    assert manifest.scan(home / "checkpoints" / best["name"]).digest == best["digest"]
    metrics = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "loss" in m] == list(range(1, 151))


def test_the_results_come_home_and_have_the_digests_of_the_host(job, inv, workspace):
    run_id = job[2]["run_id"]
    done = inv.good(f"fetch-results --into {inv.results} --json")  # no host: the one launched on last
    assert "no --host given: using lab, the host of the last launch" in done.err
    (fetched,) = done.rows()
    home, there = inv.results / "lab" / run_id, workspace / "runs" / run_id
    assert fetched["folder"] == str(home)
    for name in ("config.json", "journal.jsonl", "train.log", "exit", "launch.sh"):
        assert manifest.md5_of(home / name) == manifest.md5_of(there / name)
    checkpoint = "checkpoints/step_000150"
    assert manifest.scan(home / checkpoint) == manifest.scan(there / checkpoint)
    assert manifest.differences(home / checkpoint, manifest.read(there / checkpoint)) == []
    assert (home / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "each logged step" in (home / "loss.svg").read_text()
    assert fetched["loss_curve"] == str(home / "loss.png")
    again = inv.good(f"fetch-results --host lab --into {inv.results}")
    assert "nothing to transfer" in again.out


def test_a_step_is_replayed_on_the_host_with_the_loss_of_the_journal(job, inv, workspace):
    events = Journal(workspace / "runs" / job[2]["run_id"] / "journal.jsonl").read()
    (told,) = (e.data["loss"] for e in events if e.kind == "step" and e.data["step"] == 51)
    (row,) = inv.good("replay --step 51 --host lab --json").rows()
    assert (row["weights"], row["is_exact"], row["loss"]) == ("step_000050", True, told)
    assert row["recorded"]["loss"] == told
    assert sorted({s["episode"] for s in row["samples"]}) == ["demo_0", "demo_1"]
    shown = inv.good("replay --step 51").out
    assert f"loss of the step  {told!r}" in shown
    inv.refused("replay --step 999 --host lab", 1, "has the steps 1 to 150, not 999")


def test_the_norm_is_asked_of_the_weights_on_the_host(job, inv):
    (row,) = inv.good("normfit --samples 16 --host lab --json").rows()
    assert (row["stated"], row["samples"], row["winner"]) == ("timm_1_0_3", 16, "")  # untrained weights fit neither
    assert "not enough samples to decide" in inv.good("normfit --samples 16 --host lab").out


def test_a_second_deploy_sends_nothing(job, inv):
    rows = inv.good("deploy --host lab --json").rows()
    assert {r["sent_bytes"] for r in rows} == {0}
    assert {f["action"] for r in rows for f in r["files"]} == {"skip"}


def test_the_run_is_resumed_from_its_newest_checkpoint(job, inv, workspace):
    run_id = job[2]["run_id"]
    inv.refused(f"train --host lab --resume {run_id}", 1, "is at step 150, and max_steps is 150", "--set max_steps=")
    resumed = inv.good(f"train --host lab --resume {run_id} --set max_steps=170 --follow", timeout_s=300)
    assert "resumed from step_000150" in resumed.out
    (run,) = inv.good("status --host lab --json").rows()
    assert (run["run_id"], run["state"], run["step"]) == (run_id, "finished", 170)
    steps = [e.data["step"] for e in Journal(workspace / "runs" / run_id / "journal.jsonl").read() if e.kind == "step"]
    assert steps == list(range(1, 171))  # none twice, none lost
    rows = inv.good("checkpoints --host lab --json").rows()
    assert rows[-1]["step"] == 170


def test_the_log_is_there_and_names_what_ran(job, inv):
    log = inv.good("logs --host lab --lines 200").out
    assert re.search(r"step\s+170\b", log)
    script = inv.good("train --host lab --dry-run").out
    assert "-m rdtops.trainer.process_group --num_processes 2" in script
    assert "-m rdtops.trainer.train" in script


def test_a_stopped_run_saves_first_and_is_called_stopped(job, inv):
    inv.good("train --host lab --set max_steps=5000 --set checkpoint_every_steps=5000", timeout_s=200)
    wait_for(lambda: inv.good("status --host lab --json").rows()[0]["step"] >= 3)
    inv.refused("train --host lab", 1, "resources held by", "inv stop")
    stopped = inv.good("stop --host lab --grace 60")
    assert "stopped" in stopped.out
    (run,) = inv.good("status --host lab --json").rows()
    assert run["state"] == "stopped"
    rows = inv.good("checkpoints --host lab --json").rows()
    assert rows
    assert rows[-1]["step"] >= 3


def test_slurm_s_signal_to_all_processes_saves_and_is_called_stopped(job, inv, workspace):
    inv.good("train --host lab --set max_steps=5000 --set checkpoint_every_steps=5000 --set heldout_share=0",
             timeout_s=200)
    wait_for(lambda: inv.good("status --host lab --json").rows()[0]["step"] >= 3)
    run_id = inv.good("status --host lab --json").rows()[0]["run_id"]
    for process in processes.carrying(f"RDTOPS_RUN={run_id}"):  # launch.sh and the launcher must outlive it
        os.kill(process, signal.SIGUSR1)
    wait_for(lambda: inv.good("status --host lab --json").rows()[0]["state"] != "running")
    (run,) = inv.good("status --host lab --json").rows()
    assert (run["state"], run["exit_code"]) == ("stopped", 1)
    *_, told, ended = Journal(workspace / "runs" / run_id / "journal.jsonl").read()
    assert (told.kind, told.data) == ("stopped", {"step": run["step"], "signal": "SIGUSR1"})
    assert (ended.kind, ended.data["cause"], ended.data["restart_in_s"]) == ("attempt_ended", "time_limit", None)
    (saved,) = inv.good("checkpoints --host lab --json").rows()
    assert (saved["step"], saved["best"], saved["heldout_loss"]) == (run["step"], False, None)
    inv.refused(f"fetch-results --host lab --checkpoint best --into {inv.results}", 1, "has a validation loss",
                "--checkpoint latest")


def wait_for(condition, limit_s=120.0):
    import time

    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(1)
