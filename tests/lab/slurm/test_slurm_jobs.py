"""How a job of a real Slurm ended, or why it waits, told apart and named. Small shell scripts stand for trainings."""

import json
import time
from dataclasses import replace

import pytest

from rdtops.checks import Status
from rdtops.contract.evaluation import EvalPaths
from rdtops.contract.run import RunPaths, RunState
from rdtops.errors import RunError
from rdtops.launcher import Cause, Phase
from rdtops.runs import jobs, launchers, overview
from rdtops.ssh import inventory
from rdtops.ssh.command import Command, quoted
from rdtops.ssh.connection import Connection
from rdtops.testing import load, make_spec

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture
def connection(healthy_cluster, lab, tmp_path):
    lab.write_inventory(tmp_path / "hosts.toml", {})
    host = inventory.load(tmp_path / "hosts.toml").host("lab")
    host = replace(host, launcher="slurm", workspace=str(lab.home("lab") / tmp_path.name))
    with Connection(host) as connection:
        yield connection


def with_options(connection, **options):
    connection.host = replace(connection.host, plugins={"slurm": options})


def named(word):
    return f"20260101-000000-{word}-0001"


def submitted(connection, name, line):
    """A run whose training is a line of sh."""
    job = jobs.training_job(RunPaths(connection.workspace, named(name)))
    script = f"cd {quoted(str(job.folder))} || exit 1\n{line}\ncode=$?\necho $code > exit\nexit $code\n"
    connection.run(Command("mkdir", "-p", str(job.folder)))
    launcher = launchers.launcher(connection.host)
    for file, text in {**launcher.files(job, None), "launch.sh": script}.items():
        connection.run_shell(f"cat > {quoted(job.file(file))}", stdin=text.encode())
    launcher.submit(connection, job)
    return job


def becomes(connection, name, *states, limit_s=60.0):
    end = time.monotonic() + limit_s
    while (run := overview.find(connection, named(name))).state not in states:
        assert time.monotonic() < end, run
        time.sleep(0.3)
    return run


def test_one_that_fails_by_itself_is_failed_with_its_exit_code(connection):
    submitted(connection, "fails", "exit_now() { return 7; }; exit_now")
    run = becomes(connection, "fails", RunState.FAILED)
    assert (run.exit_code, run.job.cause) == (7, Cause.NONE)
    assert "ended by itself, with an error on n" in run.job.words


def test_one_that_was_cancelled_by_hand_is_stopped_and_says_so(connection, cluster):
    submitted(connection, "cancelled", "sleep 100")
    run = becomes(connection, "cancelled", RunState.RUNNING)
    cluster.client("scancel", run.job.id)
    run = becomes(connection, "cancelled", RunState.STOPPED)
    assert run.job.cause is Cause.CANCELLED
    assert f"job {run.job.id} was cancelled (scancel" in run.job.words
    assert run.end.state is RunState.STOPPED
    cluster.stop_controller()  # what was seen is kept beside the run, whatever Slurm forgets
    assert overview.find(connection, named("cancelled")).job == run.job


def test_a_held_one_is_queued_and_names_how_to_release_it(connection, cluster):
    with_options(connection, sbatch=["--hold"])
    submitted(connection, "held", "sleep 1")
    run = becomes(connection, "held", RunState.QUEUED)
    assert (run.job.cause, run.job.words) == (Cause.HELD, f"job {run.job.id} is held by you")
    assert run.job.remedy == f"scontrol release {run.job.id}   # on lab"
    cluster.client("scontrol", "release", run.job.id)
    assert becomes(connection, "held", RunState.FINISHED).exit_code == 0


def test_one_that_waits_says_for_what_and_leaves_the_queue_when_it_is_stopped(connection):
    with_options(connection, sbatch=["--nodelist=n1", "--exclusive"])
    submitted(connection, "first", "sleep 100")
    becomes(connection, "first", RunState.RUNNING)
    submitted(connection, "second", "sleep 1")
    run = becomes(connection, "second", RunState.QUEUED)
    assert run.job.cause is Cause.WAITS
    assert f"job {run.job.id} is queued: " in run.job.words
    overview.stop(connection, run, 5)
    assert becomes(connection, "second", RunState.STOPPED).job.cause is Cause.CANCELLED


def test_a_job_that_slurm_would_never_start_says_so(connection):
    with_options(connection, partition="urgent", time="30")
    submitted(connection, "never", "sleep 1")
    run = becomes(connection, "never", RunState.QUEUED)
    assert run.job.words.endswith(": it will never start")  # PartitionConfig at first, then PartitionTimeLimit
    assert run.job.remedy.startswith("inv stop --host lab")


def test_a_job_whose_node_fails_is_lost_or_queued_again(connection, cluster):
    with_options(connection, sbatch=["--nodelist=n2", "--no-requeue"])
    submitted(connection, "lost", "sleep 100")
    becomes(connection, "lost", RunState.RUNNING)
    cluster.fail_node("n2")
    run = becomes(connection, "lost", RunState.LOST)
    assert run.job.cause is Cause.NODE_FAILED
    assert "lost a node" in run.end.error
    with_options(connection, sbatch=["--nodelist=n1"])
    submitted(connection, "again", "sleep 100")
    becomes(connection, "again", RunState.RUNNING)
    cluster.fail_node("n1")
    waiting = becomes(connection, "again", RunState.QUEUED)
    assert waiting.job.id == overview.find(connection, named("again")).job.id


def test_a_preempted_job_that_may_not_be_queued_again_is_named(connection, cluster):
    with_options(connection, sbatch=["--nodelist=n1", "--no-requeue", "--exclusive"])
    submitted(connection, "preempted", "sleep 100")
    becomes(connection, "preempted", RunState.RUNNING)
    cluster.client("sbatch", "-p", "urgent", "-t", "1", "--nodelist=n1", "--exclusive", "-o", "/dev/null",
                   "--wrap=sleep 1")
    run = becomes(connection, "preempted", RunState.STOPPED)
    assert run.job.cause is Cause.PREEMPTED, run.job


def test_a_controller_that_is_down_is_unknown_and_never_gone(connection, cluster):
    job = submitted(connection, "goes-on", "while [ ! -e end ]; do sleep 0.2; done")
    number = becomes(connection, "goes-on", RunState.RUNNING).job.id
    cluster.stop_controller()
    run = overview.find(connection, named("goes-on"))
    assert (run.state, run.job.phase, run.job.id) == (RunState.UNKNOWN, Phase.UNKNOWN, number)
    assert not run.state.ended
    assert "Unable to contact slurm controller" in run.job.words
    with pytest.raises(RunError, match="Slurm rejected the job"):  # nor is anything started that may be running
        launchers.launcher(connection.host).submit(connection, job)
    with pytest.raises(RunError, match="did not end"):
        overview.stop(connection, run, 1)
    cluster.start_controller()
    assert becomes(connection, "goes-on", RunState.RUNNING).job.id == number
    connection.run(Command("touch", job.file("end")))
    assert becomes(connection, "goes-on", RunState.FINISHED).exit_code == 0


def test_what_slurm_has_forgotten_is_told_from_what_the_run_left(connection):
    submitted(connection, "old", "true")
    becomes(connection, "old", RunState.FINISHED)
    folder = quoted(f"{connection.workspace}/runs/{named('old')}")
    record = json.dumps({"id": "99999", "name": named("old")}).encode()
    connection.run_shell(f"cd {folder} && rm slurm-end.json && cat > slurm.json", stdin=record)
    run = overview.find(connection, named("old"))
    assert (run.state, run.exit_code, run.job.cause) == (RunState.FINISHED, 0, Cause.FORGOTTEN)
    connection.run_shell(f"cd {folder} && rm exit && date +%s > ended")
    run = overview.find(connection, named("old"))
    assert (run.state, run.job.cause) == (RunState.STOPPED, Cause.CANCELLED)
    assert "has no record of why" in run.job.words


@pytest.fixture
def site_sbatch(cluster):
    """Replace sbatch on the login node by a site's own, which ends with `line`."""
    program = cluster.bin_folder / "sbatch"
    ours = program.read_text()
    (cluster.bin_folder / "sbatch.real").write_text(ours)
    (cluster.bin_folder / "sbatch.real").chmod(0o755)

    def replace(line):
        program.write_text(f"#!/bin/sh\necho Welcome to HPC\necho 2026\nnumber=$(sbatch.real \"$@\") || exit\n{line}\n")
    yield replace
    program.write_text(ours)
    (cluster.bin_folder / "sbatch.real").unlink()


@pytest.mark.parametrize("line", ["echo Submitted batch job $number; echo Quota: 3 of 10 TB", "exit 3"])
def test_a_job_that_slurm_took_is_known_whatever_the_site_s_sbatch_prints(connection, site_sbatch, line):
    site_sbatch(line)
    job = submitted(connection, "banner", "sleep 100")
    state = launchers.launcher(connection.host).states(connection, [job])[job.name]
    assert state.phase in (Phase.QUEUED, Phase.RUNNING)
    assert launchers.launcher(connection.host).submit(connection, job).already  # it is one job


def test_a_job_that_slurm_does_not_take_is_an_error_with_its_words(connection, site_sbatch):
    site_sbatch("echo $number")
    with_options(connection, partition="nowhere")
    with pytest.raises(RunError, match=r"Slurm rejected the job .*: sbatch: error: "):
        submitted(connection, "refused", "sleep 1")


LIMITED = """\
trap 'kill $!; exit 143' USR1
echo $$ > supervisor
{line}
sleep 100 & wait"""


def signalled(connection, cluster, begun=1):
    """Wait until the job has begun for the `begun`th time, and signal its shell as Slurm does before a time limit."""
    folder = quoted(f"{connection.workspace}/runs/{named('limited')}")
    waits_for(connection, f"[ $(cat {folder}/begun) -eq {begun} ]")
    number = becomes(connection, "limited", RunState.RUNNING).job.id
    cluster.client("scancel", "--batch", "--signal=USR1", number)
    return number


def limited(connection, line):
    with_options(connection, sbatch=["--nodelist=n1"])
    submitted(connection, "limited", LIMITED.format(line=line))


def kinds(connection):
    journal = quoted(f"{connection.workspace}/runs/{named('limited')}/journal.jsonl")
    return connection.run_shell(f"sed -n 's/^{{\"kind\": \"\\([a-z]*\\).*/\\1/p' {journal}").out.split()


def test_a_job_that_came_back_and_kept_nothing_is_not_queued_again(connection, cluster):
    limited(connection, "echo 0 > requeued; echo 1 > begun")  # as if it had come back
    number = signalled(connection, cluster)
    run = becomes(connection, "limited", RunState.FAILED)
    assert (run.job.id, run.job.cause) == (number, Cause.TIMED_OUT)
    assert "again without a new checkpoint or trial, and was not requeued" in run.end.error
    assert kinds(connection) == ["scheduled", "warning"]


@pytest.mark.slow
def test_a_job_is_queued_again_as_long_as_it_keeps_something(connection, cluster):
    """The second time it keeps a checkpoint, the third time nothing."""
    limited(connection, """\
echo $(($(cat begun 2>/dev/null || echo 0) + 1)) > begun.new; mv begun.new begun
[ $(cat begun) -ne 2 ] || echo '{"kind": "checkpoint", "step": 40}' >> journal.jsonl""")
    for begun in (1, 2, 3):
        signalled(connection, cluster, begun)
    assert becomes(connection, "limited", RunState.FAILED).job.cause is Cause.TIMED_OUT
    assert kinds(connection) == ["scheduled", "requeued", "scheduled", "checkpoint", "requeued", "scheduled", "warning"]


def waits_for(connection, line, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not connection.run_shell(line, check=False).ok:
        assert time.monotonic() < end, line
        time.sleep(0.3)


def test_what_the_cluster_has_is_read_from_slurm_s_own_words(connection):
    """Its GPUs are of the type 3090; its partition brief has DefaultTime=2 MaxTime=60."""
    with_options(connection, partition="brief", gpu_type="3090")
    plugin = load("slurm").module
    options = {name: option.default for name, option in plugin.OPTIONS.items()} | dict(connection.host.plugins["slurm"])
    spec = make_spec("device=cuda", "num_processes=2")
    found = {r.name: r for r in plugin.preflight_check(connection.host, connection, spec, options)}
    assert found["slurm gpus"].summary == "2 nodes have 2 3090 GPUs a node"
    assert found["slurm queue"].status is Status.OK
    assert found["slurm time"].status is Status.FAIL
    assert found["slurm time"].summary.startswith("the limit of 00:02:00 leaves no time to train")


def test_an_evaluation_is_a_job_of_one_node_beside_its_training(connection):
    with_options(connection, nodes=2)
    job = jobs.evaluation_job(EvalPaths(RunPaths(connection.workspace, "run"), "step_000010-libero_90-0a1b2c3d"))
    connection.run(Command("mkdir", "-p", str(job.folder)))
    launcher = launchers.launcher(connection.host)
    script = f"cd {quoted(str(job.folder))}\necho $SLURM_NNODES $SLURM_STEP_ID > nodes\nsleep 100\n"
    for file, text in {**launcher.files(job, None), "eval.sh": script}.items():
        connection.run_shell(f"cat > {quoted(job.file(file))}", stdin=text.encode())
    launcher.submit(connection, job)
    end = time.monotonic() + 60
    while not (seen := connection.run(Command("cat", job.file("nodes")), check=False).out):
        assert time.monotonic() < end, launcher.states(connection, [job])
        time.sleep(0.3)
    assert seen == "1 0\n"  # a step of it, which scancel --signal reaches
    assert launcher.states(connection, [job])[job.name].phase is Phase.RUNNING
    jobs.stop(connection, job, 20)
    assert launcher.states(connection, [job])[job.name].phase is Phase.ENDED
