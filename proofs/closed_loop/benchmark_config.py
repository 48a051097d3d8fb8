"""Benchmark config of `inv bench closed-loop`: task, goal, number of demonstrations, and the paths of its files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from proofs.closed_loop.scripted_experts import PutPuddingInTray
from rdtops.contract.run import RunSpec, checkpoint_name
from rdtops.trainer.simulation import simulator
from rdtops.trainer.simulation.simulator import Task

TRAINED, UNTRAINED, REPLAYED, DARK, GUESSED = "trained", "untrained", "replayed", "blank images", "expert guessing"
SEED = 0
SETTINGS = {"from_scratch": True, "num_processes": 1, "heldout_share": 0, "lr_schedule": "cosine", "warmup_steps": 50,
            "image_augmentation": False, "vision_cache_gib": 1, "condition_dropout": 0, "seed": SEED,
            "checkpoints_total_limit": 1}


@dataclass(frozen=True)
class Proof:
    """The settings of one proof."""

    name: str
    task: str  # of libero_90
    sighted: bool  # False: black images, the robot's state alone
    goal: float  # share of successes
    limit_minutes: float  # of its training, or, with images, in total
    demos: int
    noise: float  # of the demonstrations' motion, in action units
    model: str
    batch: int
    steps: int
    learning_rate: float
    exec_horizon: int
    longest: int  # steps of a trial
    trials: int = 50
    rendered_samples: int = 0
    encoder_steps: int = 0
    noise_draws: int = 1  # noise draws of each sample of a batch
    codec: str = "delta_velocity"
    loss: str = "published"
    sought: str = ""  # the body that the keypoint encoder learns to find
    region: str = ""  # region of the bddl file in which the object's place is drawn for each start; '': the benchmark's
    corners_m: tuple[float, float, float, float] = (0, 0, 0, 0)  # new corners of that region: x, y to x, y
    elsewhere: float = 0.0  # share of the demonstrations in which the hand starts at another place

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the policies and baselines. Without images there is no blank-image ablation."""
        return (TRAINED, *((DARK,) if self.sighted else ()), UNTRAINED, REPLAYED, *((GUESSED,) if self.sighted else ()))


PROOFS = {p.name: p for p in (
    Proof("drawer", "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet", sighted=False, goal=0.98, limit_minutes=20,
          demos=50, noise=0.2, model="tiny", batch=16, steps=2000, learning_rate=2e-3, exec_horizon=16, longest=200),
    Proof("pick", "LIVING_ROOM_SCENE4_pick_up_the_chocolate_pudding_and_put_it_in_the_tray", sighted=True, goal=0.6,
          limit_minutes=90, demos=144, noise=0.0, model="small", batch=16, noise_draws=2, steps=8000,
          learning_rate=1e-3, exec_horizon=4, longest=200, rendered_samples=4000, encoder_steps=3000,
          codec="delta_velocity", loss="normalised", sought=PutPuddingInTray.PUDDING,
          region="chocolate_pudding_init_region", corners_m=(0.02, -0.16, 0.14, 0.06), elsewhere=0.75))}
SHORT = replace(PROOFS["drawer"], demos=6, steps=400, trials=10, longest=100, goal=0.5)


@dataclass(frozen=True)
class Place:
    """The paths of a proof's files."""

    folder: Path
    proof: Proof

    @property
    def demonstrations(self) -> Path:
        return self.folder / "demonstrations"

    @property
    def rendered_samples(self) -> Path:
        return self.folder / "glances.npz"

    @property
    def assets(self) -> dict[str, str]:
        return {"dataset": str(self.demonstrations), "text_encoder": str(self.folder / "assets" / "t5-tiny"),
                "vision_encoder": str(self.folder / "assets" / ("eyes" if self.proof.sighted else "siglip-tiny"))}

    @property
    def checkpoint(self) -> Path:
        spec = RunSpec.load(next(self.folder.glob("training/runs/*/config.json")))
        return Path(spec.paths.checkpoints) / checkpoint_name(self.proof.steps) / "ema"

    @cached_property
    def task(self) -> Task:
        task, proof = simulator.tasks("libero_90", self.proof.task)[0], self.proof
        return simulator.widened(task, proof.region, proof.corners_m, self.folder / "bddl") if proof.region else task
