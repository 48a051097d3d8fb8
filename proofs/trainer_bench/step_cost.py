"""Step cost: the kernels, bytes, FLOPs and kept memory of one training step on a GPU, counted without one.

    python -m proofs.trainer_bench.step_cost --model rdt-1b --batch 4    # a table; --json: a JSON row for each phase
    python -m proofs.trainer_bench.step_cost --document                  # the derived tables of docs/performance.md

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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from proofs.trainer_bench import published
from rdtops.contract.config import preset
from rdtops.contract.model_flops import PEAK_TFLOP_S
from rdtops.trainer.data.observation import HISTORY
from rdtops.trainer.distributed.ranks import Ranks
from rdtops.trainer.distributed.sharding import Shards
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.loop.update import WeightUpdate
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
MOST_KERNELS, MOST_GB, MOST_KEPT_GB_A_SAMPLE = 4_850, 154, 0.90
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
    link_bytes_s: float = 0.0  # to the other GPUs, each way

    def seconds(self, bytes_moved: float, flops: float, launches: int, *, attention: bool) -> float:
        reached = self.flops_s * self.gemm_share * (self.attention_share if attention else 1)
        return max(bytes_moved / (self.bytes_s * self.bytes_share), flops / reached, launches * LAUNCH_S)


GPUS = (Peaks("A800-80GB", 1e12 * PEAK_TFLOP_S["A800"], 2.0e12, 0.75, 0.80, link_bytes_s=200e9),
        Peaks("H100-80GB", 1e12 * PEAK_TFLOP_S["H100"], 3.35e12, 0.65, 0.85, link_bytes_s=450e9))


@dataclass(frozen=True)
class Operation:
    """One operation of a step. `executed_flops`: with those that it computes again, to keep less."""

    name: str
    bytes_moved: int
    flops: int
    executed_flops: float
    kernels: int

    def seconds(self, gpu: Peaks) -> float:
        return gpu.seconds(self.bytes_moved, self.executed_flops, self.kernels, attention="dot_product" in self.name)


class PhaseCost:
    """The cost of one phase of a step: its operations, and how often each of them."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.operations: Counter[Operation] = Counter()
        self.useful_flops: int | None = None  # where some of them are not

    @property
    def kernels(self) -> int:
        return sum(self.by_name("kernels").values())

    @property
    def bytes_moved(self) -> int:
        return sum(self.by_name("bytes_moved").values())

    @property
    def flops(self) -> int:
        return sum(self.by_name("flops").values()) if self.useful_flops is None else self.useful_flops

    def by_name(self, what: str) -> Counter[str]:
        """Return a number of the operations of each name."""
        found: Counter[str] = Counter()
        for operation, times in self.operations.items():
            found[operation.name] += times * getattr(operation, what)
        return found

    def ms(self, gpu: Peaks) -> float:
        return 1e3 * sum(times * operation.seconds(gpu) for operation, times in self.operations.items())


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step, by phase."""

    model: str
    batch: int
    gradient_checkpointing: bool
    parameters: int
    kept_bytes: int  # by the forward pass for the backward pass, beside weights and inputs
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
        return sum(phase.ms(gpu) for phase in self.phases.values())

    def rows(self) -> Iterator[dict[str, Any]]:
        for name, phase in self.phases.items():
            yield {"model": self.model, "batch": self.batch, "gradient_checkpointing": self.gradient_checkpointing,
                   "phase": name, "kernels": phase.kernels, "bytes_moved": phase.bytes_moved, "flops": phase.flops,
                   "kept_bytes": self.kept_bytes if name == "forward" else 0,
                   "ms": {gpu.name: phase.ms(gpu) for gpu in GPUS}}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proofs.trainer_bench.step_cost", description="Counts a step.")
    parser.add_argument("--model", choices=ARCHITECTURES, default="rdt-1b")
    parser.add_argument("--batch", type=int, default=4, help="samples of the GPU")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--json", action="store_true", help="a JSON row for each phase")
    parser.add_argument("--document", action="store_true", help="the derived tables of docs/performance.md")
    options = parser.parse_args(arguments)
    if options.document:
        lines: Iterable[str] = document()
    else:
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
               + "".join(f" {phase.ms(gpu):13.1f}" for gpu in GPUS))
    yield (f"{'step':9} {cost.kernels:8,} {cost.bytes_moved / 1e9:9.1f} {cost.flops / 1e12:7.2f}"
           + "".join(f" {cost.ms(gpu):13.1f}" for gpu in GPUS))
    yield (f"kept for the backward pass: {cost.kept_bytes / 1e9:.2f} GB, of it {cost.weights_kept_bytes / 1e9:.2f} GB "
           f"weights in bf16, {cost.kept_bytes_per_sample / 1e9:.3f} GB a sample")
    for phase in cost.phases.values():
        kernels = phase.by_name("kernels")
        most = (f"{name} {kernels[name]:,} ({moved / 1e9:.1f} GB)"
                for name, moved in phase.by_name("bytes_moved").most_common(10))
        yield f"{phase.phase}: {', '.join(most)}"


def document() -> Iterator[str]:
    """Yield the derived tables of docs/performance.md."""
    small, large = (step_cost("rdt-1b", batch) for batch in (4, 32))
    again = step_cost("rdt-1b", 32, gradient_checkpointing=True)
    plain = step_cost("rdt-1b", 4, shares_background=False)
    yield "| TFLOP a sample of rdt-1b | forward | training |"
    yield "|---|---|---|"
    for name, cost in (("RDT, six images in every sample, batch 4", plain),
                       ("RDT, background shared, batch 4", small), ("RDT, background shared, batch 32", large)):
        forward, backward = (cost.phases[phase].flops / cost.batch / 1e12 for phase in ("forward", "backward"))
        yield f"| {name} | {forward:.2f} | {forward + backward:.2f} |"
    encode = small.phases["encode"].flops / small.batch / 1e12
    yield f"| SigLIP, four frames | {encode:.2f} | {encode:.2f} |"
    yield ""
    names = [f"{gpu.name}: {' + '.join(PHASES)}, ms; samples/s; share of peak" for gpu in GPUS]
    yield f"| a step on one GPU | kernels | GB moved | TFLOP | kept, GB | {' | '.join(names)} |"
    yield f"|---|---|---|---|---|{'---|' * len(GPUS)}"
    for cost in (small, large, again):
        yield document_row(cost)
    yield ""
    yield f"| beside it | {' | '.join(gpu.name for gpu in GPUS)} | from |"
    yield f"|---|{'---|' * len(GPUS)}---|"
    peaks = (f"{gpu.flops_s / 1e12:.0f} TFLOP/s, {gpu.bytes_s / 1e12:g} TB/s, {gpu.link_bytes_s / 1e9:.0f} GB/s"
             for gpu in GPUS)
    yield f"| peak bf16, memory, NVLink each way | {' | '.join(peaks)} | data sheets |"
    shares = (f"{gpu.gemm_share:.0%} of matrix products, {gpu.gemm_share * gpu.attention_share:.0%} of attention, "
              f"{gpu.bytes_share:.0%} of bytes" for gpu in GPUS)
    yield f"| assumed to be reached | {' | '.join(shares)} | {LAUNCH_S * 1e6:g} µs a kernel at least |"
    sent = 2 * 7 / 8 * 4 * small.parameters
    ring = (f"{1e3 * sent / gpu.link_bytes_s:.0f} ms" for gpu in GPUS)
    yield (f"| averaging gradients over 8 GPUs, not overlapped | {' | '.join(ring)} | "
           f"{4 * small.parameters / 1e9:.1f} GB in float32, {sent / 1e9:.1f} GB a GPU in a ring |")


def document_row(cost: StepCost) -> str:
    """Return the row of a step in docs/performance.md."""
    times = []
    for gpu in GPUS:
        parts = " + ".join(f"{phase.ms(gpu):.0f}" for phase in cost.phases.values())
        step_s = cost.ms(gpu) / 1e3
        share = cost.flops / step_s / gpu.flops_s
        times.append(f"{parts} = {1e3 * step_s:.0f}; {cost.batch / step_s:.0f}; {share:.0%}")
    name = f"batch {cost.batch}{', gradient checkpointing' * cost.gradient_checkpointing}"
    return (f"| {name} | {cost.kernels:,} | {cost.bytes_moved / 1e9:.0f} | {cost.flops / 1e12:.1f} | "
            f"{cost.kept_bytes / 1e9:.1f} | {' | '.join(times)} |")


def step_cost(model: str, batch: int, *, gradient_checkpointing: bool = False, shares_background: bool = True,
              architecture: dict[str, Any] | None = None) -> StepCost:
    """Count one training step with LIBERO's two cameras, in bf16. `architecture`: of `model`, if not that of
    ARCHITECTURES. `shares_background`: whether the missing camera is computed once for all samples."""
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_cuda():
        policy = _policy(architecture or ARCHITECTURES[model])
        policy.model.gradient_checkpointing = gradient_checkpointing
        vision, given = _vision(policy.config), _inputs(policy.config, batch)
        update, counter = _update(policy), CostCounter()
        with counter, mock.patch.object(norm_kernels, "launch", counter.launch):
            counter.enter("encode")
            tokens = _encoded(vision, batch)
            counter.enter("forward")
            images = {"img_tokens": tokens, "background_tokens": vision.background_PW}
            if not shares_background:
                images = {"img_tokens": published.whole_image_tokens(tokens, vision.background_PW)}
            with Kept(policy, {**given, **images}) as kept, torch.autocast("cpu", torch.bfloat16):
                loss = policy.loss(**given, **images)
            kept_bytes = counter.alive_bytes([*policy.parameters(), *tensors_of((given, images))])
            counter.enter("backward")
            update.backward(loss, 0)
            counter.enter("update")
            update.step(1e-4)
    if gradient_checkpointing:  # what it computes again is not useful
        counter.costs["backward"].useful_flops = 2 * counter.costs["forward"].flops
    return StepCost(model, batch, gradient_checkpointing, sum(p.numel() for p in policy.parameters()),
                    kept_bytes, kept.bytes_of_weights, counter.costs)


class CostCounter(TorchDispatchMode):
    """Counts the operations of each phase."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[str, PhaseCost] = {}

    def enter(self, phase: str) -> None:
        self._now = self.costs.setdefault(phase, PhaseCost(phase))
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def alive_bytes(self, known: Iterable[torch.Tensor]) -> int:
        """Return the memory that this phase has allocated and not freed. `known`: what was there before."""
        before = {tensor.untyped_storage()._cdata for tensor in known}  # noqa: SLF001
        return sum(size for place, (storage, size) in self._made.items()
                   if place not in before and not storage.expired())

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
        for storage in (tensor.untyped_storage() for tensor in tensors_of(result)):
            self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # noqa: SLF001
        return result

    def note(self, name: str, read: list[torch.Tensor], written: list[torch.Tensor], *, flops: int = 0,
             launches: int = 1) -> None:
        """Count one operation."""
        moved = sum(map(_bytes, [*read, *written]))
        self._now.operations[Operation(name, moved, flops, flops * _executed(name), launches)] += 1

    def launch(self, kernel: str, _programs: int, *arguments: Any, **_constants: int) -> None:
        """Count a kernel of the trainer's own, which reads or writes each of its tensors once."""
        self.note(kernel, tensors_of(arguments), [])


def tensors_of(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor)]


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
          mock.patch.object(norm, "has_kernels", _has_kernels),
          mock.patch.object(encoders, "resized", lambda frames, edge: encoders._resized_as_float(  # noqa: SLF001
              frames.permute(0, 3, 1, 2), edge))):
        yield


def _has_kernels(x) -> bool:  # noqa: ARG001  # a Mock would hold every x that it is asked about
    return True


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


def _update(policy: RDTPolicy) -> WeightUpdate:
    """Return the update of one process after its first step, in which AdamW allocates its moments."""
    device = torch.device("cpu")
    with mock.patch("copy.deepcopy", return_value=_policy(policy.config)):  # fake tensors cannot be copied deeply
        ema = Ema(policy)
    update = WeightUpdate(replace(preset("libero_single_task"), gradient_accumulation_steps=1), policy, ema,
                          Shards(Ranks(0, 1, device)), device)
    for parameter in policy.parameters():
        parameter.grad = torch.empty_like(parameter)
    update.step(1e-4)
    return update


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
