"""Memory plan: the bytes that a training takes of one GPU, counted from the shapes of its model.

`inv check` compares it with the free memory of the host's GPUs, and the trainer decides by it whether `auto` means
gradient checkpointing. What a forward pass keeps is compared with a count of the trainer's own operations by a test
(tests/proofs/test_memory_plan.py); the table of docs/distributed.md is made from it.

Of the moments of a step two can be the largest: the backward pass, when all activations are there and the gradients
come, and the validation, which has neither, but the EMA weights whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rdtops.contract.config import AUTO, TrainConfig
from rdtops.contract.models import EXISTING_FRAMES, FRAMES, MODELS, SLOTS, ModelFacts

WORDS = 32  # tokens of an instruction
PREDICTED = 8  # samples whose actions are predicted together: rdtops/trainer/loop/sampling.py
GROUP_BYTES = 256 << 20  # of gradients that are averaged together, and of the buffer that they are sent from
CONTEXT_BYTES = 600_000_000  # of CUDA with its kernels, before the first tensor
NCCL_BYTES = 600_000_000  # of its channels to the other GPUs
WORKSPACE_BYTES = 200_000_000  # of cuBLAS and cuDNN
FRAGMENTED = 0.05  # of what is allocated and let go in each step: free memory that fits nothing


@dataclass(frozen=True)
class MemoryPlan:
    """The bytes of one GPU."""

    weights: int
    gradients: int
    moments: int  # Adam's two
    ema: int  # this process's share
    weight_copies: int  # in the format of autocast, kept for the backward pass
    vision_encoder: int
    in_transit: int  # gradients or blocks on their way between processes
    activations: int  # what the forward pass keeps for the backward pass
    working: int  # of the block whose backward pass runs, beside what was kept
    validation: int  # the rest of the EMA weights, keys and values of predictions
    reserve: int

    @property
    def held(self) -> int:
        """What stays from step to step."""
        return self.weights + self.moments + self.ema + self.vision_encoder + self.in_transit

    @property
    def total(self) -> int:
        training = self.gradients + self.weight_copies + self.activations + self.working
        return self.held + max(training, self.validation) + self.reserve

    @property
    def total_mib(self) -> int:
        return -(-self.total >> 20)


def plan(config: TrainConfig) -> MemoryPlan:
    """Return the plan of a configuration; with `gradient_checkpointing = auto` that of the smaller memory."""
    model, checkpointing = MODELS[config.model], config.gradient_checkpointing is not False
    world = max(1, config.num_processes)
    sharding = config.sharding if world > 1 else "none"
    parameters, is_half = 4 * model.parameters, config.mixed_precision != "no"
    whole = -(-parameters // world) if sharding == "fsdp2" else parameters
    moments = 2 * parameters if sharding == "none" else -(-2 * parameters // world)
    ema = -(-parameters // world)
    kept = kept_bytes(config, checkpointing=checkpointing)
    copies = model.parameters * 2 if is_half else 0
    if checkpointing:  # the backward pass has those of one block at a time; the forward pass has no such block yet
        working = max(_working_bytes(config) + _image_block(config), copies) - copies
    else:
        working = _working_bytes(config)
    validation = _prediction_bytes(config) + (0 if sharding == "fsdp2" else parameters - ema)
    changing = kept + working + copies
    vision = model.vision.parameters * (2 if is_half else 4) if model.vision else 0
    return MemoryPlan(
        weights=whole, gradients=whole, moments=moments, ema=ema, weight_copies=copies, vision_encoder=vision,
        in_transit=_in_transit_bytes(model, sharding) if world > 1 else 0, activations=kept, working=working,
        validation=validation, reserve=CONTEXT_BYTES + WORKSPACE_BYTES + (NCCL_BYTES if world > 1 else 0)
        + int(FRAGMENTED * max(changing, validation)))


def decided(config: TrainConfig, free_bytes: int) -> TrainConfig:
    """Return the configuration with `auto` decided for GPUs that have so many bytes free."""
    if config.gradient_checkpointing != AUTO:
        return config
    plain = replace(config, gradient_checkpointing=False)
    return plain if plan(plain).total <= free_bytes else replace(config, gradient_checkpointing=True)


def ways_to_fit(config: TrainConfig, free_bytes: int) -> list[TrainConfig]:
    """Return the same training in ways that fit, those that change least first; [] where none does. The global batch
    stays. A way that changes more than another way of the list is left out."""
    found: list[tuple[set[str], TrainConfig]] = []
    for way in sorted(_ways(config), key=lambda way: len(changed(config, way))):
        names = {name.removesuffix("_steps") for name in changed(config, way)}
        if not any(less <= names for less, _ in found) and plan(way).total <= free_bytes:
            found.append((names, way))
    return [way for _, way in found]


def changed(before: TrainConfig, after: TrainConfig) -> dict[str, object]:
    """Return the settings of memory that differ, with their new values."""
    names = ("gradient_checkpointing", "batch_size_per_process", "gradient_accumulation_steps", "sharding")
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


def _ways(config: TrainConfig) -> Iterator[TrainConfig]:
    shardings = [config.sharding]
    if config.num_processes > 1 and config.mixed_precision != "fp16":
        shardings += [name for name in ("zero1", "fsdp2") if name != config.sharding and config.sharding != "fsdp2"]
    size = config.batch_size_per_process
    sizes = [part for part in range(size, 0, -1) if size % part == 0]
    checkpointing = [config.gradient_checkpointing, *([True] if config.gradient_checkpointing is False else [])]
    for sharding, part, value in itertools.product(shardings, sizes, checkpointing):
        yield replace(config, sharding=sharding, batch_size_per_process=part, gradient_checkpointing=value,
                      gradient_accumulation_steps=config.gradient_accumulation_steps * size // part)


# what a forward pass keeps --------------------------------------------------------------------------------------------

def kept_bytes(config: TrainConfig, *, checkpointing: bool) -> int:
    """Count what the forward pass of a micro-batch keeps for the backward pass, without weights and their copies."""
    model, batch, number = MODELS[config.model], config.batch_size_per_process, _number_bytes(config)
    wide = model.hidden_size
    rows = batch * config.noise_draws_per_sample * (model.horizon + 3)
    images, words = batch * EXISTING_FRAMES * model.img_patches, batch * WORDS
    adaptors = number * (images * (model.img_width + 2 * wide) + words * (model.lang_width + 2 * wide)
                         + rows * (2 * SLOTS + 4 * wide) + model.img_patches * (model.img_width + 2 * wide))
    last = rows * wide * (4 + 3 * number)
    tokens = number * wide * _attended(config)  # in the format of autocast, once for all blocks
    if checkpointing:  # of each block its input, in float32
        return adaptors + last + condition_bytes(config) + model.depth * 4 * wide * rows
    return adaptors + last + tokens + model.depth // 2 * (_language_block(config) + _image_block(config))


def condition_bytes(config: TrainConfig) -> int:
    """Count the tokens that all blocks attend to, in float32 and as autocast casts them: gradient checkpointing holds
    them for its blocks."""
    each = 4 if config.mixed_precision == "no" else 4 + 2
    return each * MODELS[config.model].hidden_size * _attended(config)


def _attended(config: TrainConfig) -> int:
    """Count the tokens that all blocks attend to."""
    model = MODELS[config.model]
    return config.batch_size_per_process * (EXISTING_FRAMES * model.img_patches + WORDS) + _background(model)


def _language_block(config: TrainConfig) -> int:
    model, words = MODELS[config.model], config.batch_size_per_process * WORDS
    # keys and values, and normalised keys
    return _trajectory(config) + words * 3 * model.hidden_size * _number_bytes(config)


def _image_block(config: TrainConfig) -> int:
    model, number = MODELS[config.model], _number_bytes(config)
    own, shared = config.batch_size_per_process * EXISTING_FRAMES * model.img_patches, _background(model)
    every = config.batch_size_per_process * FRAMES * model.img_patches
    rows = (own + shared) + 2 * every  # keys before their norm; keys and values beside those of the background
    return _trajectory(config) + rows * model.hidden_size * number + 4 * model.num_heads * (own + shared)


def _trajectory(config: TrainConfig) -> int:
    """Count what a block keeps of a trajectory: the inputs of three norms in float32, and in the format of autocast
    those of six linear layers and a GELU, queries, keys and values before and after their norms; numbers a row."""
    model = MODELS[config.model]
    rows = config.batch_size_per_process * config.noise_draws_per_sample * (model.horizon + 3)
    return rows * (model.hidden_size * (3 * 4 + 14 * _number_bytes(config)) + 5 * 4 * model.num_heads + 3 * 4)


def _working_bytes(config: TrainConfig) -> int:
    """Count what the backward pass of a block of images has beside what was kept: the gradients of keys and values, of
    their projection, and twice those of its tokens, which are added up over the blocks in float32."""
    model = MODELS[config.model]
    own, every = EXISTING_FRAMES * model.img_patches, FRAMES * model.img_patches
    numbers = _number_bytes(config) * 2 * (every + own) + 4 * 2 * own
    return config.batch_size_per_process * model.hidden_size * numbers


def _prediction_bytes(config: TrainConfig) -> int:
    """Count the keys and values of all blocks, which a prediction keeps for its solver steps."""
    if not config.sample_every_steps:
        return 0
    model = MODELS[config.model]
    rows = PREDICTED * (FRAMES * model.img_patches + WORDS)
    return model.depth // 2 * 2 * rows * model.hidden_size * _number_bytes(config)


def _in_transit_bytes(model: ModelFacts, sharding: str) -> int:
    """Count what is on its way: a group of gradients and the buffer that it is sent from; with fsdp2 of blocks the one
    in use, the next one and its buffer, what is outside of the blocks, and of gradients a block's, the buffer in which
    they are added up, and the one before it."""
    if sharding != "fsdp2":
        return 2 * GROUP_BYTES
    shapes = model.tensor_shapes
    block = sum(_count(shape) for name, shape in shapes.items() if name.startswith("model.blocks.0."))
    return 4 * (6 * block + model.parameters - model.depth * block)


def _background(model: ModelFacts) -> int:
    """Count the tokens of the frames that do not exist, which all samples share."""
    return (FRAMES - EXISTING_FRAMES) * model.img_patches


def _number_bytes(config: TrainConfig) -> int:
    return 4 if config.mixed_precision == "no" else 2


def _count(shape: Iterable[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
