"""What two processes share out between them: the same training, and the same checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from proofs.drills.training_drill import Life
from rdtops.contract.config import override, preset
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError
from rdtops.runs.launch import trainer_command
from rdtops.ssh.hosts import Host
from rdtops.trainer.distributed import sharding
from tests.trainer.conftest import REPOSITORY, SHAPES, SHORT, events, losses, write_run
from tests.trainer.test_replay import trained
from tests.trainer.test_train import digests, failure, wait_for_step

KINDS = ("none", "zero1", "fsdp2")
TWO = (*SHORT, "num_processes=2", "max_steps=4", "checkpoint_every_steps=2", "sample_every_steps=2",
       "max_grad_norm=0.06")  # some steps are clipped, some are not
LONG = (*TWO, "max_steps=2000", "checkpoint_every_steps=1000", "sample_every_steps=0")
PARAMETERS = 274_048


@pytest.fixture(scope="module")
def runs(assets, tmp_path_factory) -> dict[str, RunSpec]:
    folder = tmp_path_factory.mktemp("sharding")
    return {kind: trained(write_run(folder, kind, assets, *TWO, f"sharding={kind}")) for kind in KINDS}


def told(spec: RunSpec, kind: str, field: str) -> list[float]:
    return [e.data[field] for e in events(spec, kind)]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_shared_out_training_learns_the_same_bits(runs, kind) -> None:
    """Two processes: the sum of two numbers does not depend on their order."""
    for event, field in (("step", "loss"), ("step", "grad_norm"), ("heldout", "loss"), ("sample", "action_mse")):
        assert told(runs[kind], event, field) == told(runs["none"], event, field)
    norms = told(runs["none"], "step", "grad_norm")
    assert min(norms) < 0.06 < max(norms)
    for step in (2, 4):
        assert digests(runs[kind], step) == digests(runs["none"], step)
        assert len(digests(runs[kind], step)) == 3


def test_a_disk_that_is_slower_than_the_processes_wait_for_tensors_ends_no_training(assets, tmp_path) -> None:
    """What the others send while rank 0 still writes the checkpoint before would run into NCCL's timeout."""
    spec = write_run(tmp_path, "slow", assets, *TWO, "max_steps=3", "checkpoint_every_steps=1", "heldout_share=0",
                     "sample_every_steps=0")
    ended = subprocess.run(
        [sys.executable, "-m", "rdtops.trainer.process_group", "--num_processes", "2", "-m",
         "tests.trainer.distributed.impatient", str(spec.paths.config), "4", "6"],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
        check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert [e.data["step"] for e in events(spec, "checkpoint")] == [1, 2, 3]


def resumed(runs, assets, folder: Path, begun: str, *settings: str) -> RunSpec:
    spec = write_run(folder, "resumed", assets, *TWO, *settings)
    halfway = Path(runs[begun].paths.checkpoints) / "step_000002"
    shutil.copytree(halfway, Path(spec.paths.checkpoints) / halfway.name)
    return trained(spec)


@pytest.mark.parametrize(("begun", "then"), [
    ("zero1", "fsdp2"), pytest.param("fsdp2", "none", marks=pytest.mark.slow),
    pytest.param("fsdp2", "zero1", marks=pytest.mark.slow), pytest.param("fsdp2", "fsdp2", marks=pytest.mark.slow)])
def test_a_checkpoint_is_resumed_with_any_sharding(runs, assets, tmp_path, begun, then) -> None:
    spec = resumed(runs, assets, tmp_path, begun, f"sharding={then}")
    assert digests(spec, 4) == digests(runs["none"], 4)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "each"), [(1, 8), (4, 2)])
def test_a_checkpoint_is_resumed_by_any_number_of_processes(runs, assets, tmp_path, processes, each) -> None:
    spec = resumed(runs, assets, tmp_path, "fsdp2", "sharding=fsdp2", f"num_processes={processes}",
                   f"batch_size_per_process={each}")
    assert losses(spec) == pytest.approx(losses(runs["none"])[2:], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3, 4])
def test_more_than_two_processes_killed_and_resumed_end_with_the_bits_of_those_left_alone(
        assets, tmp_path, processes) -> None:
    settings = (*TWO, f"num_processes={processes}", "batch_size_per_process=2", "max_steps=8")
    whole = trained(write_run(tmp_path, "whole", assets, *settings))
    killed = write_run(tmp_path, "killed", assets, *settings)
    life = Life(killed)
    wait_for_step(killed, life._processes[0], 5)
    life.kill()
    assert digests(trained(killed), 8) == digests(whole, 8)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    ("mixed_precision=bf16", "gradient_checkpointing=true"), ("gradient_checkpointing=true",)])
def test_autocast_and_recomputed_blocks_change_nothing(assets, tmp_path, settings) -> None:
    whole, shared = (trained(write_run(tmp_path, kind, assets, *TWO, *settings, f"sharding={kind}"))
                     for kind in ("none", "fsdp2"))
    assert losses(shared) == losses(whole)
    assert digests(shared, 4) == digests(whole, 4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    ("batch_size_per_process=2", "gradient_accumulation_steps=2"), ("num_processes=3", "batch_size_per_process=2")])
def test_other_orders_of_addition_differ_in_the_last_digits_only(assets, tmp_path, settings) -> None:
    """Micro-batches are added up after the processes, not before; three processes, whose parts are not equal, in a
    ring."""
    whole, shared = (trained(write_run(tmp_path, kind, assets, *TWO, *settings, f"sharding={kind}"))
                     for kind in ("none", "fsdp2"))
    assert losses(shared) == pytest.approx(losses(whole), rel=1e-6)


@pytest.mark.parametrize(("kind", "shared_out"), [
    pytest.param("none", {"average"}, marks=pytest.mark.slow), ("zero1", {"average", "moments"}),
    ("fsdp2", {"average", "moments", "weights", "gradients"})])
def test_half_of_what_is_shared_out_is_really_half_of_the_memory(assets, tmp_path, kind, shared_out) -> None:
    spec = write_run(tmp_path, "sizes", assets, *TWO, "max_steps=2", f"sharding={kind}")
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                    "tests.trainer.distributed.held_bytes", str(spec.paths.config), str(tmp_path)],
                   cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    whole = {"weights": 4 * PARAMETERS, "gradients": 4 * PARAMETERS, "average": 4 * PARAMETERS,
             "moments": 8 * PARAMETERS}
    for rank in range(2):
        sizes = json.loads((tmp_path / f"{rank}.json").read_text())
        assert sizes == pytest.approx({what: size / 2 if what in shared_out else size for what, size in whole.items()},
                                      rel=0.03)


# what goes wrong ------------------------------------------------------------------------------------------------------

def finish_line(life: Life) -> list[int]:
    return [process.wait(60) for process in life._processes]


def test_a_process_that_is_killed_ends_the_others_with_a_reason(assets, tmp_path) -> None:
    """It dies in the midst of a step, where torch talks and not we."""
    spec = write_run(tmp_path, "bereaved", assets, *LONG, "sharding=fsdp2")
    life = Life(spec)
    wait_for_step(spec, life._processes[0], 3)
    life._processes[1].kill()
    assert finish_line(life) == [1, -signal.SIGKILL]
    assert failure(spec)["error"].startswith("rank 0 lost contact with the other processes: ")
    assert "Traceback" not in Path(spec.paths.log).read_text()


@pytest.mark.slow
def test_a_loss_of_one_process_that_is_not_finite_ends_all_before_anything_is_saved(assets, tmp_path) -> None:
    """The others have the step's update behind them by then."""
    spec = write_run(tmp_path, "exploding", assets, *TWO, "checkpoint_every_steps=1")
    life = Life(spec, program=(sys.executable, "-c", ONE_IS_LOST, str(spec.paths.config)))
    assert finish_line(life) == [1, 1]
    told = failure(spec)
    assert told["error"].startswith("step 2: the loss is not finite; its samples: ")
    assert told["error"].count("demo_") == spec.train.batch_size_per_process
    assert [e.data["step"] for e in events(spec, "checkpoint")] == [1]


ONE_IS_LOST = """
import os, sys
from rdtops.trainer import train
from rdtops.trainer.loop import failures
loss = train.Training._loss
def lost(training, *given):
    return loss(training, *given) * (float("nan") if training.ranks.rank and training.steps_done else 1)
train.Training._loss = lost
failures.leave(lambda: train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_training_and_a_stopped_one_resume_bit_equal(runs, assets, tmp_path) -> None:
    spec = write_run(tmp_path, "killed", assets, *TWO, "sharding=fsdp2")
    for step, strike in ((1, signal.SIGTERM), (3, signal.SIGKILL)):
        life = Life(spec)
        deadline_s = time.monotonic() + 120
        while life.step < step and time.monotonic() < deadline_s:
            time.sleep(0.002)
        os.killpg(life._processes[0].pid, strike)
        assert set(finish_line(life)) == {143 if strike == signal.SIGTERM else -strike}
    trained(spec)
    assert digests(spec, 4) == digests(runs["none"], 4)
    assert not events(spec, "failed")


def test_every_process_gets_a_nearly_equal_share() -> None:
    shapes = json.loads((SHAPES / "rdt-1b.shapes.json").read_text())
    parameters = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes.values()]
    owned = sharding.shared_out(parameters, 8)
    sizes = [sum(p.numel() for p in part) for part in owned.values()]
    assert sum(sizes) == sum(p.numel() for p in parameters)
    assert max(sizes) < 1.02 * sum(sizes) / 8
    assert sum(len(part) for part in owned.values()) == len(parameters)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_fp16_and_sharding_are_refused_together(kind) -> None:
    with pytest.raises(ConfigError, match="sharding needs mixed_precision bf16 or no"):
        override(preset("tiny"), [f"sharding={kind}", "mixed_precision=fp16"])


# accelerate's configuration -------------------------------------------------------------------------------------------

ASKED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true",
         "FSDP_OFFLOAD_PARAMS": "false", "FSDP_ACTIVATION_CHECKPOINTING": "false"}


@pytest.mark.parametrize(("kind", "environment", "named"), [
    ("none", ASKED, "sharding = none: ACCELERATE_USE_FSDP = true"),
    ("zero1", ASKED, "ACCELERATE_USE_FSDP = true"),
    ("fsdp2", {**ASKED, "FSDP_VERSION": "1"}, "FSDP_VERSION = 1, the run has 2"),
    ("fsdp2", {**ASKED, "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS = true, the run has false"),
    ("fsdp2", {**ASKED, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "FSDP_ACTIVATION_CHECKPOINTING = true, the run"),
    ("fsdp2", {"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED = true")])
def test_what_accelerate_was_asked_for_and_nobody_would_do_is_refused(kind, environment, named) -> None:
    with pytest.raises(ConfigError, match=named):
        sharding.check_launcher(override(preset("tiny"), [f"sharding={kind}"]), environment)


def test_what_fits_or_says_nothing_is_accepted() -> None:
    for kind, environment in (("fsdp2", ASKED), *((kind, {}) for kind in KINDS)):
        sharding.check_launcher(override(preset("tiny"), [f"sharding={kind}"]), environment)
    alone = override(preset("tiny"), ["num_processes=1"])
    sharding.check_launcher(alone, ASKED)  # nothing to share out
    eased = override(preset("tiny"), ["sharding=fsdp2", "gradient_checkpointing=true"])
    sharding.check_launcher(eased, ASKED)  # a run that ran out of memory, on a launcher that knows nothing of it


def launched(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", ["true", "false"])
def test_the_command_of_a_run_shards_as_the_run_asks(runs, assets, tmp_path, recomputed) -> None:
    spec = write_run(tmp_path, "told", assets, *TWO, "sharding=fsdp2", f"gradient_checkpointing={recomputed}")
    command = trainer_command(Host(name="here", address="here", python=sys.executable), spec)
    assert launched(list(command.argv)).returncode == 0
    assert losses(spec) == losses(runs["none"])


@pytest.mark.slow
def test_the_accelerate_configuration_of_the_docs_starts_fsdp2_and_nothing_else(runs, assets, tmp_path) -> None:
    config = tmp_path / "fsdp2.yaml"
    documented = (REPOSITORY / "docs" / "distributed.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    config.write_text(documented.replace("bf16", '"no"'))
    for kind, code in (("fsdp2", 0), ("none", 1)):
        spec = write_run(tmp_path, kind, assets, *TWO, f"sharding={kind}")
        ended = launched([sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config),
                          "--num_processes", "2", "-m", "rdtops.trainer.train", str(spec.paths.config)])
        assert ended.returncode == code, ended.stderr
    assert losses(RunSpec.load(tmp_path / "runs" / "fsdp2" / "config.json")) == losses(runs["none"])
    assert "ACCELERATE_USE_FSDP = true" in failure(spec)["error"]
