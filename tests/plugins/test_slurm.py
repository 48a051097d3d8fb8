"""What the plugin makes of Slurm's words, recorded from Slurm 22.05, of accounting from its manual."""

from types import ModuleType

import pytest

from rdtops.api import Cause, CheckResult, Command, Job, Output, Phase, Spread
from rdtops.testing import BROKEN, ScriptedConnection, load, make_host, make_spec, said

PLUGIN = load("slurm").module
batch, checks, cluster, states = (getattr(PLUGIN, name) for name in ("batch", "slurm_checks", "cluster", "states"))
OPTIONS = {name: option.default for name, option in PLUGIN.OPTIONS.items()}
PARTITIONS = (
    "PartitionName=gpu AllowGroups=ALL AllowAccounts=robotics,vision AllowQos=normal,long Default=YES MaxNodes=4 "
    "MaxTime=1-00:00:00 Nodes=n[1-8] State=UP\n"
    "PartitionName=debug AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=NO MaxNodes=1 MaxTime=00:30:00 "
    "Nodes=n1 State=DRAIN\n"
    "PartitionName=short AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=NO DefaultTime=00:02:00 MaxNodes=4 "
    "MaxTime=01:00:00 Nodes=n1 State=UP\n")
NODES = "gpu|6|idle|gpu:a100:8(S:0-1)|a100,nvlink\ngpu|2|mix|gpu:a800:4|a800\ndebug|1|idle|gpu:a100:8(S:0-1)|a100\n"
STARTS = "sbatch: Job 5 to start at 2026-11-26T12:00:00 using 64 processors on nodes n[1-2] in partition gpu\n"
HEALTHY = {
    "controller": said("Slurmctld(primary) at head is UP\n"), "partitions": said(PARTITIONS), "nodes": said(NODES),
    "test": said(STARTS), "queue": said("3\n"), "accounts": said("robotics|normal,long\n"),
    "filesystem": said("nfs\nlogin1\nNodeHostName=n1\nNodeHostName=n2\n"), "expectation": said("null\n")}
TRAINING = Job("20261126-101530-tiny-3fa9", make_spec().paths.script, make_spec().paths.log, "RDTOPS_RUN=x", 16, True,
               spreads=True)


def asked(options=None, settings=("num_processes=8", "device=cuda"), **answers) -> dict[str, CheckResult]:
    host = make_host(launcher="slurm")
    connection = ScriptedConnection(host, **{**HEALTHY, **answers})
    found = PLUGIN.preflight_check(host, connection, make_spec(*settings), {**OPTIONS, **(options or {})})
    return {result.name: result for result in found}


def test_the_plugin_is_a_package_whose_parts_are_pure():
    assert all(isinstance(part, ModuleType) for part in (batch, checks, cluster, states))


# --- the job ---

def test_the_batch_script_asks_for_what_hosts_toml_says():
    lines = batch.directives(TRAINING, {**OPTIONS, "nodes": 2, "partition": "gpu", "account": "robotics", "qos": "long",
                                        "gpu_type": "a100", "cpus_per_node": 32, "time": "1-12:00:00",
                                        "constraint": "a100&nvlink", "sbatch": ["--exclusive", "--mem=0"]})
    assert lines == ["--job-name=rdtops-20261126-101530-tiny-3fa9", "--output=slurm.log", "--open-mode=append",
                     "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=32", "--gres=gpu:a100:8", "--partition=gpu",
                     "--account=robotics", "--qos=long", "--constraint='a100&nvlink'", "--time=1-12:00:00", "--requeue",
                     "--signal=B:USR1@300", "--exclusive", "--mem=0"]


def test_a_training_on_cpus_asks_for_no_gpus_and_an_evaluation_for_one_node():
    on_cpus = Job("run", TRAINING.script, TRAINING.log, "RDTOPS_RUN=run", 2, spreads=True)
    assert not any("gpu" in line for line in batch.directives(on_cpus, OPTIONS))
    evaluation = Job("run/eval", TRAINING.script, TRAINING.log, "RDTOPS_EVAL=run/eval", 1, True)
    lines = batch.directives(evaluation, {**OPTIONS, "nodes": 4})
    assert "--nodes=1" in lines
    assert "--job-name=rdtops-run--eval" in lines
    assert f"srun --ntasks=1 --nodes=1 sh {TRAINING.script} &" in batch.batch(evaluation, OPTIONS)


def test_every_node_says_which_one_it_is_and_where_they_meet():
    text = batch.node(TRAINING, Spread(Command("python", "-m", "accelerate.commands.launch"),
                                       Command("-m", "rdtops.trainer.train", "/a b/config.json")))
    assert text.endswith("""\
exec python -m accelerate.commands.launch \\
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \\
    --main_process_ip "$RDTOPS_MASTER" --main_process_port "$RDTOPS_PORT" \\
    -m rdtops.trainer.train '/a b/config.json'
""")


# --- states ---

@pytest.mark.parametrize(("facts", "phase", "cause", "words"), [
    ({}, Phase.ABSENT, Cause.NONE, ""),
    ({"problem": "slurm_load_jobs error: Unable to contact slurm controller"}, Phase.UNKNOWN, Cause.NONE,
     "Slurm gives no state of job 7: slurm_load_jobs error"),
    ({"state": "RUNNING", "nodes": "n[1-2]", "left": "1:02:03", "restarts": "2"}, Phase.RUNNING, Cause.NONE,
     "job 7 runs on n[1-2], 1:02:03 of its time left, requeued 2 times"),
    ({"state": "COMPLETING", "nodes": "n1"}, Phase.RUNNING, Cause.NONE, "job 7 is ending on n1"),
    ({"state": "PENDING", "reason": "Priority", "start": "2026-11-26T18:00:00"}, Phase.QUEUED, Cause.WAITS,
     "job 7 is queued: jobs of higher priority are ahead of it; Slurm expects to start it at 2026-11-26T18:00:00"),
    ({"state": "PENDING", "reason": "AssocGrpGRES", "start": "N/A"}, Phase.QUEUED, Cause.WAITS,
     "job 7 is queued: it waits (AssocGrpGRES)"),
    ({"state": "PENDING", "reason": "PartitionConfig", "start": "N/A"}, Phase.QUEUED, Cause.WAITS,
     "job 7 is queued: the partition does not allow what it requests: it will never start"),
    ({"state": "PENDING", "reason": "JobHeldAdmin"}, Phase.QUEUED, Cause.HELD, "job 7 is held by an administrator"),
    ({"state": "REQUEUE_HOLD", "reason": ""}, Phase.QUEUED, Cause.HELD, "job 7 is held (REQUEUE_HOLD)"),
    ({"state": "PENDING", "reason": "launch failed requeued held"}, Phase.QUEUED, Cause.HELD,
     "job 7 is held: a node could not start it"),
    ({"state": "CANCELLED"}, Phase.ENDED, Cause.CANCELLED, "job 7 was cancelled (scancel"),
    ({"state": "PREEMPTED"}, Phase.ENDED, Cause.PREEMPTED, "job 7 was preempted by a job of higher priority"),
    ({"state": "TIMEOUT", "nodes": "n1"}, Phase.ENDED, Cause.TIMED_OUT, "job 7 reached its time limit on n1"),
    ({"state": "NODE_FAIL"}, Phase.ENDED, Cause.NODE_FAILED, "job 7 lost a node"),
    ({"state": "OUT_OF_MEMORY"}, Phase.ENDED, Cause.OUT_OF_MEMORY, "job 7 used more memory than it was allocated"),
    ({"state": "FAILED", "reason": "NonZeroExitCode"}, Phase.ENDED, Cause.NONE, "job 7 ended by itself, with an error"),
    ({"state": "FAILED", "reason": "RaisedSignal:53(launch_failed)"}, Phase.ENDED, Cause.NOT_STARTED, "job 7 ended"),
    ({"state": "COMPLETED"}, Phase.ENDED, Cause.NONE, "job 7 ended by itself"),
    ({"state": "FAILED", "ended_note": batch.NO_PROGRESS}, Phase.ENDED, Cause.TIMED_OUT,
     "job 7 reached its time limit again without a new checkpoint or trial, and was not requeued"),
    ({"state": ""}, Phase.ENDED, Cause.FORGOTTEN, "Slurm has no record of job 7"),
    ({"state": "", "ended_note": "1795666927"}, Phase.ENDED, Cause.CANCELLED, "job 7 was ended by Slurm"),
])
def test_each_state_of_a_job_is_told_apart_and_named(facts, phase, cause, words):
    state = states.job_state({"id": "7", **facts} if facts else {}, "cluster")
    assert (state.phase, state.cause) == (phase, cause)
    assert state.words.startswith(words)


# --- the checks ---

def test_a_healthy_cluster_has_no_complaint():
    found = asked({"nodes": 2, "account": "robotics", "qos": "long", "constraint": "a100&nvlink", "time": "12:00:00"})
    assert {r.status.value for r in found.values()} == {"OK"}
    assert found["slurm gpus"].summary == "8 nodes have 4 GPUs a node"
    assert found["slurm queue"].summary == "3 jobs wait; Slurm expects to start it at 2026-11-26T12:00:00"


def test_a_host_with_another_launcher_is_none_of_its_business():
    host = make_host(launcher="tmux")
    assert PLUGIN.preflight_check(host, ScriptedConnection(host), make_spec(), OPTIONS) == []


@pytest.mark.parametrize(("options", "name", "words"), [
    ({"partition": "gpuu"}, "slurm partition", "there is no partition gpuu"),
    ({"partition": "debug"}, "slurm partition", "debug is DRAIN"),
    ({"account": "physics"}, "slurm account", "gpu does not allow the account physics"),
    ({"account": "vision"}, "slurm account", "you have no account vision; yours: robotics"),
    ({"account": "robotics", "qos": "urgent"}, "slurm account", "gpu does not allow the QOS urgent"),
    ({"gpu_type": "h100"}, "slurm gpus", "1 nodes with 8 h100 GPUs a node are requested, 0 have them"),
    ({"gpus_per_node": 16}, "slurm gpus", "0 have them"),
    ({"constraint": "h100"}, "slurm features", "no node has h100"),
    ({"nodes": 8}, "slurm nodes", "8 nodes are requested, the partition allows 4"),
    ({"nodes": 3}, "slurm nodes", "8 processes cannot be divided evenly over 3 nodes"),
    ({"time": "2-00:00:00"}, "slurm time", "2-00:00:00 is requested, gpu allows 1-00:00:00"),
    ({"time": "5"}, "slurm time", "the limit of 5 minutes leaves no time to train: the training saves 300 s before it"),
    ({"time": "6"}, "slurm time", "the limit of 6 minutes leaves no time to train"),  # the signal may be a minute early
    ({"sbatch": ["--time=2"]}, "slurm time", "the limit of 2 minutes leaves no time to train"),
    ({"partition": "short"}, "slurm time", "the limit of 00:02:00 leaves no time to train"),  # its DefaultTime
    ({"partition": "gpu,gpuu"}, "slurm partition", "there is no partition gpuu"),
])
def test_what_the_cluster_would_refuse_is_refused_before(options, name, words):
    found = asked(options)[name]
    assert (found.status.value, bool(found.remedy)) == ("FAIL", True)
    assert words in found.summary


def test_slurm_s_own_refusal_is_quoted():
    found = asked(test=said("allocation failure: Requested node configuration is not available\n", 1))["slurm queue"]
    assert found.status.value == "FAIL"
    assert found.summary == "Slurm would reject this job: Requested node configuration is not available"


def test_a_long_queue_and_a_workspace_that_looks_local_are_warnings():
    found = asked(queue=said("213\n"), filesystem=said("ext2/ext3\nlogin1\nNodeHostName=n1\n"))
    assert found["slurm queue"].status.value == found["slurm workspace"].status.value == "WARN"
    assert found["slurm workspace"].summary == "is on ext2/ext3, which seems local: the nodes may not see it"


def test_the_limit_is_held_against_the_measured_time_of_a_step():
    measured = said('{"run_id": "20261101-101010-tiny-aaaa", "step_s": 2.0}\n')
    found = asked({"time": "12:00:00"}, ("max_steps=100000", "num_processes=8", "device=cuda"), expectation=measured)
    assert found["slurm time"].summary == ("about 55.6 h at 2.00 s a step: 5 jobs one after the other, each from the "
                                           "newest checkpoint")


def test_without_slurm_or_its_controller_that_is_the_one_finding():
    gone = asked(controller=said("", 127, "sh: scontrol: not found"))
    assert [r.summary for r in gone.values()] == ["there is no Slurm on this host"]
    down = asked(controller=said("Slurmctld(primary) at head is DOWN\n", 1))
    assert [r.summary for r in down.values()] == ["its controller does not answer"]


@pytest.mark.parametrize("answer", BROKEN)
@pytest.mark.parametrize("name", ["partitions", "nodes", "test", "queue", "accounts", "filesystem", "expectation"])
def test_an_answer_that_cannot_be_read_is_never_a_reason_to_launch_blindly(answer, name):
    found = asked({"partition": "gpu"}, **{name: BROKEN[answer]})
    if name == "partitions":
        assert found["slurm partition"].status.value == "FAIL"
    if name in ("test", "filesystem"):
        assert found["slurm queue" if name == "test" else "slurm workspace"].status.value == "WARN"
    assert all(r.remedy for r in found.values() if r.status.value in ("FAIL", "WARN"))


@pytest.mark.parametrize(("text", "seconds"), [("30", 1800), ("30:15", 1815), ("2:00:00", 7200), ("1-12", 129600),
                                               ("1-00:00:10", 86410), ("UNLIMITED", float("inf"))])
def test_slurm_s_times_are_read(text, seconds):
    assert cluster.seconds(text) == seconds


@pytest.mark.parametrize(("gres", "kind", "count"), [
    ("gpu:8", "", 8), ("gpu:a100:8(S:0-1)", "a100", 8), ("gpu:a100:4,gpu:t4:2,nvme:1", "", 6), ("(null)", "", 0),
    ("gpu:a100:4,gpu:t4:2", "t4", 2), ("gpu:3090:2", "3090", 2), ("gpu:3090:2", "", 2), ("gpu:3090:2", "309", 0),
    ("gpu:a100:4(S:0-1)", "", 4), ("gpu:nvidia_a100_80gb_pcie:2", "nvidia_a100_80gb_pcie", 2),
    ("gpu:1g.5gb:7", "1g.5gb", 7), ("gpu:a100:2(S:0,1),gpu:v100:3(S:0,2-3)", "", 5), ("gpu:a100:2(IDX:0,3)", "a100", 2),
    ("gpu:a100:no_consume:2", "a100", 2), ("gpu", "", 1), ("shard:gpu:8,mps:400", "", 0), ("", "", 0)])
def test_the_gpus_of_a_node_are_counted(gres, kind, count):
    assert cluster.gpus_of(gres, kind) == count


def test_the_limit_of_a_job_is_the_one_that_slurm_gives_it():
    found = {name: asked(options)["slurm time"] for name, options in {
        "requested": {"time": "2:00:00"}, "default": {"partition": "short", "save_before_limit_s": 30},
        "most": {"partition": "gpu"}, "of two": {"partition": "debug,gpu"}}.items()}
    assert {name: result.evidence for name, result in found.items()} == {
        "requested": "time of hosts.toml",
        "default": "DefaultTime of the partition short, as hosts.toml requests no time",
        "most": "MaxTime of the partition gpu, as hosts.toml requests no time",
        "of two": "MaxTime of the partition gpu, as hosts.toml requests no time"}  # debug is down
    assert found["default"].summary.startswith("00:02:00 a job; ")


@pytest.mark.parametrize(("printed", "number"), [
    ("4711\n", "4711"), ("4711;hpc\n", "4711"), ("\n  4711  \n\n", "4711"), ("Submitted batch job 4711\n", "4711"),
    ("Submitted batch job 4711 on cluster hpc\n", "4711"), ("", ""), ("2026\n4711\n", ""), ("4711\nQuota: 3 TB\n", "")])
def test_only_what_is_a_job_s_number_and_nothing_else_is_taken_for_one(printed, number):
    assert PLUGIN.slurm_on_host.job_id(printed, 0) == number
    assert PLUGIN.slurm_on_host.job_id(printed, 1) == ""


def test_the_exit_of_a_probe_that_timed_out_is_no_account():
    with pytest.raises(ValueError, match="no accounting"):
        cluster.parse_accounts(Output(None, "", ""))
