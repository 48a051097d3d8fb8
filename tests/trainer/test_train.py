"""Real trainings of the tiny model on recorded demonstrations, most of them a dozen steps."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdtops.contract import config
from rdtops.contract.config import override, preset
from rdtops.contract.journal import KINDS, Journal
from rdtops.contract.run import RunSpec
from rdtops.hostlib import manifest
from rdtops.trainer import libraries, train
from rdtops.trainer.distributed import ranks
from rdtops.trainer.loop.progress import Telling
from rdtops.trainer.model.rdt import RDTPolicy
from tests.trainer.conftest import (
    REPOSITORY,
    SHORT,
    SIXTY,
    events,
    files_no_larger_than,
    losses,
    signals_as_they_were,
    start,
    write_run,
)
from tests.trainer.loop.test_trackers import scalars

LEARNT = ("model.safetensors", "ema/model.safetensors", "optimizer.safetensors")


def digests(spec: RunSpec, step: int) -> dict[str, str]:
    """Of what was learnt; equal exactly when two trainings are in the same state."""
    sealed = manifest.read(Path(spec.paths.checkpoints) / f"step_{step:06d}")
    return {f.path: f.md5 for f in sealed.files if f.path in LEARNT}


def failure(spec: RunSpec) -> dict:
    (failed,) = events(spec, "failed")
    return failed.data


# the whole way ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def launched(assets, tmp_path_factory) -> RunSpec:
    """The tiny preset as it is, started as on a GPU host: two processes."""
    spec = write_run(tmp_path_factory.mktemp("launched"), "two", assets, "tracker=tensorboard")
    with launch(spec) as launcher:
        told, complaint = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, complaint
    Path(spec.paths.log).write_text(told)
    return spec


def launch(spec: RunSpec) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rdtops.trainer.process_group", "--num_processes", "2", "-m", "rdtops.trainer.train",
         str(spec.paths.config)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_journal_tells_the_whole_training(launched) -> None:
    told = events(launched)
    (started,), (finished,) = ([e.data for e in told if e.kind == kind] for kind in ("started", "finished"))
    assert started == {"world_size": 2, "max_steps": 60, "device": "cpu", "parameters": 274_048,
                       "resumed_from_step": 0, "heldout_samples": 5,
                       "instructions": ["close the top drawer of the cabinet"], "gradient_checkpointing": False}
    assert finished == {"step": 60, "loss": losses(launched)[-1]}
    assert [e.data["step"] for e in told if e.kind == "step"] == list(range(1, 61))
    assert [e.data["step"] for e in told if e.kind == "sample"] == [20, 40, 60]
    assert [e.data["name"] for e in told if e.kind == "checkpoint"] == ["step_000020", "step_000040", "step_000060"]


def test_every_event_has_the_fields_that_the_contract_states(launched) -> None:
    for event in events(launched):
        stated = [part.split(":")[0].split("(")[0].strip() for part in KINDS[event.kind].split(",")]
        missing = [name for name in stated if name.isidentifier() and name not in event.data]
        assert not missing, event


def test_the_time_of_a_step_is_told_in_its_parts(launched) -> None:
    parts = ("data_s", "encode_s", "forward_s", "backward_s", "optimiser_s", "save_s", "evaluation_s")
    for told in (e.data for e in events(launched, "step")):
        assert sum(told[part] for part in parts) <= told["step_s"] + 0.001
        assert all(told[part] > 0 for part in parts[1:5]), told
        assert 100 < told["memory_mib"] < 4000
        assert told["samples"] == 8 * told["step"]
        assert told["samples_per_s"] == pytest.approx(
            8 / (told["step_s"] - told["save_s"] - told["evaluation_s"]), rel=0.05)
    at = {e.data["step"]: e.data for e in events(launched, "step")}
    assert [step for step in at if at[step]["save_s"] > 0] == [21, 41]  # in the step after, as it is spent
    assert all(at[step]["evaluation_s"] > 0 for step in (21, 41))
    whole_s = sum(at[step]["step_s"] for step in range(2, 61))
    told_s = sum(at[step][part] for step in range(2, 61) for part in parts)
    assert told_s > 0.7 * whole_s


def test_two_processes_fill_one_tensorboard(launched) -> None:
    told = scalars(Path(launched.paths.root) / "tensorboard")
    assert [value for _, value in told["loss"]] == pytest.approx(losses(launched))
    assert [step for step, _ in told["heldout_loss"]] == [20, 40, 50, 60]
    assert not events(launched, "warning")


def test_the_loss_falls(launched) -> None:
    told = losses(launched)
    assert sum(told[-6:]) < 0.8 * sum(told[:6])


def test_one_process_learns_what_two_learn(launched, prepare, train_here) -> None:
    alone = prepare("one", "num_processes=1", "batch_size_per_process=8")
    assert train_here(alone) == 0
    assert losses(alone) == pytest.approx(losses(launched), abs=1e-5, rel=1e-5)
    ours, theirs = (load_file(Path(s.paths.checkpoints) / "step_000060" / LEARNT[1]) for s in (alone, launched))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=1e-4)
    assert heldout_losses(alone) == pytest.approx(heldout_losses(launched), rel=1e-4)
    assert len(heldout_losses(alone)) == 4  # every 50 steps, and at every checkpoint


def heldout_losses(spec: RunSpec) -> list[float]:
    return [e.data["loss"] for e in events(spec, "heldout")]


def test_train_log_has_a_readable_line_for_every_step(launched) -> None:
    log = Path(launched.paths.log).read_text()
    assert log.count("samples/s") == 60
    assert "step 60/60  loss 0.0" in log
    assert "saved step_000060" in log


def test_a_checkpoint_holds_what_evaluation_needs(launched) -> None:
    folder = Path(launched.paths.checkpoints) / "step_000060"
    (told,) = (e.data for e in events(launched, "checkpoint") if e.data["step"] == 60)
    sealed = manifest.read(folder)
    assert (sealed.digest, sealed.size_bytes) == (told["digest"], told["size_bytes"])
    assert manifest.differences(folder, sealed) == []
    live, average = RDTPolicy.from_pretrained(folder), RDTPolicy.from_pretrained(folder / "ema")
    assert not torch.equal(live.img_adaptor[0].weight, average.img_adaptor[0].weight)
    assert json.loads((folder / "codec.json").read_text())["golden"]
    assert json.loads((folder / "statistics.json").read_text())["files"]
    trainer = json.loads((folder / "trainer.json").read_text())
    assert trainer["ema_updates"] == 60
    assert trainer["heldout_loss"] == told["heldout_loss"] == heldout_losses(launched)[-1]


# every preset but tiny has loader workers; without any is the long form
WITH_WORKERS = pytest.mark.parametrize("workers", ["loader_workers=1",
                                                   pytest.param("loader_workers=0", marks=pytest.mark.slow)])


# interrupted --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def uninterrupted(assets, tmp_path_factory) -> RunSpec:
    spec = write_run(tmp_path_factory.mktemp("uninterrupted"), "whole", assets, *SHORT)
    finish(spec)
    return spec


def finish(spec: RunSpec, code: int = 0) -> None:
    with start(spec) as training:
        _, complaint = training.communicate(timeout=120)
    assert training.returncode == code, complaint


def interrupt(spec: RunSpec, sent: signal.Signals, after_step: int) -> int:
    """Send a signal once a step is in the journal. Returns the exit code."""
    with start(spec) as training:
        wait_for_step(spec, training, after_step)
        training.send_signal(sent)
        training.communicate(timeout=60)
    return training.returncode


def wait_for_step(spec: RunSpec, training: subprocess.Popen[str], step: int) -> None:
    deadline = time.monotonic() + 120
    while len(losses(spec)) < step and training.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


@WITH_WORKERS
def test_a_killed_run_resumes_bit_equal(uninterrupted, prepare, workers) -> None:
    spec = prepare("killed", *SHORT, workers)
    assert interrupt(spec, signal.SIGKILL, after_step=6) == -signal.SIGKILL
    reached = len(losses(spec))
    finish(spec)
    resumed = events(spec, "started")[1].data["resumed_from_step"]
    assert resumed in (0, 4, 8)  # the first may still have been on its way to the disk
    assert digests(spec, 12) == digests(uninterrupted, 12)
    assert len(digests(spec, 12)) == 3
    whole = losses(uninterrupted)
    assert losses(spec) == whole[:reached] + whole[resumed:]


@WITH_WORKERS
def test_a_kill_while_a_checkpoint_is_written_costs_that_checkpoint_only(uninterrupted, prepare, workers) -> None:
    spec = prepare("torn", *SHORT, workers)
    torn = Path(spec.paths.checkpoints) / "step_000008.tmp"
    with start(spec) as training:
        deadline = time.monotonic() + 120
        while not torn.exists() and time.monotonic() < deadline:
            time.sleep(0.0005)
        training.kill()
        training.communicate(timeout=60)
    assert torn.exists()
    finish(spec)
    assert events(spec, "started")[1].data["resumed_from_step"] == 4
    assert not torn.exists()
    assert digests(spec, 12) == digests(uninterrupted, 12)


@WITH_WORKERS
def test_sigterm_saves_and_the_rest_is_bit_equal(uninterrupted, prepare, workers) -> None:
    spec = prepare("stopped", *SHORT, "checkpoint_every_steps=100", workers)
    assert interrupt(spec, signal.SIGTERM, after_step=3) == 143
    reached = len(losses(spec))
    assert [e.data["step"] for e in events(spec, "checkpoint")] == [reached]
    assert (events(spec)[-1].kind, events(spec)[-1].data) == ("stopped", {"step": reached, "signal": "SIGTERM"})
    assert not events(spec, "failed")
    finish(spec)
    assert events(spec, "started")[1].data["resumed_from_step"] == reached
    assert digests(spec, 12) == digests(uninterrupted, 12)
    assert losses(spec) == losses(uninterrupted)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_every_process_still_saves(uninterrupted, prepare, sent) -> None:
    """As `inv stop` sends it to all processes of a run, and Slurm before a time limit: the loader's workers must not
    go first."""
    spec = prepare("swept", *SHORT, "loader_workers=1", "max_steps=500")
    with start(spec, start_new_session=True) as training:
        wait_for_step(spec, training, 3)
        os.killpg(training.pid, sent)
        training.communicate(timeout=60)
    assert training.returncode == 128 + sent
    assert events(spec, "stopped")[-1].data["signal"] == sent.name
    reached = len(losses(spec))
    assert events(spec, "checkpoint")[-1].data["step"] == reached
    assert losses(spec)[:12] == losses(uninterrupted)[:reached]


def test_sigterm_while_setting_up_ends_at_once(prepare) -> None:
    spec = prepare("early", *SHORT)
    with start(spec) as training:
        time.sleep(0.5)
        training.terminate()
        training.communicate(timeout=30)
    assert training.returncode in (143, -signal.SIGTERM)  # the second before Python could install our handler
    assert not events(spec, "step")


@WITH_WORKERS
def test_sigusr1_to_one_of_two_ranks_lets_both_save_and_leave(prepare, workers) -> None:
    spec = prepare("rank", "max_steps=2000", "checkpoint_every_steps=1000", "sample_every_steps=0", workers)
    with launch(spec) as launcher:
        wait_for_step(spec, launcher, 3)
        os.kill(child_of_rank(launcher.pid, 1), signal.SIGUSR1)
        launcher.communicate(timeout=60)
    assert launcher.returncode == 1  # a rank left with 138, and torchrun has one word for all
    (saved,) = events(spec, "checkpoint")
    assert saved.data["step"] == len(losses(spec))
    assert saved.data["heldout_loss"] > 0
    assert events(spec)[-1].data == {"step": saved.data["step"], "signal": "SIGUSR1"}
    assert not events(spec, "failed")


@WITH_WORKERS
def test_sigterm_to_the_launcher_saves(prepare, workers) -> None:
    spec = prepare("launched", "max_steps=2000", "checkpoint_every_steps=1000", "sample_every_steps=0", workers)
    with launch(spec) as launcher:
        wait_for_step(spec, launcher, 3)
        launcher.terminate()
        launcher.communicate(timeout=60)
    assert [e.data["step"] for e in events(spec, "checkpoint")] == [len(losses(spec))]
    assert not events(spec, "failed")


@WITH_WORKERS
def test_a_process_that_is_killed_ends_the_others_with_a_reason(prepare, workers) -> None:
    """As the kernel does when memory runs out: no log of its own, and the rest must not wait for ever."""
    spec = prepare("bereaved", "max_steps=2000", "checkpoint_every_steps=1000", "sample_every_steps=0", workers)
    with launch(spec) as launcher:
        wait_for_step(spec, launcher, 3)
        os.kill(child_of_rank(launcher.pid, 1), signal.SIGKILL)
        launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert failure(spec)["error"].startswith("rank 0 lost contact with the other processes")


def child_of_rank(pid: int, rank: int) -> int:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise LookupError(rank)


def test_a_finished_run_started_again_finishes_again(prepare, train_here) -> None:
    spec = prepare("again", *SHORT, "max_steps=2")
    assert train_here(spec) == 0
    before = digests(spec, 2)
    assert train_here(spec) == 0
    assert [e.data for e in events(spec, "finished")] == [{"step": 2, "loss": losses(spec)[-1]}] * 2
    assert digests(spec, 2) == before


def test_a_resume_from_a_damaged_checkpoint_takes_the_one_before_and_says_so(prepare, train_here) -> None:
    spec = prepare("damaged", *SHORT, "max_steps=8")
    assert train_here(spec) == 0
    whole = digests(spec, 8)
    victim = Path(spec.paths.checkpoints) / "step_000008" / "optimizer.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    assert train_here(spec) == 0
    (warning,) = events(spec, "warning")
    assert "step_000008 is damaged and was skipped: optimizer.safetensors" in warning.data["message"]
    assert events(spec, "started")[1].data["resumed_from_step"] == 4
    assert digests(spec, 8) == whole


def test_settings_changed_on_resume_are_named(prepare, train_here) -> None:
    spec = prepare("changed", *SHORT, "max_steps=2")
    train_here(spec)
    values = json.loads(Path(spec.paths.config).read_text())
    values["train"].update(max_steps=3, learning_rate=5e-4)
    Path(spec.paths.config).write_text(json.dumps(values))
    assert train_here(spec) == 0
    assert events(spec, "warning")[0].data["message"].endswith("differ from its training: learning_rate, max_steps")
    last = events(spec, "step")[-1].data
    assert (last["step"], last["learning_rate"]) == (3, pytest.approx(5e-4 * 3 / 5))


# what must not happen -----------------------------------------------------------------------------------------------

def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(prepare, train_here, capsys) -> None:
    spec = prepare("exploding", *SHORT, "learning_rate=1e30", "warmup_steps=0", "checkpoint_every_steps=1")
    assert train_here(spec) == 1
    told = failure(spec)
    assert told["error"].startswith("step 2: the loss is not finite; its samples: KITCHEN_SCENE10")
    assert told["error"].count("demo_") == 4
    assert [e.data["step"] for e in events(spec, "checkpoint")] == [1]
    assert "Traceback" not in capsys.readouterr().err


def test_pretrained_weights_with_nan_stop_before_the_first_step(prepare, train_here, assets, tmp_path) -> None:
    spoilt = Path(shutil.copytree(assets["pretrained"], tmp_path / "spoilt"))
    tensors = torch.load(spoilt / "pytorch_model.bin", weights_only=True)
    tensors["model.x_pos_embed"][0, 0, 0] = float("nan")
    torch.save(tensors, spoilt / "pytorch_model.bin")
    spec = prepare("nan", *SHORT, pretrained=str(spoilt))
    assert train_here(spec) == 1
    assert "1 of 114 tensors hold NaN or infinite numbers (model.x_pos_embed: 1 of 1216)" in failure(spec)["error"]
    assert not list(Path(spec.paths.checkpoints).iterdir())


def test_a_full_disk_costs_a_checkpoint_and_without_its_last_one_a_training_has_failed(prepare, train_here) -> None:
    spec = prepare("full", *SHORT)
    with files_no_larger_than(600_000):  # room for the journal, not for 1.1 MB of weights
        assert train_here(spec) == 1
    assert [e.data["step"] for e in events(spec, "checkpoint_failed")] == [4, 8, 12]
    assert "File too large" in events(spec, "checkpoint_failed")[0].data["error"]
    assert failure(spec)["error"].startswith("step 12: the last checkpoint could not be saved: no space on /")
    assert not list(Path(spec.paths.checkpoints).iterdir())
    assert train_here(spec) == 0  # there is room now
    assert events(spec)[-1].kind == "finished"
    assert (Path(spec.paths.checkpoints) / "step_000012").is_dir()


def test_what_a_full_disk_keeps_from_the_journal_is_told_later(tmp_path) -> None:
    journal = Journal("/dev/full")
    telling = Telling(journal)
    telling.append("warning", message="first")
    journal.path = tmp_path / "journal.jsonl"
    telling.append("warning", message="second")
    assert [e.data["message"] for e in journal.read()] == ["first", "second"]


@pytest.mark.parametrize(("settings", "kept"), [
    (("heldout_share=0",), [6, 7]),
    (("heldout_share=0", "checkpoints_keep_every_steps=4"), [4, 6, 7]),
    (("learning_rate=0.05", "warmup_steps=20"), [4, 6, 7])])  # so fast that it only gets worse after step 4
def test_old_checkpoints_go_as_the_settings_say(prepare, train_here, settings, kept) -> None:
    spec = prepare("limited", *SHORT, "max_steps=7", "checkpoint_every_steps=2", "checkpoints_total_limit=2", *settings)
    assert train_here(spec) == 0
    assert [e.data["step"] for e in events(spec, "checkpoint")] == [2, 4, 6, 7]
    assert sorted(int(p.name[5:]) for p in Path(spec.paths.checkpoints).iterdir()) == kept
    assert [e.data["step"] for e in events(spec, "checkpoint_deleted")] == sorted({2, 4, 6, 7} - set(kept))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount; the test before this one needs no root")
def test_a_disk_that_fills_up_keeps_what_it_has_and_the_training_goes_on(uninterrupted, prepare) -> None:
    spec = prepare("filling", *SHORT)
    with small_disk(Path(spec.paths.checkpoints), size_mb=7):  # one checkpoint is 4.5 MB
        finish(spec, code=1)
        assert [e.data["step"] for e in events(spec, "checkpoint")] == [4]
        assert [e.data["step"] for e in events(spec, "checkpoint_failed")] == [8, 12]
        said = events(spec, "checkpoint_failed")[0].data
        assert re.fullmatch(rf"no space on {spec.paths.checkpoints} for \S+/step_000008: 4\.[45] MB are needed, "
                            r"\d\.\d MB are free \(No space left on device\)", said["error"])
        assert said["remedy"].startswith(f"du -xh -d 2 {spec.paths.checkpoints} ")
        assert losses(spec) == losses(uninterrupted)
        assert [p.name for p in Path(spec.paths.checkpoints).iterdir()] == ["step_000004"]
        assert digests(spec, 4) == digests(uninterrupted, 4)


@contextmanager
def small_disk(folder: Path, size_mb: int):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_wrong_number_of_processes_is_an_error_and_not_a_slow_training(prepare, train_here) -> None:
    """accelerate launch --cpu --num_processes 2 starts one."""
    spec = prepare("alone", "num_processes=2")
    assert train_here(spec) == 2
    assert failure(spec)["error"] == "1 processes were started, the run asks for num_processes = 2"


def test_a_bad_dataset_fails_with_its_place_and_no_traceback(prepare, train_here, demonstrations, capsys) -> None:
    demonstrations.write(change=lambda data: data.__delitem__("demo_1/obs/ee_pos"))
    spec = prepare("bad", *SHORT, dataset=str(demonstrations.folder))
    assert train_here(spec) == 1
    assert failure(spec) == {"step": 0, "error": "task_demo.hdf5: demo_1: obs/ee_pos is missing",
                             "remedy": "--set without=task_demo.hdf5:demo_1", "type": "DataError", "rank": 0,
                             "training": False}
    assert capsys.readouterr().err == ("task_demo.hdf5: demo_1: obs/ee_pos is missing\n"
                                       "next: --set without=task_demo.hdf5:demo_1\n")


def test_a_run_without_an_asset_says_which(prepare, train_here) -> None:
    spec = prepare("poor", *SHORT)
    values = json.loads(Path(spec.paths.config).read_text())
    del values["assets"]["pretrained"]
    Path(spec.paths.config).write_text(json.dumps(values))
    assert train_here(spec) == 2
    assert failure(spec)["error"] == "the run's config.json names no folder for pretrained"


def test_weights_of_another_model_are_refused(prepare, train_here) -> None:
    spec = prepare("other", *SHORT, "model=rdt-170m")
    assert train_here(spec) == 1
    assert failure(spec)["error"].startswith("the weights are not those of rdt-170m: rdt is")


def test_a_gpu_that_is_not_there_is_named(prepare, train_here, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    spec = prepare("gpu", *SHORT, "device=cuda")
    assert train_here(spec) == 1
    assert "process 0 of this host has no GPU" in failure(spec)["error"]


def test_a_bug_is_told_and_its_traceback_kept(prepare, train_here, monkeypatch) -> None:
    def slip(*_: object) -> None:
        raise ZeroDivisionError("a slip")

    monkeypatch.setattr(train.Training, "_check_finite", slip)
    spec = prepare("bug", *SHORT)
    with pytest.raises(ZeroDivisionError):
        train_here(spec)
    assert failure(spec)["error"] == "ZeroDivisionError: a slip"


def test_running_out_of_memory_offers_the_same_global_batch(prepare, train_here, monkeypatch) -> None:
    def fill(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(train.Training, "_loss", fill)
    spec = prepare("oom", *SHORT)
    assert train_here(spec) == 1
    told = failure(spec)
    assert told["error"] == "out of GPU memory: CUDA out of memory"
    assert told["remedy"].endswith("--set batch_size_per_process=2 --set gradient_accumulation_steps=2")


def test_a_missing_config_is_one_line(tmp_path, capsys) -> None:
    with signals_as_they_were():
        assert train.main([str(tmp_path / "config.json")]) == 1
    assert "No such file" in capsys.readouterr().err


# what is learnt -----------------------------------------------------------------------------------------------------

@pytest.fixture
def short_losses(prepare, train_here):
    def run(name: str, *settings: str) -> list[float]:
        spec = prepare(name, *SHORT, "max_steps=4", *settings)
        assert train_here(spec) == 0
        return losses(spec)

    return run


def test_accumulating_gradients_learns_the_same(short_losses) -> None:
    at_once = short_losses("once")
    in_parts = short_losses("parts", "batch_size_per_process=1", "gradient_accumulation_steps=4")
    assert in_parts == pytest.approx(at_once, rel=1e-5)


def test_gradient_checkpointing_learns_the_same(short_losses) -> None:
    recomputed = short_losses("recomputed", "gradient_checkpointing=true")
    assert recomputed == pytest.approx(short_losses("plain"), rel=1e-5)


def test_more_noise_draws_learn_from_the_same_samples_something_else(short_losses) -> None:
    one, four = short_losses("one_draw"), short_losses("four_draws", "noise_draws_per_sample=4")
    assert one != four
    assert four == pytest.approx(one, rel=0.3)


def test_another_seed_learns_from_other_samples(short_losses) -> None:
    assert short_losses("seed", "seed=43") != short_losses("plain")


def test_bf16_keeps_weights_moments_and_average_in_fp32(prepare, train_here) -> None:
    spec = prepare("bf16", *SHORT, "max_steps=4", "mixed_precision=bf16")
    assert train_here(spec) == 0
    folder = Path(spec.paths.checkpoints) / "step_000004"
    for name in LEARNT:
        assert {t.dtype for t in load_file(folder / name).values()} == {torch.float32}, name
    reference = prepare("fp32", *SHORT, "max_steps=4")
    train_here(reference)
    assert losses(spec) == pytest.approx(losses(reference), rel=0.02)
    assert losses(spec) != losses(reference)


def test_fp16_skips_a_step_that_overflows_and_resumes_with_its_scale(prepare, train_here) -> None:
    whole = prepare("fp16", *SHORT, "max_steps=6", "mixed_precision=fp16")
    assert train_here(whole) == 0
    saved = json.loads((Path(whole.paths.checkpoints) / "step_000006" / "trainer.json").read_text())
    assert saved["scaler"]["scale"] > 1
    parts = prepare("fp16_parts", *SHORT, "max_steps=6", "mixed_precision=fp16")
    shutil.copytree(Path(whole.paths.checkpoints) / "step_000004", Path(parts.paths.checkpoints) / "step_000004")
    assert train_here(parts) == 0
    assert digests(parts, 6) == digests(whole, 6)


def test_an_overflow_in_fp16_steps_neither_weights_nor_average(prepare, train_here, assets, monkeypatch) -> None:
    monkeypatch.setattr(libraries, "gradient_scaler", lambda device, enabled: torch.amp.GradScaler(
        device.type, enabled=enabled, init_scale=1e30))
    spec = prepare("overflow", *SHORT, "max_steps=1", "mixed_precision=fp16")
    assert train_here(spec) == 0
    folder = Path(spec.paths.checkpoints) / "step_000001"
    assert json.loads((folder / "trainer.json").read_text())["ema_updates"] == 0
    pretrained, kept = RDTPolicy.from_pretrained(assets["pretrained"]), RDTPolicy.from_pretrained(folder)
    assert all(map(torch.equal, pretrained.parameters(), kept.parameters()))
    assert train_here(spec) == 0  # a checkpoint without any moments is resumed all the same


def test_a_gradient_that_is_not_finite_stops_before_anything_is_saved(prepare, train_here, monkeypatch) -> None:
    plain = RDTPolicy.loss

    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(_, loss):
            return loss.clone()

        @staticmethod
        def backward(_, gradient):
            return gradient * float("inf")

    monkeypatch.setattr(RDTPolicy, "loss", lambda self, **given: Spoil.apply(plain(self, **given)))
    spec = prepare("spoilt", *SHORT, "checkpoint_every_steps=1")
    assert train_here(spec) == 1
    assert failure(spec)["error"].startswith("step 1: the loss is finite, the gradient is not")
    assert not events(spec, "checkpoint")


@pytest.mark.parametrize(("change", "says"), [
    (lambda t: t.pop("exp_avg.img_adaptor.0.bias"), "lacks exp_avg.img_adaptor.0.bias"),
    (lambda t: t.update({"exp_avg.extra": torch.zeros(1)}), "not in the model: exp_avg.extra")])
def test_a_resume_needs_every_moment_and_no_other(prepare, train_here, change, says) -> None:
    """Weights alone would train on, from a state that no training has ever had."""
    spec = prepare("momentless", *SHORT, "max_steps=1")
    train_here(spec)
    folder = Path(spec.paths.checkpoints) / "step_000001"
    moments = load_file(folder / "optimizer.safetensors")
    change(moments)
    save_file(moments, folder / "optimizer.safetensors")
    manifest.seal(folder)
    assert train_here(spec) == 1
    assert says in failure(spec)["error"]


def test_gradients_are_averaged_in_groups_of_a_fixed_order() -> None:
    gradients = [torch.zeros(size) for size in (4, 4, 4, 100, 1)]
    assert [[len(g) for g in bucket] for bucket in ranks.buckets(gradients, limit_bytes=40)] == [[4, 4, 4], [100], [1]]


def test_from_scratch_needs_no_weights_and_starts_the_same_each_time(prepare, train_here, assets) -> None:
    without = {role: path for role, path in assets.items() if role != "pretrained"}
    told = []
    for name in ("scratch1", "scratch2"):
        spec = prepare(name, *SHORT, "max_steps=2", "from_scratch=true")
        values = json.loads(Path(spec.paths.config).read_text())
        Path(spec.paths.config).write_text(json.dumps({**values, "assets": without}))
        assert train_here(spec) == 0
        told.append(losses(spec))
    assert told[0] == told[1]


def test_statistics_beside_the_data_are_used_when_they_fit(prepare, train_here, assets, tmp_path) -> None:
    data = Path(shutil.copytree(assets["dataset"], tmp_path / "data"))
    spec = prepare("first", *SHORT, "max_steps=1", dataset=str(data))
    train_here(spec)
    computed = json.loads((Path(spec.paths.root) / "statistics.json").read_text())
    (data / "statistics.json").write_text(json.dumps({**computed, "episodes": 77}))
    used = prepare("second", *SHORT, "max_steps=1", dataset=str(data))
    train_here(used)
    assert json.loads((Path(used.paths.root) / "statistics.json").read_text())["episodes"] == 77
    assert not events(used, "warning")
    (data / "statistics.json").write_text(json.dumps({**computed, "codec_hash": "other"}))
    anew = prepare("third", *SHORT, "max_steps=1", dataset=str(data))
    train_here(anew)
    assert json.loads((Path(anew.paths.root) / "statistics.json").read_text()) == computed
    assert "statistics were recomputed" in events(anew, "warning")[0].data["message"]


def test_the_optimiser_uses_the_settings(prepare, train_here, assets) -> None:
    """After one step Adam's first moment is (1 - beta1) times the clipped gradient, and every weight has moved by the
    learning rate of that step."""
    spec = prepare("one_step", *SHORT, "max_steps=1", "warmup_steps=10", "learning_rate=1e-2", "weight_decay=0",
                   "adam_beta1=0.5", "max_grad_norm=0.001", "adam_epsilon=1e-30")
    assert train_here(spec) == 0
    folder = Path(spec.paths.checkpoints) / "step_000001"
    moments = [t for name, t in load_file(folder / "optimizer.safetensors").items() if name.startswith("exp_avg.")]
    assert torch.cat([m.flatten() for m in moments]).norm().item() == pytest.approx(0.5 * 0.001, rel=1e-3)
    before, after = RDTPolicy.from_pretrained(assets["pretrained"]), RDTPolicy.from_pretrained(folder)
    moved = (after.model.final_layer.ffn_final.fc2.bias - before.model.final_layer.ffn_final.fc2.bias).abs()
    assert moved.max().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("schedule", config.CHOICES["lr_schedule"])
def test_every_schedule_begins_with_a_linear_warm_up(schedule) -> None:
    train_config = override(preset("tiny"), [*SIXTY, f"lr_schedule={schedule}", "warmup_steps=10"])
    rates = [train.learning_rate_at(step, train_config) / train_config.learning_rate for step in range(1, 11)]
    assert rates == pytest.approx([step / 10 for step in range(1, 11)])


@pytest.mark.parametrize(("schedule", "step", "share"), [
    ("constant", 1, 0.1), ("constant", 10, 1.0), ("constant", 60, 1.0),
    ("cosine", 1, 0.1), ("cosine", 10, 1.0), ("cosine", 35, 0.5), ("cosine", 60, 0.0)])
def test_the_learning_rate_is_a_function_of_the_step(schedule, step, share) -> None:
    train_config = override(preset("tiny"), [*SIXTY, f"lr_schedule={schedule}", "warmup_steps=10"])
    assert train.learning_rate_at(step, train_config) == pytest.approx(share * train_config.learning_rate)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert train.learning_rate_at(1, override(preset("tiny"), ["warmup_steps=0"])) == preset("tiny").learning_rate
