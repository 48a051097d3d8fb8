"""Step cost: the kernels, bytes, FLOPs and kept memory of one training step on a GPU, counted without one.

    python -m proofs.trainer_bench.step_cost --model rdt-1b --batch 4    # a table; --json: a JSON row for each phase

The trainer's own code runs on fake tensors, which have shapes and neither memory nor numbers, and every operation that
reaches torch's dispatcher is counted. Where the code or torch chooses by device, `as_on_cuda` chooses as on a GPU. The
step is that of one GPU: encode four frames a sample with SigLIP so400m, forward, backward, clip, AdamW, EMA.

- A kernel: an operation that is neither a view nor an allocation. Operations over all parameters are launched in
  pieces; attention's backward pass, which is three kernels, counts as one.
- Bytes: what its inputs and outputs hold, each once, as if nothing stayed in a cache.
- FLOPs: two a multiply-add of matrix products, convolutions and attention; backward twice the forward. Work that
  recomputes, of attention or of gradient checkpointing, takes time and is not counted.
- Milliseconds: the longest of bytes, FLOPs and the launch of each kernel, at the share of its peak that a GPU reaches
  (GPUS). Nothing overlaps, and the host is never late.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rdtops.contract.model_flops import PEAK_TFLOP_S
from rdtops.trainer import libraries
from rdtops.trainer.data.observation import HISTORY
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.model import encoders, norm, norm_kernels
from rdtops.trainer.model.conditions import CAMERAS
from rdtops.trainer.model.encoders import Vision
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy

PHASES = ("encode", "forward", "backward", "update")
EXISTING, STORED, WORDS = 2, 128, 20  # cameras and pixels of LIBERO's frames; tokens of an instruction
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
          "image_size": 384, "patch_size": 14}  # so400m
LAUNCH_S = 3e-6
# of a step of rdt-1b at batch 4: more is a failure of `inv bench trainer` and of the tests
MOST_KERNELS, MOST_GB, MOST_KEPT_GB_A_SAMPLE = 4_900, 158, 0.91
CHUNKS, CHUNK = 320, 65_536  # of torch's multi_tensor_apply: a launch takes so many chunks of so many numbers
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "_reshape_alias",
             "lift_fresh", "detach", "set_"}
OVERWRITES = {"copy_", "fill_", "zero_"}  # do not read what they write
FLASH = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001
EFFICIENT = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001


@dataclass(frozen=True)
class Peaks:
    """What a GPU can do: peaks of its data sheet, and the shares of them that large kernels reach (assumed)."""

    name: str
    flops_s: float
    bytes_s: float
    gemm_share: float
    bytes_share: float
    attention_share: float = 0.5  # of what matrix products reach

    def seconds(self, bytes_moved: float, flops: float, launches: int, *, attention: bool) -> float:
        reached = self.flops_s * self.gemm_share * (self.attention_share if attention else 1)
        return max(bytes_moved / (self.bytes_s * self.bytes_share), flops / reached, launches * LAUNCH_S)


GPUS = (Peaks("A800-80GB", 1e12 * PEAK_TFLOP_S["A800"], 2.0e12, 0.75, 0.80),
        Peaks("H100-80GB", 1e12 * PEAK_TFLOP_S["H100"], 3.35e12, 0.65, 0.85))


@dataclass
class PhaseCost:
    """The cost of one phase of a step."""

    phase: str
    kernels: int = 0
    bytes_moved: int = 0
    flops: int = 0
    ms: dict[str, float] = field(default_factory=lambda: {gpu.name: 0.0 for gpu in GPUS})
    by_operation: Counter[str] = field(default_factory=Counter)  # kernels
    bytes_by_operation: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step, by phase."""

    model: str
    batch: int
    gradient_checkpointing: bool
    parameters: int
    kept_bytes: int  # by the forward pass for the backward pass, without weights and inputs
    weights_kept_bytes: int  # of these the weights in the format of autocast, whatever the batch
    phases: dict[str, PhaseCost]

    @property
    def kernels(self) -> int:
        return sum(phase.kernels for phase in self.phases.values())

    @property
    def bytes_moved(self) -> int:
        return sum(phase.bytes_moved for phase in self.phases.values())

    @property
    def flops(self) -> int:
        return sum(phase.flops for phase in self.phases.values())

    @property
    def kept_bytes_per_sample(self) -> float:
        return (self.kept_bytes - self.weights_kept_bytes) / self.batch

    def ms(self, gpu: Peaks) -> float:
        return sum(phase.ms[gpu.name] for phase in self.phases.values())

    def rows(self) -> Iterator[dict[str, Any]]:
        for phase in self.phases.values():
            yield {"model": self.model, "batch": self.batch, "gradient_checkpointing": self.gradient_checkpointing,
                   **{name: value for name, value in asdict(phase).items() if "operation" not in name},
                   "kept_bytes": self.kept_bytes if phase.phase == "forward" else 0}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proofs.trainer_bench.step_cost", description="Counts a step.")
    parser.add_argument("--model", choices=ARCHITECTURES, default="rdt-1b")
    parser.add_argument("--batch", type=int, default=4, help="samples of the GPU")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--json", action="store_true", help="a JSON row for each phase")
    options = parser.parse_args(arguments)
    cost = step_cost(options.model, options.batch, gradient_checkpointing=options.gradient_checkpointing)
    lines = map(json.dumps, cost.rows()) if options.json else table(cost)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def table(cost: StepCost) -> Iterator[str]:
    yield (f"{cost.model}, batch {cost.batch}{', gradient checkpointing' * cost.gradient_checkpointing}: "
           f"{cost.parameters / 1e9:.3f} billion parameters")
    yield f"{'':9} {'kernels':>8} {'GB moved':>9} {'TFLOP':>7}" + "".join(f" {'ms ' + gpu.name:>13}" for gpu in GPUS)
    for phase in cost.phases.values():
        yield (f"{phase.phase:9} {phase.kernels:8,} {phase.bytes_moved / 1e9:9.1f} {phase.flops / 1e12:7.2f}"
               + "".join(f" {phase.ms[gpu.name]:13.1f}" for gpu in GPUS))
    yield (f"{'step':9} {cost.kernels:8,} {cost.bytes_moved / 1e9:9.1f} {cost.flops / 1e12:7.2f}"
           + "".join(f" {cost.ms(gpu):13.1f}" for gpu in GPUS))
    yield (f"kept for the backward pass: {cost.kept_bytes / 1e9:.2f} GB, of it {cost.weights_kept_bytes / 1e9:.2f} GB "
           f"weights in bf16, {cost.kept_bytes_per_sample / 1e9:.3f} GB a sample")
    for phase in cost.phases.values():
        most = (f"{name} {phase.by_operation[name]:,} ({moved / 1e9:.1f} GB)"
                for name, moved in phase.bytes_by_operation.most_common(10))
        yield f"{phase.phase}: {', '.join(most)}"


def step_cost(model: str, batch: int, *, gradient_checkpointing: bool = False,
              architecture: dict[str, Any] | None = None) -> StepCost:
    """Count one training step with LIBERO's two cameras, in bf16. `architecture`: of `model`, if not that of
    ARCHITECTURES."""
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_cuda():
        policy = _policy(architecture or ARCHITECTURES[model])
        policy.model.gradient_checkpointing = gradient_checkpointing
        vision, given = _vision(policy.config), _inputs(policy.config, batch)
        optimizer = _optimizer(policy)
        with mock.patch("copy.deepcopy", return_value=_policy(policy.config)):  # fake tensors cannot be copied deeply
            ema = Ema(policy)
        counter = CostCounter()
        with counter, mock.patch.object(norm_kernels, "launch", counter.launch):
            counter.enter("encode")
            tokens = _encoded(vision, batch)
            counter.enter("forward")
            with Kept(policy, given) as kept, torch.autocast("cpu", torch.bfloat16):
                loss = policy.loss(**given, img_tokens=tokens, background_tokens=vision.background_PW)
            counter.enter("backward")
            loss.backward()
            counter.enter("update")
            gradients = [p.grad for p in policy.parameters() if p.grad is not None]
            torch.stack(libraries.norms(gradients)).square().sum().sqrt().float()
            torch._foreach_mul_(gradients, 0.5)  # as Shards.clip_gradients
            optimizer.step()
            ema.step(policy)
    if gradient_checkpointing:  # what it computes again is not useful
        counter.costs["backward"].flops = 2 * counter.costs["forward"].flops
    return StepCost(model, batch, gradient_checkpointing, sum(p.numel() for p in policy.parameters()),
                    kept.bytes, kept.bytes_of_weights, counter.costs)


class CostCounter(TorchDispatchMode):
    """Counts the operations of each phase."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[str, PhaseCost] = {}

    def enter(self, phase: str) -> None:
        self._now = self.costs.setdefault(phase, PhaseCost(phase))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        schema = func._schema  # noqa: SLF001
        space, name = schema.name.split("::")
        if space == "aten" and not func.is_view and name not in NO_KERNEL:
            named = kwargs or {}
            given = [*zip(schema.arguments, args, strict=False),
                     *((argument, named[argument.name]) for argument in schema.arguments if argument.name in named)]
            written = tensors_of([value for argument, value in given if _is_written(name, argument, named)])
            read = tensors_of([value for argument, value in given if not argument.is_out])
            made = [t for t in tensors_of(result) if not any(t is other for other in written)]
            self.note(name, read[1:] if name in OVERWRITES else read, [*written, *made], flops=_flops(name, args, made),
                      launches=_launches(args[0]) if name.startswith(("_foreach", "_fused")) else 1)
        return result

    def note(self, name: str, read: list[torch.Tensor], written: list[torch.Tensor], *, flops: int = 0,
             launches: int = 1) -> None:
        """Count one operation."""
        moved = sum(map(_bytes, [*read, *written]))
        now = self._now
        now.kernels += launches
        now.bytes_moved += moved
        now.flops += flops
        now.by_operation[name] += launches
        now.bytes_by_operation[name] += moved
        for gpu in GPUS:
            taken_s = gpu.seconds(moved, flops * _executed(name), launches, attention="dot_product" in name)
            now.ms[gpu.name] += 1e3 * taken_s


    def launch(self, kernel: str, _programs: int, *arguments: Any, **_constants: int) -> None:
        """Count a kernel of the trainer's own, which reads or writes each of its tensors once."""
        self.note(kernel, tensors_of(arguments), [])


def tensors_of(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _bytes(tensor: torch.Tensor) -> int:
    """Return the bytes that a tensor reads from memory: an expanded one has fewer than numbers."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _is_written(name: str, argument: Any, named: dict[str, Any]) -> bool:
    if name == "_fused_adamw_" and argument.name == "grads":  # it writes gradients that it unscales
        return named.get("grad_scale") is not None
    return argument.alias_info is not None and argument.alias_info.is_write


def _launches(tensors: list[torch.Tensor]) -> int:
    """Return the launches of an operation on a list of tensors."""
    return math.ceil(sum(math.ceil(tensor.numel() / CHUNK) for tensor in tensors) / CHUNKS)


def _flops(name: str, arguments: tuple[Any, ...], made: list[torch.Tensor]) -> int:
    """Return two FLOPs a multiply-add of what computes."""
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        left, right = arguments[-2:] if name in ("mm", "bmm") else arguments[1:3]
        return 2 * left.numel() * right.shape[-1]
    if name == "convolution":
        return 2 * made[0].numel() * arguments[1][0].numel()
    if name.startswith("_scaled_dot_product"):
        is_backward = name.endswith("backward")
        query, key = arguments[is_backward:is_backward + 2]
        return (8 if is_backward else 4) * query.numel() * key.shape[2]
    return 0


def _executed(name: str) -> float:
    """Return the FLOPs that are computed for each useful one: attention's backward pass computes its scores anew."""
    return 1.25 if name.startswith("_scaled_dot_product") and name.endswith("backward") else 1


class Kept:
    """Context that adds up what a forward pass keeps for its backward pass, without weights and inputs. Works with fake
    and with real tensors."""

    def __init__(self, policy: RDTPolicy, inputs: dict[str, Any]) -> None:
        known = [*policy.parameters(), *tensors_of(inputs)]
        self._known = {tensor.untyped_storage()._cdata for tensor in known}  # noqa: SLF001
        self._shapes = {tuple(p.shape) for p in policy.parameters() if p.ndim == 2}
        self._shapes |= {tuple(reversed(shape)) for shape in self._shapes}
        self._kept: dict[int, tuple[torch.UntypedStorage, torch.Tensor]] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage, _ in self._kept.values())

    @property
    def bytes_of_weights(self) -> int:
        return sum(storage.nbytes() for storage, tensor in self._kept.values() if tuple(tensor.shape) in self._shapes)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # held, so that its address is not used again
        if storage._cdata not in self._known:  # noqa: SLF001
            self._kept.setdefault(storage._cdata, (storage, tensor.detach()))  # noqa: SLF001
        return tensor


# as on a GPU ----------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def as_on_cuda() -> Iterator[None]:
    """Choose as torch and the trainer do on a CUDA device, where they choose by the device."""
    with (mock.patch.object(functional, "scaled_dot_product_attention", _cuda_attention),
          mock.patch.object(torch._C._nn, "scaled_dot_product_attention", _cuda_attention),  # noqa: SLF001
          mock.patch.object(norm, "has_kernels", return_value=True),
          mock.patch.object(encoders, "resized", lambda frames, edge: encoders._resized_as_float(  # noqa: SLF001
              frames.permute(0, 3, 1, 2), edge))):
        yield


def _cuda_attention(query, key, value, attn_mask=None, **others: Any):
    """Do what scaled_dot_product_attention does in bf16: flash attention, or efficient attention where it has a mask,
    whose rows must be aligned."""
    scale = others.get("scale")
    if attn_mask is None:
        return FLASH(query, key, value, scale=scale)[0]
    bias = attn_mask
    if bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill_(bias.logical_not(), -math.inf)
    if any(stride % 8 for stride in bias.stride()[:-1]):
        keys = bias.shape[-1]
        bias = functional.pad(bias, (0, -keys % 8))[..., :keys]
    bias = bias.expand(*query.shape[:3], key.shape[2])
    return EFFICIENT(query, key, value, bias, True, scale=scale)[0]


# stand-ins of full size -----------------------------------------------------------------------------------------------

def _policy(architecture: dict[str, Any]) -> RDTPolicy:
    with mock.patch.object(RDTPolicy, "initialise"):  # reads the weights
        return RDTPolicy(architecture).train()


def _optimizer(policy: RDTPolicy) -> torch.optim.AdamW:
    """Return AdamW after its first step, in which it allocates its moments."""
    optimizer = libraries.adamw(policy.parameters(), torch.device("cpu"), lr=1e-4, weight_decay=0.01)
    for parameter in policy.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _vision(config: dict[str, Any]) -> Vision:
    """Return SigLIP so400m in bf16; it has no weights to load."""
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipVisionModel

    options = SiglipVisionConfig(**SIGLIP)
    options._attn_implementation = "sdpa"  # noqa: SLF001  # as from_pretrained chooses
    with mock.patch.object(SiglipVisionModel, "init_weights"), _default_dtype(torch.bfloat16):
        model = SiglipVisionModel(options).eval().requires_grad_(False)
    vision = object.__new__(Vision)
    vision.device, vision.dtype, vision.edge = torch.device("cpu"), torch.bfloat16, options.image_size
    vision.tokens, vision.width = (options.image_size // options.patch_size) ** 2, options.hidden_size
    vision._tower = lambda pixels: model(pixel_values=pixels).last_hidden_state
    vision.background_PW = torch.empty(vision.tokens, vision.width, dtype=vision.dtype)
    assert config["img_cond_len"] == HISTORY * CAMERAS * vision.tokens, "a model for another SigLIP"
    return vision


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def _encoded(vision: Vision, batch: int) -> torch.Tensor:
    """Return the tokens of the images (B, V, C, P, W), as Conditions.image_tokens: all frames are kept, and relit."""
    frames = batch * HISTORY * EXISTING
    kept_K = torch.empty(frames, dtype=torch.long)
    stored = torch.empty(frames, STORED, STORED, 3, dtype=torch.uint8)
    with torch.no_grad():
        seen = vision.encode(stored[kept_K], torch.empty(frames, 3)[kept_K])
        tokens = vision.background_PW.repeat(frames, 1, 1)
        tokens[kept_K] = seen
    return tokens.unflatten(0, (batch, HISTORY, EXISTING))


def _inputs(config: dict[str, Any], batch: int) -> dict[str, Any]:
    """Return the arguments of `loss` beside the image tokens."""
    horizon, slots = config["pred_horizon"], config["action_dim"]
    return {"lang_tokens": torch.empty(batch, WORDS, config["lang_token_dim"]),
            "lang_attn_mask": torch.empty(batch, WORDS, dtype=torch.bool),
            "state_tokens": torch.empty(batch, 1, slots), "state_mask": torch.empty(batch, 1, slots),
            "action_mask": torch.empty(batch, 1, slots), "ctrl_freqs": torch.empty(batch, dtype=torch.long),
            "action_gt": torch.empty(batch, horizon, slots), "noise": torch.empty(batch, 1, horizon, slots),
            "timesteps": torch.empty(batch, 1, dtype=torch.long),
            "step_mask": torch.empty(batch, horizon, dtype=torch.bool), "valid_steps": float(batch * horizon)}


if __name__ == "__main__":
    sys.exit(main())
