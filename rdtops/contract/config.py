"""TrainConfig: every value of a training, its presets, and `--set key=value`."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from rdtops.errors import ConfigError
from rdtops.hostlib import fields as kinds
from rdtops.hostlib.names import quoted

FSDP2_TORCH = "2.7"  # the oldest torch for sharding = fsdp2: that of 2.6 has no streams on CPUs
AUTO = "auto"
LATER = {"instruction", "without"}  # settings that runs of the first versions lack: the digest of those runs stays


@dataclass(frozen=True)
class TrainConfig:
    """The resolved values of a training. Assets (dataset, pretrained, encoders) are names; RunSpec has their paths."""

    preset: str
    # what is trained, on what
    model: str  # architecture: tiny, small, rdt-170m, rdt-1b
    dataset: str
    pretrained: str
    text_encoder: str
    vision_encoder: str
    from_scratch: bool = False  # random weights of `model`; `pretrained` is then not read
    codec: str = "delta_velocity"  # what the 128 slots mean: rdtops/trainer/data/actions.py
    # where it runs
    device: str = "cuda"  # cuda or cpu
    num_processes: int = 8
    mixed_precision: str = "bf16"  # bf16, fp16 or no; weights and EMA stay fp32
    min_gpu_memory_free_mib: int = 0  # for `inv check`; 0: as much as the memory plan counts
    sharding: str = "none"  # none; zero1: each process keeps its part of Adam's moments; fsdp2: its part of everything
    # how much, how long
    batch_size_per_process: int = 4
    gradient_accumulation_steps: int = 1
    noise_draws_per_sample: int = 1  # more draws share a sample's language and images: cheap, less varied than samples
    gradient_checkpointing: bool | str = AUTO  # true, false or auto: where the memory of the GPUs needs it
    max_steps: int = 30_000
    checkpoint_every_steps: int = 2_000
    checkpoints_total_limit: int = 20  # how many of the newest are kept
    checkpoints_keep_every_steps: int = 0  # also keep every checkpoint whose step is a multiple of this; 0: none
    checkpoints_keep_best: int = 1  # also keep this many with the lowest validation loss
    sample_every_steps: int = 500
    # logging
    log_every_steps: int = 10
    log_every_s: float = 60.0  # a slow training also logs in between; 0: by steps alone
    tracker: str = "off"  # off, tensorboard or wandb; metrics.jsonl is always written
    wandb_mode: str = "online"  # online or offline; the host's variable WANDB_MODE wins
    # validation, on held-out samples that are never trained on
    heldout_share: float = 0.05  # of the episodes, or of the samples where that is less than half an episode; 0: none
    heldout_every_steps: int = 500  # and at every checkpoint; 0: only at checkpoints
    heldout_samples: int = 128  # predicted each time
    # optimiser
    loss: str = "published"  # published: all slots alike; normalised: each used slot by its spread in the data
    learning_rate: float = 1e-4
    lr_schedule: str = "constant"  # constant or cosine, both after the warm-up
    warmup_steps: int = 500
    weight_decay: float = 1e-2
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    # data
    observed: str = "auto"  # when obs[t] was taken: after or before action t; auto detects it in each file
    images: str = "auto"  # how they are stored: upside_down (LIBERO's), upright, mirrored, turned; auto detects it
    instruction: str = ""  # of every file of demonstrations that has none
    without: str = ""  # demonstrations to leave out, separated by commas: NAME.hdf5 or NAME.hdf5:demo_3
    trusted_conventions: str = ""  # names of CONVENTIONS, separated by commas, that `inv check` does not question
    accept_changed: str = ""  # roles of ACCEPTABLE, separated by commas, whose files a resume may find changed
    loader_workers: int = 8
    image_augmentation: bool = True
    vision_cache_gib: int = 0  # keep SigLIP's output of unchanged frames on disk, at most this; 0: encode every step
    state_noise_snr_db: float | None = 40.0
    condition_dropout: float = 0.1  # probability that language, an image or the state is masked in a sample
    seed: int = 42

    @property
    def global_batch_size(self) -> int:
        return self.num_processes * self.batch_size_per_process * self.gradient_accumulation_steps

    @property
    def gpus_required(self) -> int:
        return self.num_processes if self.device == "cuda" else 0

    @property
    def digest(self) -> str:
        """MD5 over every value but those of LATER at their defaults, and `accept_changed`, which changes nothing that
        is trained."""
        values = {name: value for name, value in asdict(self).items()
                  if name != "accept_changed" and (name not in LATER or value)}
        return hashlib.md5(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        if not isinstance(values, Mapping):
            raise ConfigError("the training configuration must be a table of settings")
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown training settings: {', '.join(map(quoted, unknown[:5]))}")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
        if missing:
            raise ConfigError(f"missing training settings: {', '.join(missing)}")
        return checked(cls(**values))


def _tiny() -> TrainConfig:
    """Return the preset for 2 CPU cores: the real code paths at a small size."""
    return TrainConfig(
        preset="tiny", model="tiny", dataset="libero_tiny", pretrained="rdt-tiny",
        text_encoder="t5-tiny", vision_encoder="siglip-tiny",
        device="cpu", num_processes=2, mixed_precision="no", min_gpu_memory_free_mib=0,
        batch_size_per_process=4, max_steps=150, checkpoint_every_steps=50, checkpoints_total_limit=3,
        sample_every_steps=50, log_every_steps=1, heldout_every_steps=50, heldout_samples=32,
        learning_rate=2e-3, warmup_steps=5, loader_workers=0)


def _libero_single_task() -> TrainConfig:
    """Return the values of the seed project's own training: 8 x A800-80GB, 30,000 steps."""
    return TrainConfig(
        preset="libero_single_task", model="rdt-1b", dataset="libero_single_task", pretrained="rdt-1b",
        text_encoder="t5-v1_1-xxl", vision_encoder="siglip-so400m-patch14-384")


def _rdt_1b() -> TrainConfig:
    """Return the values of RDT's authors (finetune.sh) for rdt-1b: 8 GPUs x 32 samples, 200,000 steps."""
    return TrainConfig(
        preset="rdt_1b", model="rdt-1b", dataset="libero_90", pretrained="rdt-1b",
        text_encoder="t5-v1_1-xxl", vision_encoder="siglip-so400m-patch14-384",
        batch_size_per_process=32, max_steps=200_000, checkpoint_every_steps=1_000, checkpoints_total_limit=40)


def _rdt_170m() -> TrainConfig:
    """Return the same for the small published model."""
    return replace(_rdt_1b(), preset="rdt_170m", model="rdt-170m", pretrained="rdt-170m")


PRESETS = {"tiny": _tiny, "libero_single_task": _libero_single_task, "rdt_170m": _rdt_170m, "rdt_1b": _rdt_1b}

NULLS = ("none", "off")  # how a setting that may be None is written

CHOICES = {  # what a text may be
    "gradient_checkpointing": (AUTO,),
    "device": ("cuda", "cpu"),
    "mixed_precision": ("bf16", "fp16", "no"),
    "lr_schedule": ("constant", "cosine"),
    "model": ("tiny", "small", "rdt-170m", "rdt-1b"),
    "sharding": ("none", "zero1", "fsdp2"),
    "loss": ("published", "normalised"),
    "tracker": ("off", "tensorboard", "wandb"),
    "wandb_mode": ("online", "offline"),
    "codec": ("delta_velocity", "absolute_pose", "seed_compat", "seed_compat_m"),
    "observed": ("auto", "after", "before"),
    "images": ("auto", "upside_down", "upright", "mirrored", "turned"),
}

OF_THE_DATA = ("observed", "images", "instruction", "without")  # settings that say how demonstrations are read

CONVENTIONS = (  # what the convention check tests by correlation; rdtops.trainer.conventions explains each
    "pose_position", "pose_rotation", "pose_timing", "position_axes", "rotation_axes", "position_scale",
    "rotation_scale", "rotation_frame", "action_timing", "gripper_sign", "gripper_range", "gripper_fingers",
    "agentview_upright", "wrist_upright", "agentview_mirrored", "cameras", "colours", "images_fresh", "instruction")


ACCEPTABLE = ("dataset", "text_encoder", "vision_encoder")  # a resume takes its weights from the checkpoint
_ACCEPTED_BY = {**{role: role for role in ACCEPTABLE}, "without": "dataset"}  # setting -> role that it names


def data_options(values: object) -> list[str]:
    """Return the OF_THE_DATA settings of a configuration as options of the trainer's programs."""
    return [f"--{name}={getattr(values, name)}" for name in OF_THE_DATA if getattr(values, name)]


def trusted(names: str) -> tuple[str, ...]:
    """Return the names of a text such as `gripper_sign,colours`. Raises ConfigError for an unknown convention."""
    return _members(names, CONVENTIONS, "trusted_conventions: there is no convention", "conventions")


def accepted_roles(names: str) -> tuple[str, ...]:
    """Return the roles of a text such as `dataset,text_encoder`. Raises ConfigError for another role."""
    return _members(names, ACCEPTABLE, "accept_changed: there is no role", "roles")


def roles_named(settings: Iterable[str]) -> str:
    """Return the roles whose content the `key=value` settings of a resume name, as a value of `accept_changed`.

    >>> roles_named(["max_steps=3", "dataset=drawer"])
    'dataset'
    """
    keys = [setting.partition("=")[0].strip() for setting in settings]
    return ",".join(dict.fromkeys(_ACCEPTED_BY[key] for key in keys if key in _ACCEPTED_BY))


def resumed(config: TrainConfig, settings: Iterable[str]) -> TrainConfig:
    """Return the values of a resume: those of the run, with `--set` on top. What this resume does not name again must
    have the content that it was trained on."""
    settings = tuple(settings)
    changed = override(replace(config, accept_changed=""), settings)
    named = [*accepted_roles(changed.accept_changed), *accepted_roles(roles_named(settings))]
    return replace(changed, accept_changed=",".join(dict.fromkeys(named)))


def _members(names: str, allowed: tuple[str, ...], problem: str, plural: str) -> tuple[str, ...]:
    found = tuple(name.strip() for name in names.split(",") if name.strip())
    for name in found:
        if name not in allowed:
            raise ConfigError(f"{problem} {name!r}{nearest(name, allowed)}; {plural}: {', '.join(allowed)}")
    return found


def preset(name: str) -> TrainConfig:
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}{nearest(name, PRESETS)}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]()


def override(config: TrainConfig, settings: Iterable[str]) -> TrainConfig:
    """Apply `key=value` settings, each value read as the type of its field."""
    types_by_name = _hints(TrainConfig)
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"--set {setting!r} is not key=value", remedy="inv train --set max_steps=1000")
        if key not in types_by_name or key == "preset":
            allowed = [name for name in types_by_name if name != "preset"]
            raise ConfigError(f"--set {key}: no such setting{nearest(key, allowed)}",
                              remedy="inv train --dry-run --host HOST   # prints every setting")
        config = replace(config, **{key: _value(key, text.strip(), types_by_name[key])})
    return checked(config)


def with_settings(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration with typed values, as a TOML table has them. Raise ConfigError."""
    problems = [f"{key}: {problem}" for key, value in values.items() if (problem := setting_problem(key, value))]
    if problems:
        raise ConfigError("training configuration: " + "; ".join(problems))
    return checked(replace(config, **{key: _typed(key, value) for key, value in values.items()}))


def setting_problem(key: str, value: object) -> str:
    """Return what is wrong with a typed value of one setting, or ''."""
    hints = _hints(TrainConfig)
    allowed = [name for name in hints if name != "preset"]
    if key not in allowed:
        return f"no such setting{nearest(key, allowed)}"
    if not _is_a(_typed(key, value), hints[key]):
        return f"{quoted(value)} is not {_type_name(hints[key])}"
    return "" if _is_choice(key, value) else f"{quoted(value)} must be {_allowed(key)}"


def _is_choice(key: str, value: object) -> bool:
    return not isinstance(value, str) or key not in CHOICES or value in CHOICES[key]


def _allowed(key: str) -> str:
    """Return what a setting with choices may be, in words."""
    words = [*(("true", "false") if bool in _alternatives(_hints(TrainConfig)[key]) else ()), *CHOICES[key]]
    return f"one of {', '.join(words)}"


def _typed(key: str, value: Any) -> Any:
    """Return a value of a TOML table as its setting has it: TOML has no null, and 1 may be meant as 1.0."""
    allowed = _alternatives(_hints(TrainConfig)[key])
    if type(None) in allowed and value in NULLS:
        return None
    return float(value) if type(value) is int and float in allowed and int not in allowed else value


def checked(config: TrainConfig) -> TrainConfig:
    """Return the configuration itself. Raises ConfigError naming every value that is invalid."""
    problems = wrong_kinds(config)
    if not problems:
        problems += [f"{key} = {getattr(config, key)!r}: must be {_allowed(key)}"
                     for key in CHOICES if not _is_choice(key, getattr(config, key))]
        positive = ("num_processes", "batch_size_per_process", "gradient_accumulation_steps", "max_steps",
                    "checkpoint_every_steps", "checkpoints_total_limit", "checkpoints_keep_best", "log_every_steps",
                    "heldout_samples", "noise_draws_per_sample", "learning_rate", "max_grad_norm")
        problems += [f"{key} = {getattr(config, key)}: must be above 0"
                     for key in positive if getattr(config, key) <= 0]
        not_negative = ("warmup_steps", "loader_workers", "sample_every_steps", "weight_decay",
                        "min_gpu_memory_free_mib", "checkpoints_keep_every_steps", "heldout_every_steps",
                        "log_every_s", "vision_cache_gib")
        problems += [f"{key} = {getattr(config, key)}: must not be negative"
                     for key in not_negative if getattr(config, key) < 0]
        if config.sharding != "none" and config.mixed_precision == "fp16":
            problems.append("sharding needs mixed_precision bf16 or no: "
                            "with fp16 each process decides alone which steps to skip")
        if not 0 <= config.condition_dropout < 1:
            problems.append(f"condition_dropout = {config.condition_dropout}: must be at least 0 and below 1")
        if not 0 <= config.heldout_share <= 0.5:
            problems.append(f"heldout_share = {config.heldout_share}: must be from 0 to 0.5")
        trusted(config.trusted_conventions)
        accepted_roles(config.accept_changed)
    if problems:
        raise ConfigError("training configuration: " + "; ".join(problems))
    return config


def wrong_kinds(values: object) -> list[str]:
    """Return a message for each field of a dataclass whose value is not of its declared type."""
    hints = _hints(type(values))  # type: ignore[arg-type]  # mypy takes the __hash__ of the class for its instances'
    return [f"{name} = {quoted(getattr(values, name))} is not {_type_name(hint)}"
            for name, hint in hints.items() if not _is_a(getattr(values, name), hint)]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or '' when nothing is close."""
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _value(key: str, text: str, hint: Any) -> Any:
    allowed = _alternatives(hint)
    if type(None) in allowed and text.lower() in NULLS:
        return None
    kind = next(k for k in allowed if k is not type(None))
    try:
        if kind is bool:
            if text.lower() in CHOICES.get(key, ()):
                return text.lower()
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        return int(text.replace("_", "")) if kind is int else kind(text)
    except (ValueError, KeyError) as error:
        wanted = _allowed(key) if key in CHOICES else _type_name(hint)
        raise ConfigError(f"--set {key}={text}: {text!r} is not {wanted}") from error


def _is_a(value: Any, hint: Any) -> bool:
    allowed = _alternatives(hint)
    if isinstance(value, bool):
        return bool in allowed
    if isinstance(value, (int, float)):
        return ((float in allowed and kinds.number(value) is not None)
                or (int in allowed and isinstance(value, int) and kinds.whole(value) is not None))
    if hint == Mapping[str, str]:
        return isinstance(value, Mapping) and all(isinstance(word, str) for pair in value.items() for word in pair)
    return isinstance(value, tuple(typing.get_origin(kind) or kind for kind in allowed))


def _type_name(hint: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "none"}
    return " or ".join(names.get(kind, "a table") for kind in _alternatives(hint))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    found = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(getattr(kind, "__supertype__", kind) for kind in found)  # a RunId is a string


@functools.cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls)
