"""The training: `accelerate launch ... -m rdtops.trainer.train RUN_DIR/config.json`.

One process per GPU (or CPU process). Resumes by itself from the newest intact checkpoint of its run folder. What
happens is told in the run's Journal; a readable line per logged step goes to standard output.

Exit codes: 0 finished, 1 failed, 2 wrong configuration, 143 stopped by SIGTERM after saving a checkpoint.
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
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rdtops.contract.config import TrainConfig
from rdtops.contract.journal import Journal
from rdtops.contract.run import Checkpoint, RunSpec
from rdtops.errors import ConfigError, RdtopsError, RunError, WeightsError
from rdtops.trainer import checkpoint, encoders, features, libero, statistics
from rdtops.trainer.actions import codec
from rdtops.trainer.batch import Samples, Share, batches, collate
from rdtops.trainer.conditions import Conditions
from rdtops.trainer.ema import Ema
from rdtops.trainer.progress import Progress, Telling
from rdtops.trainer.ranks import PeerLost, Ranks, ToldByAnother
from rdtops.trainer.rdt import ARCHITECTURES, RDTPolicy

log = logging.getLogger("rdtops.trainer")
STOPPED = 143  # 128 + SIGTERM, as a shell would say it
SAMPLES_PREDICTED = 8  # spread evenly over the dataset
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.train", description="One process of a training.")
    parser.add_argument("config", help="config.json of a run folder")
    options = parser.parse_args(arguments)
    stop = Stop()
    try:
        spec = RunSpec.load(options.config)
    except (RdtopsError, OSError) as error:
        return _complain(error)
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
        return _complain(error) if "failed" in told else _fail(journal, error)
    except RdtopsError as error:
        return _fail(journal, error)
    except torch.OutOfMemoryError as error:
        return _fail(journal, _out_of_memory(spec.train, error))
    except Exception as error:
        _tell(journal, f"{type(error).__name__}: {error}", "inv logs   # the traceback is in train.log")
        raise


def run(spec: RunSpec, journal: Journal, stop: Stop) -> int:
    """Train to the end, or until asked to stop. Returns the exit code."""
    ranks = Ranks.join(spec.train)
    _speak(ranks)
    code = Training(spec, journal, ranks, stop).run()
    ranks.leave()  # only here: after a failure the others may be waiting for us, and leaving would wait for them
    return code


class Stop:
    """SIGTERM asks for a stop. Before the first step there is nothing to save, so it ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self.can_save = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.requested = True
        if not self.can_save:
            raise SystemExit(STOPPED)


@dataclass(frozen=True)
class Inputs:
    """What rank 0 finds out for all."""

    dataset: libero.Dataset
    statistics: dict[str, Any]
    instructions: dict[str, torch.Tensor]
    resume: Checkpoint | None


class Training:
    """One process's part of a training, set up and ready to run."""

    def __init__(self, spec: RunSpec, journal: Journal, ranks: Ranks, stop: Stop) -> None:
        self.spec, self.config, self.ranks, self.stop = spec, spec.train, ranks, stop
        self.journal = Telling(journal)
        self.codec = codec(self.config.codec)
        self.checkpoints = Path(spec.paths.checkpoints)
        _make_reproducible(ranks.device)
        self.inputs = ranks.once(self._inputs)
        ranks.together(self._build)
        self.conditions.features = features.prepare(spec, self.inputs.dataset, self.conditions.vision, ranks)
        self.progress = Progress(self.config, self.journal)

    def _build(self) -> None:
        device = self.ranks.device
        self.policy = self._policy().to(device)
        self.conditions = Conditions(self.inputs.instructions, self._asset("vision_encoder"),
                                     self.codec.control_hz, device, DTYPES[self.config.mixed_precision])
        self.conditions.check(self.policy.config)
        self.samples = Samples(self.inputs.dataset, self.codec, self.inputs.statistics, self.conditions.texts,
                               self.policy.config["pred_horizon"],
                               self.policy.config["noise_scheduler"]["num_train_timesteps"], self.config)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay,
            betas=(self.config.adam_beta1, self.config.adam_beta2), eps=self.config.adam_epsilon, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.mixed_precision == "fp16")
        self.ema = Ema(self.policy) if self.ranks.is_first else None  # the others would only hold a copy of it
        self.steps_done, self.loss_before = self._resume()

    def run(self) -> int:
        self._announce()
        data = batches(self.samples, self.ranks.rank, self.steps_done + 1)
        self.stop.can_save = True
        loss = self.loss_before
        for step in range(self.steps_done + 1, self.config.max_steps + 1):
            loss, stop_asked = self._step(step, data)
            self.steps_done = step
            if self.config.sample_every_steps and step % self.config.sample_every_steps == 0:
                self._sample(step)
            if stop_asked or step % self.config.checkpoint_every_steps == 0 or step == self.config.max_steps:
                self._save(step, loss)
            if stop_asked and step < self.config.max_steps:
                return self._stopped(step)
        return self._finish(loss)

    # set-up -----------------------------------------------------------------------------------------------------

    def _inputs(self) -> Inputs:
        dataset = libero.index(self._asset("dataset"))
        cache = Path(self.spec.workspace) / "cache" / "instructions"
        instructions = encoders.encode_instructions(
            self._asset("text_encoder"), dataset.instructions, cache, self.ranks.device)
        checkpoint.sweep(self.checkpoints)
        return Inputs(dataset, self._statistics(dataset), instructions,
                      checkpoint.newest_intact(self.checkpoints, self._warn))

    def _asset(self, role: str) -> str:
        if role not in self.spec.assets:
            raise ConfigError(f"the run's config.json names no folder for {role}", remedy="inv deploy; inv train")
        return self.spec.assets[role]

    def _statistics(self, dataset: libero.Dataset) -> dict[str, Any]:
        """Those deployed beside the data when they fit; else computed, which takes a second."""
        deployed = Path(self._asset("dataset")) / statistics.NAME
        fitting = statistics.load_fitting(deployed, dataset, self.codec)
        if fitting is None and deployed.exists():
            self._warn(f"{deployed} belongs to other data or another codec; statistics were computed anew")
        found = fitting or statistics.compute(dataset, self.codec)
        statistics.write(Path(self.spec.paths.root) / statistics.NAME, found)
        return found

    def _policy(self) -> RDTPolicy:
        """From the checkpoint, the pretrained weights or, from scratch, the seed: the same in every process."""
        if self.inputs.resume:
            policy = RDTPolicy.from_pretrained(self.inputs.resume.path)
        elif self.config.from_scratch:
            torch.manual_seed(self.config.seed)
            policy = RDTPolicy(ARCHITECTURES[self.config.model])
        else:
            policy = RDTPolicy.from_pretrained(self._asset("pretrained"))
        _check_architecture(policy.config, self.config.model)
        policy.model.gradient_checkpointing = self.config.gradient_checkpointing
        return policy.train()

    def _resume(self) -> tuple[int, float]:
        """Restore what is not in the policy's weights. Returns the steps done and the loss of the last one."""
        if self.inputs.resume is None:
            return 0, 0.0
        folder = Path(self.inputs.resume.path)
        self.codec.check_golden(checkpoint.read_codec(folder))
        checkpoint.restore_optimizer(folder, self.policy, self.optimizer)
        if self.ema:
            checkpoint.restore_ema(folder, self.ema, self.ranks.device)
        saved = checkpoint.read_trainer(folder)
        if saved["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(saved["scaler"])
        changed = sorted(key for key, value in asdict(self.config).items() if saved["config"].get(key) != value)
        if changed:
            self._warn(f"resumed from {folder.name} with other settings than it was trained with: {', '.join(changed)}")
        return int(saved["step"]), float(saved["loss"])

    # one step -----------------------------------------------------------------------------------------------------

    def _step(self, step: int, data) -> tuple[float, bool]:
        """Learn from one global batch. Returns its loss, and whether any process was asked to stop."""
        micro_batches = self.config.gradient_accumulation_steps
        # the mean over processes and micro-batches of sums divided by this is the mean over the whole batch's actions
        valid_steps = self.samples.valid_steps(step) / (self.ranks.world * micro_batches)
        losses = []
        for _ in range(micro_batches):
            with self.progress.waiting_for_data():
                batch = next(data).to(self.ranks.device)
            loss = self._loss(batch, valid_steps)
            self.scaler.scale(loss / micro_batches).backward()
            losses.append(loss.detach())
        told = self.ranks.gather(torch.stack([*losses, torch.tensor(float(self.stop.requested)).to(losses[0])]))
        losses_RM, stop_asked = told[:, :-1], bool(told[:, -1].any())
        self._check_losses(step, losses_RM)
        learning_rate = learning_rate_at(step, self.config)
        grad_norm = self._update(step, learning_rate)
        loss_mean = float(losses_RM.double().mean())
        if self.ranks.is_first:
            self.progress.step(step, loss_mean, learning_rate, grad_norm)
        return loss_mean, stop_asked

    def _loss(self, batch, valid_steps: float) -> torch.Tensor:
        with self._autocast():
            return self.policy.loss(
                **self.conditions.of(batch), action_gt=batch.actions_BHA, noise=batch.noise_BRHA,
                timesteps=batch.timesteps_BR, step_mask=batch.step_mask_BH, valid_steps=valid_steps)

    def _update(self, step: int, learning_rate: float) -> float:
        """Average, clip, apply. Returns the gradient's norm before clipping."""
        self.ranks.average_gradients(self.policy.parameters())
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm))
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # in fp16 the scaler skips such a step
            raise self._common_failure(f"step {step}: the loss is finite, the gradient is not ({norm})")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
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
        if self.config.mixed_precision == "no":
            return contextlib.nullcontext()
        return torch.autocast(self.ranks.device.type, dtype=DTYPES[self.config.mixed_precision])

    # what is seen from outside --------------------------------------------------------------------------------------

    def _announce(self) -> None:
        if not self.ranks.is_first:
            return
        device = self.ranks.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        parameters = sum(p.numel() for p in self.policy.parameters())
        self.journal.append("started", world_size=self.ranks.world, max_steps=self.config.max_steps, device=name,
                            parameters=parameters, resumed_from_step=self.steps_done)
        log.info("%s on %d x %s: %s parameters, %d samples of %d episodes, global batch %d, from step %d to %d",
                 self.config.model, self.ranks.world, name, f"{parameters:,}", len(self.inputs.dataset),
                 len(self.inputs.dataset.episodes), self.config.global_batch_size, self.steps_done,
                 self.config.max_steps)

    def _sample(self, step: int) -> None:
        """Rank 0 predicts recorded actions, always the same ones, with the weights that would be deployed."""
        if not self.ema:
            return
        count = min(SAMPLES_PREDICTED, len(self.inputs.dataset))
        spread = [number * len(self.inputs.dataset) // count for number in range(count)]
        batch = collate([self.samples.clean(sample, self.config.seed) for sample in spread])
        batch = batch.to(self.ranks.device)
        with torch.no_grad(), self._autocast():
            predicted = self.ema.policy.predict_action(**self.conditions.of(batch), noise=batch.noise_BHA)
        counted = batch.step_mask_BH[..., None] * batch.action_mask_B1A
        error = ((predicted - batch.actions_BHA).square() * counted).sum() / counted.sum()
        self.journal.append("sample", step=step, action_mse=float(error))
        log.info("step %d  predicted against recorded actions: mean squared error %.6f", step, float(error))

    def _save(self, step: int, loss: float) -> None:
        """A save that fails is told, and training goes on: the next one may fit."""
        if not self.ema:
            return
        state = checkpoint.TrainingState(self.policy, self.ema, self.optimizer, self.scaler)
        write = partial(checkpoint.write_contents, state=state, statistics=self.inputs.statistics,
                        codec=self.codec.to_json(), trainer={"step": step, "loss": loss, "config": asdict(self.config)})
        try:
            saved = checkpoint.save(self.checkpoints, step, write)
        except OSError as error:
            self.journal.append("checkpoint_failed", step=step, error=str(error))
            log.warning("step %d  checkpoint failed, training goes on: %s", step, error)
            return
        self.journal.append("checkpoint", step=step, name=saved.name, size_bytes=saved.size_bytes, digest=saved.digest)
        log.info("step %d  saved %s, %.1f MB", step, saved.name, saved.size_bytes / 1e6)
        checkpoint.prune(self.checkpoints, self.config.checkpoints_total_limit)

    def _stopped(self, step: int) -> int:
        if self.ranks.is_first:
            self._warn(f"stopped by SIGTERM after step {step}")
        return STOPPED

    def _finish(self, loss: float) -> int:
        if self.ranks.is_first:
            self.journal.append("finished", step=self.steps_done, loss=loss)
            log.info("finished after step %d", self.steps_done)
        return 0

    def _warn(self, message: str) -> None:
        if self.ranks.is_first:
            self.journal.append("warning", message=message)
            log.warning("%s", message)


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """A function of the optimiser step, counted from 1: warm-up, then constant or half a cosine down to 0."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(config.max_steps - config.warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * min(done, 1))) / 2


def _check_architecture(config: dict[str, Any], model: str) -> None:
    wanted = ARCHITECTURES[model]
    keys = ("rdt", "pred_horizon", "action_dim", "state_token_dim", "lang_token_dim", "img_token_dim", "img_cond_len")
    wrong = [f"{key} is {config[key]}, {model} has {wanted[key]}" for key in keys if config[key] != wanted[key]]
    if wrong:
        raise WeightsError(f"the weights are not those of {model}: {'; '.join(wrong)}",
                           remedy="inv train --set model=...")


def _make_reproducible(device: torch.device) -> None:
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


def _fail(journal: Journal, error: RdtopsError) -> int:
    _tell(journal, error.message, error.remedy)
    return _complain(error)


def _tell(journal: Journal, message: str, remedy: str) -> None:
    steps = [e.data["step"] for e in journal.read() if e.kind == "step"]
    journal.append("failed", step=steps[-1] if steps else 0, error=message, remedy=remedy)


def _complain(error: Exception) -> int:
    remedy = getattr(error, "remedy", "")
    sys.stderr.write(f"{error}\n" + (f"next: {remedy}\n" if remedy else ""))
    return getattr(error, "exit_code", 1)


def _out_of_memory(config: TrainConfig, error: Exception) -> RunError:
    """The cure keeps the global batch, so what is learnt stays the same."""
    if config.batch_size_per_process > 1 and config.batch_size_per_process % 2 == 0:
        cure = (f"--set batch_size_per_process={config.batch_size_per_process // 2} "
                f"--set gradient_accumulation_steps={config.gradient_accumulation_steps * 2}")
    else:
        cure = "--set gradient_checkpointing=true"
    return RunError(f"out of GPU memory: {str(error).partition('.')[0]}", remedy=f"inv train --resume RUN {cure}")


if __name__ == "__main__":
    faulthandler.enable()  # a crash in a library leaves its stack in train.log
    sys.exit(main())
