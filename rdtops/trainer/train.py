"""The training: `accelerate launch ... -m rdtops.trainer.train RUN_DIR/config.json`.

One process per GPU (or CPU process). Resumes by itself from the newest intact checkpoint of its run folder. What
happens is told in the run's Journal; a readable line per logged step goes to standard output, the curves to
metrics.jsonl and a tracker.

SIGTERM and SIGUSR1 (Slurm's `--signal=USR1@300`), sent to any of these processes, let the step end, save and leave.
torchrun's launcher passes SIGTERM on, kills after 30 s, and passes no SIGUSR1: send that to the processes themselves.

Exit codes: 0 finished, 1 failed, 2 wrong configuration, 143 or 138 stopped by SIGTERM or SIGUSR1.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rdtops.contract import lease, overrides
from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Journal
from rdtops.contract.run import Retention, RunSpec
from rdtops.errors import RdtopsError, RunError
from rdtops.trainer.data import features
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.samples import Samples, Share, batches
from rdtops.trainer.distributed import sharding
from rdtops.trainer.distributed.ranks import PeerLost, Ranks, ToldByAnother
from rdtops.trainer.loop import checkpoint, disk_space, failures, inputs, trackers
from rdtops.trainer.loop.checkpoint import Contents, TrainingState
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.loop.phase_timer import Phases
from rdtops.trainer.loop.progress import Progress, Telling
from rdtops.trainer.loop.sampling import ActionError
from rdtops.trainer.loop.saving import Saver
from rdtops.trainer.loop.schedule import learning_rate_at
from rdtops.trainer.loop.stop import STOPPED, Stop
from rdtops.trainer.loop.trackers import Trackers
from rdtops.trainer.loop.validation_loss import HeldOut
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy
from rdtops.trainer.simulation import trained

log = logging.getLogger("rdtops.trainer")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.train", description="One process of a training.")
    parser.add_argument("config", help="config.json of a run folder")
    options = parser.parse_args(arguments)
    stop = Stop()
    try:
        spec = RunSpec.load(options.config)
        spec = replace(spec, train=overrides.used(spec))
    except (RdtopsError, OSError) as error:
        return failures.complain(error)
    journal = Journal(Path(spec.paths.journal))
    told_before = len(journal.read())
    try:
        return run(spec, journal, stop)
    except ToldByAnother as error:
        return error.exit_code
    except PeerLost as error:
        told = {event.kind for event in journal.read()[told_before:]}
        if "stop_requested" in told:  # the others ended before there was anything to save
            return STOPPED
        return failures.complain(error) if "failed" in told else failures.tell(journal, error)
    except RdtopsError as error:
        return failures.tell(journal, error)
    except torch.OutOfMemoryError as error:
        return failures.tell(journal, failures.out_of_memory(spec.train, error), "OutOfMemoryError")
    except Exception as error:
        if failures.is_host_memory(error):
            return failures.tell(journal, failures.out_of_memory(spec.train, error), "MemoryError")
        if isinstance(error, OSError) and disk_space.is_full(error):
            return failures.tell(journal, disk_space.full(error, Path(error.filename or spec.paths.root)))
        failures.record(journal, f"{type(error).__name__}: {error}", "inv logs   # the traceback is in train.log",
                        type(error).__name__)
        raise


def run(spec: RunSpec, journal: Journal, stop: Stop) -> int:
    """Train to the end, or until asked to stop. Returns the exit code."""
    try:
        lease.join(spec.run_id)
    except lease.Taken as error:
        raise RunError(f"this process is late: {error}") from error
    ranks = Ranks.join(spec.train)
    _speak(ranks)
    code = Training(spec, journal, ranks, stop).run()
    ranks.leave()  # only here: after a failure the others may be waiting for us, and leaving would wait for them
    return code


class Training:
    """One process's part of a training, set up and ready to run."""

    def __init__(self, spec: RunSpec, journal: Journal, ranks: Ranks, stop: Stop) -> None:
        self.spec, self.config, self.ranks, self.stop = spec, spec.train, ranks, stop
        self.journal = Telling(journal)
        self.codec = codec(self.config.codec)
        self.checkpoints = Path(spec.paths.checkpoints)
        make_reproducible(ranks.device)
        self.inputs = ranks.once(self._inputs)
        self.shards = sharding.of(self.config, ranks)
        ranks.together(self._build)
        self.conditions.features = features.prepare(spec, self.inputs.dataset, self.conditions.vision, ranks)
        self.phases = Phases(ranks.device)
        self.saver = Saver(self.checkpoints, _retention(self.config), self.journal)
        self.trackers = Trackers(self._warn)
        if ranks.is_first:
            self.trackers.open(spec, self.steps_done)
        self.progress = Progress(self.config, ranks.device, self.phases)

    def _inputs(self) -> inputs.Inputs:
        disk_space.keep_reserve(Path(self.spec.paths.root))
        trackers.check(self.config)
        sharding.check_launcher(self.config, os.environ)
        return inputs.find(self.spec, self.ranks.device, self._warn)

    def _build(self) -> None:
        device = self.ranks.device
        self._place(inputs.policy(self.spec, self.inputs.resume))
        self.conditions = Conditions(self.inputs.instructions, inputs.asset(self.spec, "vision_encoder"),
                                     self.codec.control_hz, device, DTYPES[self.config.mixed_precision])
        self.conditions.check(self.policy.config)
        self.samples = Samples(self.inputs.dataset, self.codec, self.inputs.statistics, self.conditions.texts,
                               self.policy.config["pred_horizon"],
                               self.policy.config["noise_scheduler"]["num_train_timesteps"], self.config)
        self.heldout = HeldOut(self.samples, self.conditions, device)
        self.action_error = ActionError(self.samples, self.conditions, device)
        self.optimizer = torch.optim.AdamW(
            self.shards.updated(self.policy), lr=self.config.learning_rate, weight_decay=self.config.weight_decay,
            betas=(self.config.adam_beta1, self.config.adam_beta2), eps=self.config.adam_epsilon, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.mixed_precision == "fp16")
        self.steps_done, self.loss_before = self._resume()
        self._reserved = False

    def _place(self, policy: RDTPolicy) -> None:
        """The policy and its running average, each whole in host memory until now."""
        ema = Ema(policy) if self.shards.has_average else None
        if ema and self.inputs.resume:
            checkpoint.restore_ema(Path(self.inputs.resume.path), ema)
        self.policy, self.ema = self.shards.place(policy), ema
        if ema:
            ema.policy = self.shards.place(ema.policy)

    def run(self) -> int:
        try:
            return self._run()
        finally:
            if self.ranks.is_first:
                self.journal.close()

    def _run(self) -> int:
        self._announce()
        self.stop.can_save = True
        loss, asked = self.loss_before, 0
        with (self.trackers, self.saver,
              contextlib.closing(batches(self.samples, self.ranks.rank, self.steps_done + 1)) as data):
            for step in range(self.steps_done + 1, self.config.max_steps + 1):
                loss, asked = self._step(step, data)
                self._after(step, loss, asked)
                if asked:
                    break
        self._check_saved()
        return self._stopped(asked) if self.steps_done < self.config.max_steps else self._finish(loss)

    def _resume(self) -> tuple[int, float]:
        """Restore what is not in the weights and their average. Returns the steps done and the loss of the last one."""
        if self.inputs.resume is None:
            return 0, 0.0
        folder = Path(self.inputs.resume.path)
        self.codec.check_golden(checkpoint.read_codec(folder))
        checkpoint.restore_optimizer(folder, self.policy, self.optimizer, self.shards)
        saved = checkpoint.read_trainer(folder)
        if saved["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(saved["scaler"])
        changed = sorted(key for key, value in saved["config"].items() if getattr(self.config, key, None) != value)
        if changed:
            self._warn(f"resumed from {folder.name} with other settings than it was trained with: {', '.join(changed)}")
        return int(saved["step"]), float(saved["loss"])

    # one step -----------------------------------------------------------------------------------------------------

    def _step(self, step: int, data) -> tuple[float, int]:
        """Learn from one global batch. Returns its loss, and the signal that asked any process to stop, or 0."""
        micro_batches = self.config.gradient_accumulation_steps
        # the mean over processes and micro-batches of sums divided by this is the mean over the whole batch's actions
        valid_steps = self.samples.valid_steps(step) / (self.ranks.world * micro_batches)
        losses = []
        for _ in range(micro_batches):
            with self.phases("data"):
                batch = next(data).to(self.ranks.device)
            with self.ranks.contact():
                loss = self._loss(batch, valid_steps)
                with self.phases("backward"):
                    self.scaler.scale(loss / micro_batches).backward()
            losses.append(loss.detach())
        told = self.ranks.gather(torch.stack([*losses, torch.tensor(float(self.stop.signal)).to(losses[0])]))
        losses_RM, asked = told[:, :-1], int(told[:, -1].max())
        self._check_losses(step, losses_RM)
        learning_rate = learning_rate_at(step, self.config)
        with self.phases("optimiser"):
            grad_norm = self._update(step, learning_rate)
        loss_mean = float(losses_RM.double().mean())
        self._tell(step, self.progress.step(step, loss_mean, learning_rate, grad_norm))
        return loss_mean, asked

    def _loss(self, batch, valid_steps: float) -> torch.Tensor:
        with self._autocast():
            with self.phases("encode"):
                conditions = self.conditions.of(batch.observation)
            with self.phases("forward"):
                return self.policy.loss(**conditions, **batch.target.arguments(), valid_steps=valid_steps,
                                        slot_weights=self.samples.slot_weights)

    def _update(self, step: int, learning_rate: float) -> float:
        """Average, clip, apply. Returns the gradient's norm before clipping."""
        self.shards.average_gradients(self.policy)
        self.scaler.unscale_(self.optimizer)
        norm = self.shards.clip_gradients(self.policy, self.config.max_grad_norm)
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # in fp16 the scaler skips such a step
            raise self._common_failure(f"step {step}: the loss is finite, the gradient is not ({norm})")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.policy.zero_grad()
        self.shards.after_update()
        if self.ema and self.scaler.get_scale() >= scale:  # a lower scale says that the step was skipped
            self.ema.step(self.policy)
        return norm

    def _check_losses(self, step: int, losses_RM: torch.Tensor) -> None:
        """Stop before the update when a loss is not finite, and name the samples it came from."""
        bad = (~losses_RM.isfinite()).nonzero().tolist()
        if not bad:
            return
        numbers = [n for rank, micro in bad for n in Share(self.config, rank, step).numbers(micro)]
        names = [self.samples.name(step, n) for n in numbers]
        raise self._common_failure(f"step {step}: the loss is not finite; its samples: {'; '.join(names)}")

    def _common_failure(self, message: str) -> RdtopsError:
        """All processes know of it at the same point; rank 0 tells."""
        if not self.ranks.is_first:
            return ToldByAnother(message)
        return RunError(message, remedy="inv train --resume RUN --set learning_rate=...   # a lower one")

    def _autocast(self):
        return autocast(self.config, self.ranks.device)

    # after a step ---------------------------------------------------------------------------------------------------

    def _after(self, step: int, loss: float, asked: int) -> None:
        config, self.steps_done = self.config, step
        if not self._reserved:
            self._take_state(lambda state: self.saver.reserve(state.tensors()))  # Adam has moments from the first on
            self._reserved = True
        if config.sample_every_steps and step % config.sample_every_steps == 0:
            self._predict(step)
        saves = bool(asked) or step % config.checkpoint_every_steps == 0 or step == config.max_steps
        heldout_loss = None
        if saves or (config.heldout_every_steps and step % config.heldout_every_steps == 0):
            heldout_loss = self._evaluate(step)
        if saves:
            with self.phases("save"):
                self._take_state(lambda state: self.saver.save(step, self._contents(state, step, loss, heldout_loss)))

    def _evaluate(self, step: int) -> float | None:
        """The held-out loss of the averaged weights. All know it, or its failure."""
        if not self.heldout:
            return None
        loss = self._of_average(self.heldout.read, self.heldout.loss)
        if not math.isfinite(loss):
            self._warn(f"step {step}: the held-out loss is not finite; this step cannot become the best")
            return None
        if self.ranks.is_first:
            self.journal.append("heldout", step=step, loss=loss)
            self.trackers.log(step, {"heldout_loss": loss})
            log.info("step %d  held-out loss %.6f", step, loss)
        return loss

    def _predict(self, step: int) -> None:
        error = self._of_average(self.action_error.read, self.action_error.of)
        if self.ranks.is_first:
            self.journal.append("sample", step=step, action_mse=error)
            self.trackers.log(step, {"action_mse": error})
            log.info("step %d  predicted against recorded actions: mean squared error %.6f", step, error)

    def _of_average(self, read: Callable[[], None], measure: Callable[[RDTPolicy], float]) -> float:
        def work() -> float:
            assert self.ema
            with self._autocast():
                return measure(self.ema.policy)

        with self.phases("evaluation"):
            return self.shards.evaluate(read, work)

    def _take_state(self, use: Callable[[TrainingState], None]) -> None:
        """Rank 0 uses it, and the others give it what they have of each tensor."""
        state = TrainingState(self.policy, self.ema, self.optimizer, self.scaler, self.shards)
        if self.ranks.is_first:
            use(state)
        else:
            state.give()

    def _contents(self, state: TrainingState, step: int, loss: float, heldout_loss: float | None) -> Contents:
        trainer = {"step": step, "loss": loss, "heldout_loss": heldout_loss, "config": asdict(self.config),
                   "seen": trained.seen_by_training(self.inputs.dataset.image_size), **state.numbers()}
        return Contents(state.tensors(), {
            checkpoint.CONFIG: self.policy.config, checkpoint.EMA_CONFIG: self.policy.config,
            checkpoint.TRAINER: trainer, checkpoint.STATISTICS: self.inputs.statistics,
            checkpoint.CODEC: self.codec.to_json()})

    def _check_saved(self) -> None:
        """What was learnt since the checkpoint before is lost otherwise, and nobody would know."""
        if self.ranks.is_first and (failure := self.saver.failure):
            raise type(failure)(f"step {self.steps_done}: the last checkpoint could not be saved: {failure.message}",
                                remedy=f"{failure.remedy}; inv train --resume {self.spec.run_id}")

    # what is seen from outside --------------------------------------------------------------------------------------

    def _announce(self) -> None:
        if not self.ranks.is_first:
            return
        device = self.ranks.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        parameters = sum(p.numel() for p in self.policy.parameters())
        self.journal.append("started", world_size=self.ranks.world, max_steps=self.config.max_steps, device=name,
                            parameters=parameters, resumed_from_step=self.steps_done,
                            heldout_samples=len(self.samples.split.heldout))
        log.info("%s on %d x %s: %s parameters, %d samples of %d episodes (%s), global batch %d, from step %d to %d",
                 self.config.model, self.ranks.world, name, f"{parameters:,}", len(self.inputs.dataset),
                 len(self.inputs.dataset.episodes), self.samples.split, self.config.global_batch_size,
                 self.steps_done, self.config.max_steps)
        for line in self.inputs.dataset.read_as:
            log.info("%s", line)

    def _tell(self, step: int, told: dict[str, Any] | None) -> None:
        if told and self.ranks.is_first:
            self.journal.append("step", **told)
            self.trackers.log(step, {name: value for name, value in told.items() if name != "step"})

    def _stopped(self, asked: int) -> int:
        if self.ranks.is_first:
            name = signal.Signals(asked).name
            self.journal.append("stopped", step=self.steps_done, signal=name)
            log.info("stopped by %s after step %d", name, self.steps_done)
        return 128 + asked

    def _finish(self, loss: float) -> int:
        if self.ranks.is_first:
            self.journal.append("finished", step=self.steps_done, loss=loss)
            log.info("finished after step %d", self.steps_done)
        return 0

    def _warn(self, message: str) -> None:
        if self.ranks.is_first:
            self.journal.append("warning", message=message)
            log.warning("%s", message)


def _retention(config: TrainConfig) -> Retention:
    return Retention(config.checkpoints_total_limit, config.checkpoints_keep_every_steps, config.checkpoints_keep_best)


def autocast(config: TrainConfig, device: torch.device):
    return autocast_to(config.mixed_precision, device)


def autocast_to(precision: str, device: torch.device):
    """`precision`: one of DTYPES."""
    if precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def make_reproducible(device: torch.device) -> None:
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def _speak(ranks: Ranks) -> None:
    """Rank 0 writes to standard output, which the launcher sends to train.log; the others only when they must."""
    root = logging.getLogger("rdtops")
    root.setLevel(logging.INFO if ranks.is_first else logging.ERROR)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    root.handlers = [handler]
    root.propagate = False


if __name__ == "__main__":
    faulthandler.enable()  # a crash in a library leaves its stack in train.log
    faulthandler.register(signal.SIGUSR2, all_threads=True)  # so does the supervisor's question when nothing goes on
    failures.end(main())
