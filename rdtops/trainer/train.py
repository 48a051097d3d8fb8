"""Training: `python -m rdtops.trainer.process_group ... -m rdtops.trainer.train RUN_DIR/config.json`.

One process per GPU (or CPU process). It resumes from the newest intact checkpoint of its run folder. Events go to the
run's Journal, a readable line per logged step to standard output, the curves to metrics.jsonl and a tracker.

On SIGTERM, SIGUSR1 (Slurm's `--signal=USR1@300`), SIGINT or SIGHUP, sent to any of these processes, the training
finishes the step, saves and exits. torchrun's launcher forwards all but SIGUSR1, and kills after 30 s: send SIGUSR1 to
the processes themselves.

Exit codes: 0 finished, 1 failed, 2 wrong configuration, 128 + the number of the signal that stopped it.

Shapes: R ranks, M micro-batches of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from rdtops.contract import lease, overrides
from rdtops.contract.journal import Journal
from rdtops.contract.run import Retention, RunSpec
from rdtops.errors import RdtopsError, RunError
from rdtops.hostlib import provenance
from rdtops.trainer import libraries, stacks
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.samples import Batch, Samples, Share, feeding
from rdtops.trainer.distributed import gpu_memory, sharding
from rdtops.trainer.distributed.ranks import AlreadyReported, PeerFailed, Ranks
from rdtops.trainer.loop import checkpoint, disk_space, failures, inputs, trackers
from rdtops.trainer.loop.checkpoint import Contents, TrainingState
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.loop.phase_timer import Phases
from rdtops.trainer.loop.progress import Progress
from rdtops.trainer.loop.reporter import Reporter, configure_logging
from rdtops.trainer.loop.sampling import ActionError
from rdtops.trainer.loop.saving import Saver
from rdtops.trainer.loop.schedule import learning_rate_at
from rdtops.trainer.loop.stop import STOPPED, Stop
from rdtops.trainer.loop.update import WeightUpdate
from rdtops.trainer.loop.validation_loss import ValidationLoss
from rdtops.trainer.model import features, norm_kernels
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.precision import DTYPES, autocast, make_reproducible
from rdtops.trainer.model.rdt import RDTPolicy

MOST_INSTRUCTIONS = 20  # in the Journal's `started`
LEAVE_S = 30.0  # for torch to take the process group down; the training has ended by then

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
    events_before = len(journal.read())
    try:
        return run(spec, journal, stop)
    except Exception as error:
        with failures.within(failures.LAST_WORDS_S, 1):
            return _told(error, spec, journal, events_before)


def _told(error: Exception, spec: RunSpec, journal: Journal, events_before: int) -> int:
    """Report an error in the Journal and on standard error, unless that was done. Return the exit code, or raise an
    error that has no name here."""
    if isinstance(error, AlreadyReported):
        return error.exit_code
    if isinstance(error, PeerFailed):
        told = {event.kind for event in journal.read()[events_before:]}
        if "stop_requested" in told:  # the others ended before the first step
            return STOPPED
        return failures.complain(error) if "failed" in told else failures.tell(journal, error)
    if isinstance(error, RdtopsError):
        return failures.tell(journal, error)
    if isinstance(error, libraries.OutOfMemoryError):
        return failures.tell(journal, failures.out_of_memory(spec.train, error), "OutOfMemoryError")
    if failures.is_host_memory(error):
        return failures.tell(journal, failures.out_of_memory(spec.train, error), "MemoryError")
    if isinstance(error, OSError) and disk_space.is_full(error):
        return failures.tell(journal, disk_space.full(error, Path(error.filename or spec.paths.root)))
    failures.record(journal, f"{type(error).__name__}: {error}", "inv logs   # see the traceback in train.log",
                    type(error).__name__)
    raise error


def run(spec: RunSpec, journal: Journal, stop: Stop) -> int:
    """Join the other processes and train. Return the exit code."""
    try:
        lease.join(spec.run_id)
    except lease.Taken as error:
        raise RunError(f"this process started too late: {error}") from error
    make_reproducible()
    ranks = Ranks.join(spec.train)
    configure_logging(logging.INFO if ranks.is_first else logging.ERROR)
    code = Training(spec, journal, ranks, stop).run()
    with failures.within(LEAVE_S, code):
        ranks.leave()  # not after a failure: leaving waits for the others, which may be waiting for this process
    return code


class Training:
    """One process's part of a training: the constructor sets it up, `run` trains."""

    steps_done: int
    loss_before: float  # of the last step before resuming

    def __init__(self, spec: RunSpec, journal: Journal, ranks: Ranks, stop: Stop) -> None:
        self.spec, self.config, self.ranks, self.stop = spec, spec.train, ranks, stop
        self.reporter = Reporter(journal, ranks.is_first)
        self.codec = codec(self.config.codec)
        self._choose_norms()
        self.gradient_checkpointing = gpu_memory.gradient_checkpointing(self.config, ranks)
        self.inputs = ranks.once(self._find_inputs)
        self.shards = ranks.together(lambda: sharding.of(self.config, ranks))
        ranks.together(self._build)
        self.samples.features = features.prepare(spec, self.inputs.dataset, self.inputs.provenance,
                                                 self.conditions.vision, ranks)
        self.phases = Phases(ranks.device)
        self.saver = Saver(Path(spec.paths.checkpoints), self._retention(), self.reporter.journal)
        if ranks.is_first:
            self.reporter.trackers.open(spec, self.steps_done)
        self.progress = Progress(self.config, ranks.device, self.phases, self.conditions.lang_tokens.shape[1])

    # the training ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Train until the last step, or until a signal asks to stop. Return the exit code."""
        with self.reporter:
            self._report_start()
            self.stop.can_save = True
            loss, signalled = self._learn()
            # all leave together: torchrun ends the ranks that are left when one has left with the code of a signal
            self.ranks.together(self._check_saved)
            if self.steps_done < self.config.max_steps:
                self.reporter.stopped(self.steps_done, signalled)
                return 128 + signalled
            self.reporter.finished(self.steps_done, loss)
            return 0

    def _learn(self) -> tuple[float, int]:
        """Return the loss of the last step, and the signal that asked to stop, or 0."""
        config, first = self.config, self.steps_done + 1
        loss, signalled = self.loss_before, 0
        with (self.reporter.trackers, self.saver, feeding(self.samples, self.ranks.rank, first) as data):
            for step in range(first, config.max_steps + 1):
                loss, signalled = self._step(step, data)
                self.steps_done = step
                if step == first:
                    self._use_state(lambda state: self.saver.reserve(state.tensors()))  # Adam has moments from now on
                if _is_due(step, config.sample_every_steps):
                    self._sample_actions(step)
                saves = bool(signalled) or _is_due(step, config.checkpoint_every_steps) or step == config.max_steps
                validation_loss = None
                if saves or _is_due(step, config.heldout_every_steps):
                    validation_loss = self._validate(step)
                if saves:
                    self._save(step, loss, validation_loss)
                if signalled:
                    break
        return loss, signalled

    def _step(self, step: int, data: Iterator[Batch]) -> tuple[float, int]:
        """Train on one global batch. Return its loss, and the signal that asked any process to stop, or 0."""
        # forward and backward, micro-batch after micro-batch: gradients add up, and are averaged in the last
        micro_batches = self.config.gradient_accumulation_steps
        # the mean over processes and micro-batches of sums divided by this is the mean over the whole batch's actions
        valid_steps = self.samples.valid_steps(step) / (self.ranks.world * micro_batches)
        losses = []
        for micro_batch in range(micro_batches):
            with self.phases("data"):
                batch = next(data).to(self.ranks.device)
            with self.ranks.collective():
                loss = self._loss(batch, valid_steps)
                with self.phases("backward"):
                    self.update.backward(loss, micro_batch)
            losses.append(loss.detach())

        # the update: average the gradients over the processes, clip, Adam, EMA
        learning_rate = learning_rate_at(step, self.config)
        with self.phases("optimiser"):
            norm = self.update.step(learning_rate)

        # gather from every process its losses, and whether it was asked to stop; only now wait for the device
        told = self.ranks.gather(torch.stack([*losses, torch.full_like(losses[0], self.stop.signal)])).double()
        losses_RM, signals_R = told[:, :-1], told[:, -1]
        read = torch.cat([torch.stack([norm.double(), signals_R.max()]), losses_RM.flatten()])
        with self.ranks.collective():  # an error of NCCL is raised where a result is read
            grad_norm, signalled, *each = read.tolist()
        self._check_finite(step, each, grad_norm)
        loss_mean = sum(each) / len(each)  # not on a GPU: it multiplies by 1 / 3, and a replay would differ
        self.reporter.step(self.progress.step(step, loss_mean, learning_rate, grad_norm))
        return loss_mean, int(signalled)

    def _loss(self, batch: Batch, valid_steps: float) -> torch.Tensor:
        with self._autocast():
            with self.phases("encode"):
                conditions = self.conditions.of(batch.observation)
                self.progress.encoded(len(batch.observation.encoded_E))
            with self.phases("forward"):
                return self.policy.loss(**conditions, **batch.target.arguments(), valid_steps=valid_steps,
                                        slot_weights=self.samples.slot_weights)

    def _check_finite(self, step: int, losses: list[float], grad_norm: float) -> None:
        """Stop when a loss, of rank after rank, or the gradient is not finite: before any save, for the weights are not
        either. Name the samples of the loss."""
        bad = [divmod(place, self.config.gradient_accumulation_steps)
               for place, loss in enumerate(losses) if not math.isfinite(loss)]
        if bad:
            numbers = [n for rank, micro in bad for n in Share(self.config, rank, step).numbers(micro)]
            names = [self.samples.name(step, n) for n in numbers]
            raise self._common_failure(f"step {step}: the loss is not finite; its samples: {'; '.join(names)}")
        if not math.isfinite(grad_norm) and not self.update.scaler.is_enabled():  # in fp16 the scaler skips such a step
            raise self._common_failure(f"step {step}: the loss is finite, the gradient is not ({grad_norm})")

    def _common_failure(self, message: str) -> RdtopsError:
        """Return the error of a failure that all processes detect at the same point: rank 0 reports it."""
        if not self.ranks.is_first:
            return AlreadyReported(message)
        return RunError(message, remedy="inv train --resume RUN --set learning_rate=...   # a lower one")

    # evaluation of the EMA weights ------------------------------------------------------------------------------------

    def _validate(self, step: int) -> float | None:
        """Return the validation loss of the EMA weights in every process, None where nothing is held out."""
        if not self.validation_loss:
            return None
        loss = self._evaluate(self.validation_loss)
        if not math.isfinite(loss):
            self.reporter.warning(f"step {step}: the validation loss is not finite; this step cannot be the best")
            return None
        self.reporter.validation_loss(step, loss)
        return loss

    def _sample_actions(self, step: int) -> None:
        self.reporter.action_error(step, self._evaluate(self.action_error))

    def _evaluate(self, evaluation: sharding.PiecewiseEvaluation) -> float:
        with self.phases("evaluation"), self._autocast():
            return self.shards.evaluate(self.update.ema.policy, evaluation)

    def _autocast(self) -> contextlib.AbstractContextManager:
        return autocast(self.config.mixed_precision, self.ranks.device)

    # checkpoints ----------------------------------------------------------------------------------------------------

    def _save(self, step: int, loss: float, validation_loss: float | None) -> None:
        with self.phases("save"):
            self.ranks.once(self.saver.wait)  # for its disk, longer than NCCL would wait for it to receive
            self._use_state(lambda state: self.saver.save(step, self._contents(state, step, loss, validation_loss)))

    def _use_state(self, use: Callable[[TrainingState], None]) -> None:
        """Call `use` with the state in rank 0, while the others send their part of each tensor."""
        state = TrainingState(self.policy, self.update.ema, self.update.optimizer, self.update.scaler, self.shards)
        if self.ranks.is_first:
            use(state)
        else:
            state.give()

    def _contents(self, state: TrainingState, step: int, loss: float, validation_loss: float | None) -> Contents:
        trainer = {"step": step, "loss": loss, "heldout_loss": validation_loss, "config": asdict(self.config),
                   "seen": checkpoint.seen_by_training(self.inputs.dataset.image_size), **state.numbers()}
        return Contents(state.tensors(), {
            checkpoint.CONFIG: self.policy.config, checkpoint.EMA_CONFIG: self.policy.config,
            checkpoint.TRAINER: trainer, checkpoint.STATISTICS: self.inputs.statistics,
            checkpoint.CODEC: self.codec.to_json(), provenance.NAME: self.inputs.provenance.to_json()})

    def _check_saved(self) -> None:
        """Raise an error if the last save failed: otherwise the steps since the checkpoint before would be lost
        unnoticed."""
        if self.ranks.is_first and (failure := self.saver.failure):
            raise type(failure)(f"step {self.steps_done}: the last checkpoint could not be saved: {failure.message}",
                                remedy=f"{failure.remedy}; inv train --resume {self.spec.run_id}")

    def _retention(self) -> Retention:
        config = self.config
        return Retention(config.checkpoints_total_limit, config.checkpoints_keep_every_steps,
                         config.checkpoints_keep_best)

    # set-up ---------------------------------------------------------------------------------------------------------

    def _find_inputs(self) -> inputs.Inputs:
        disk_space.keep_reserve(Path(self.spec.paths.root))
        trackers.check(self.config)
        sharding.check_launcher(self.config, os.environ)
        return inputs.find(self.spec, self.ranks.device, self.reporter.warning)

    def _choose_norms(self) -> None:
        """Use the norm's kernels where every rank can compile them. The log says before the first step why not."""
        usable = torch.tensor([float(norm_kernels.are_usable(self.ranks.device))], device=self.ranks.device)
        if not self.ranks.gather(usable).all():
            norm_kernels.forgo(self.ranks.device)

    def _build(self) -> None:
        device = self.ranks.device
        self.policy, ema = self._place(inputs.policy(
            self.spec, self.inputs.resume, gradient_checkpointing=self.gradient_checkpointing))
        self.update = WeightUpdate(self.config, self.policy, ema, self.shards, device)
        self.conditions = Conditions(self.inputs.instructions, inputs.asset(self.spec, "vision_encoder"),
                                     self.codec.control_hz, device, DTYPES[self.config.mixed_precision])
        self.conditions.check(self.policy.config)
        self.samples = Samples(self.inputs.dataset, self.codec, self.inputs.statistics, self.conditions.texts,
                               self.policy.config["pred_horizon"],
                               self.policy.config["noise_scheduler"]["num_train_timesteps"], self.config)
        self.validation_loss = ValidationLoss(self.samples, self.conditions, device)
        self.action_error = ActionError(self.samples, self.conditions, device)
        self.steps_done, self.loss_before = self._resume()

    def _place(self, policy: RDTPolicy) -> tuple[RDTPolicy, Ema]:
        """Return the policy and its EMA, each whole in host memory until now, on their devices."""
        ema = Ema(policy)
        if self.inputs.resume:
            checkpoint.restore_ema(Path(self.inputs.resume.path), ema)
        self.shards.keep_part(ema.policy)
        ema.policy = self.shards.place(ema.policy)
        return self.shards.place(policy), ema

    def _resume(self) -> tuple[int, float]:
        """Restore the state beside the weights and their EMA. Return the steps done and the loss of the last one."""
        if self.inputs.resume is None:
            return 0, 0.0
        folder = Path(self.inputs.resume.path)
        self.codec.check_golden(checkpoint.read_codec(folder))
        checkpoint.restore_optimizer(folder, self.policy, self.update.optimizer, self.shards)
        saved = checkpoint.read_trainer(folder)
        if saved["scaler"] and self.update.scaler.is_enabled():
            self.update.scaler.load_state_dict(saved["scaler"])
        changed = sorted(key for key, value in saved["config"].items()
                         if key != "accept_changed" and getattr(self.config, key, None) != value)
        if changed:
            self.reporter.warning(f"resumed from {folder.name} with settings that differ from its training: "
                                  f"{', '.join(changed)}")
        return int(saved["step"]), float(saved["loss"])

    def _report_start(self) -> None:
        device = self.ranks.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        parameters = sum(p.numel() for p in self.policy.parameters())
        instructions = [text[:200] for text in self.inputs.dataset.instructions[:MOST_INSTRUCTIONS]]
        self.reporter.started(world_size=self.ranks.world, max_steps=self.config.max_steps, device=name,
                              parameters=parameters, resumed_from_step=self.steps_done,
                              heldout_samples=len(self.samples.split.heldout), instructions=instructions,
                              gradient_checkpointing=self.gradient_checkpointing)
        self.reporter.line(
            "%s on %d x %s: %s parameters, %d samples of %d episodes (%s), global batch %d, from step %d to %d",
            self.config.model, self.ranks.world, name, f"{parameters:,}", len(self.inputs.dataset),
            len(self.inputs.dataset.episodes), self.samples.split, self.config.global_batch_size,
            self.steps_done, self.config.max_steps)
        for line in self.inputs.dataset.read_as:
            self.reporter.line("%s", line)


def _is_due(step: int, every: int) -> bool:
    """Tell whether a step is due. `every`: 0 for never."""
    return every > 0 and step % every == 0


if __name__ == "__main__":
    stacks.write_on_request()
    failures.leave(main)
