"""The norm's kernels, run by Triton's interpreter on the CPU, beside torch's operations and beside float64."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from rdtops.trainer.model import norm, norm_kernels
from rdtops.trainer.model.norm import NORM_EPS, NORMS, Norm

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("Triton is for Linux", allow_module_level=True)

FORMATS = (torch.float32, torch.bfloat16, torch.float16)
# half a unit in the last place; bfloat16 a whole one, because Triton's interpreter cuts where a GPU rounds
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-11}


@pytest.fixture(scope="module")
def interpreter() -> Iterator[None]:
    """Import the kernels with a Triton that interprets. It decides that when it is imported, as torch's compiler may
    have done before, so it is imported anew."""
    name = "rdtops.trainer.model.norm_triton"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for loaded in python_modules(name):
            patch.delitem(sys.modules, loaded)
        module = importlib.import_module(name)
        patch.setattr("rdtops.trainer.model.norm_triton", module, raising=False)
        patch.delenv("TRITON_INTERPRET")
        yield
        for loaded in python_modules(name):
            del sys.modules[loaded]


def python_modules(kernels: str) -> list[str]:
    """Return what is loaded of the kernels and of Triton, but for its library, which cannot be loaded twice."""
    return [name for name in sys.modules
            if name == kernels or (name.split(".")[0] == "triton" and not name.startswith("triton._C"))]


@pytest.fixture
def interpreted(interpreter, monkeypatch) -> None:
    """Have the kernels, which Triton interprets."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(norm, "has_kernels", lambda _: True)


def values(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=random) + 0.3
    return (rows * torch.logspace(-2, 1, shape[-2])[:, None]).to(dtype)


def heads(tensor: torch.Tensor) -> torch.Tensor:
    """Return the second of three chunks, as heads: strides as in attention."""
    return tensor.chunk(3, dim=-1)[1].unflatten(-1, (-1, 64)).transpose(1, 2)


LAYOUTS = {
    "rows of 2048": lambda dtype, device: values(2, 5, 2048, dtype=dtype).to(device),
    "rows of 96": lambda dtype, device: values(7, 96, dtype=dtype).to(device),
    "heads of qkv": lambda dtype, device: heads(values(2, 9, 3 * 128, dtype=dtype).to(device)),
    "more rows than a program takes": lambda dtype, device: values(1, 3, 50, 64, dtype=dtype).to(device),
}


def outcome(kind: str, x: torch.Tensor, dtype: torch.dtype, weight: torch.Tensor, pull: torch.Tensor
            ) -> tuple[torch.Tensor, ...]:
    """Return output, gradient of x and gradient of the weight, computed in `dtype`."""
    module = Norm(x.shape[-1], kind).to(x.device)
    module.weight.data = weight.clone().to(dtype if dtype == torch.float64 else torch.float32)
    given = x.detach().to(dtype).as_strided(x.size(), x.stride()) if dtype == x.dtype else x.detach().to(dtype)
    given.requires_grad_()
    y = module(given)
    y.backward(pull.to(dtype))
    return y.detach(), given.grad, module.weight.grad


def definition(kind: str, x: torch.Tensor, weight: torch.Tensor, pull: torch.Tensor) -> tuple[torch.Tensor, ...]:
    wide, factor = x.detach().double().requires_grad_(), weight.double().requires_grad_()
    power = wide.var(-1, keepdim=True) if kind == "timm_1_0_3" else wide.square().mean(-1, keepdim=True)
    y = wide * torch.rsqrt(power + NORM_EPS) * factor
    return y.detach(), *torch.autograd.grad(y, (wide, factor), pull.double())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", NORMS)
def test_the_kernels_compute_what_the_definition_says(interpreted, monkeypatch, kind, dtype, layout) -> None:
    x = LAYOUTS[layout](dtype, "cpu")
    weight = values(1, x.shape[-1], dtype=torch.float32, seed=1)[0] * 100
    pull = values(*x.shape, dtype=dtype, seed=2)
    exact = definition(kind, x, weight, pull)
    ours = outcome(kind, x, dtype, weight, pull)
    monkeypatch.setattr(norm, "has_kernels", lambda _: False)
    reference = outcome(kind, x, dtype, weight, pull)
    for one, plain in zip(ours, reference, strict=True):
        assert (one.dtype, one.shape, one.stride()) == (plain.dtype, plain.shape, plain.stride())
    assert_near(ours, exact, ROUNDING[dtype])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", NORMS)
def test_on_a_gpu_the_kernels_compute_it_to_half_a_unit_and_the_same_bits_each_time(kind, dtype, layout) -> None:
    x = LAYOUTS[layout](dtype, "cuda")
    assert norm.has_kernels(x), "see the warning in the log"
    weight = values(1, x.shape[-1], dtype=torch.float32, seed=1)[0].cuda() * 100
    pull = values(*x.shape, dtype=dtype, seed=2).cuda()
    first, second = (outcome(kind, x, dtype, weight, pull) for _ in range(2))
    assert_near(first, definition(kind, x, weight, pull), min(ROUNDING[dtype], 2**-8))
    assert all(map(torch.equal, first, second))


def assert_near(ours: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...], rounding: float) -> None:
    """Compare output and gradient of x, which are rounded to their format, and the weight's, which is float32."""
    for one, wanted, unit in zip(ours, exact, (rounding, rounding, 1e-5), strict=True):
        apart = (one.double() - wanted).abs() - 1.01 * unit * wanted.abs()
        assert apart.max() <= 1e-5 * wanted.abs().max(), f"{apart.max()} of {wanted.abs().max()}"


def test_the_kernels_are_launched_once_forward_and_twice_backward(interpreted, monkeypatch) -> None:
    launched = []
    launch = norm_kernels.launch
    monkeypatch.setattr(norm_kernels, "launch", lambda name, *a, **k: (launched.append(name), launch(name, *a, **k)))
    outcome("timm_1_0_3", values(9, 64, dtype=torch.float32), torch.float32, torch.ones(64), torch.ones(9, 64))
    assert launched == ["scale_rows", "scale_rows_backward", "sum_partials"]


def test_the_sum_over_rows_is_the_same_in_each_run_and_of_bounded_parts(interpreted, monkeypatch) -> None:
    monkeypatch.setattr(norm_kernels, "MOST_PARTIALS", 3)
    monkeypatch.setattr(norm_kernels, "BLOCK", 256)
    x, pull = (values(50, 64, dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    first, second = (outcome("rms", x, x.dtype, torch.ones(64), pull) for _ in range(2))
    assert all(map(torch.equal, first, second))
    torch.testing.assert_close(first[2], definition("rms", x, torch.ones(64), pull)[2].float(), rtol=1e-5, atol=1e-4)


def test_a_gradient_in_any_layout(interpreted) -> None:
    x = values(3, 64, dtype=torch.float32)
    summed, across = (outcome("rms", x, x.dtype, torch.ones(64), pull)
                      for pull in (torch.ones(1, 1).expand(3, 64), torch.ones(64, 3).t()))
    assert all(map(torch.equal, summed, across))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rdtops.trainer.model import norm_triton

KERNELS = {"scale_rows": "*bf16 *fp32 *bf16 *fp32 fp32" + 9 * " i32",
           "scale_rows_backward": "*bf16 *bf16 *fp32 *fp32 *bf16 *fp32" + 13 * " i32",
           "sum_partials": "*fp32 *fp32 i32"}
for capability in 80, 90:
    for name, types in KERNELS.items():
        kernel = getattr(norm_triton, name)
        constants = {"WIDTH": 64, "COLUMNS": 64, "ROWS": 64, "CENTRED": True}
        constants = {key: constants[key] for key in kernel.arg_names if key in constants}
        signature = dict(zip(kernel.arg_names, types.split())) | dict.fromkeys(constants, "constexpr")
        assert len(signature) == len(kernel.arg_names)
        made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32),
                              options={"num_warps": 8})
        print(name, capability, len(made.asm["cubin"]) > 1000, made.metadata.shared)
"""


def test_the_kernels_compile_for_the_gpus_that_people_rent(tmp_path) -> None:
    """To machine code, with Triton's own ptxas: neither a GPU nor a C compiler is needed for that. In a process of its
    own, because the interpreter changes Triton for the process that it runs in."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False,
                          env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("True") == 6


def test_what_keeps_the_kernels_from_compiling_is_logged_once_with_what_to_install(monkeypatch, caplog) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    monkeypatch.setattr(norm_kernels, "launch", fails)
    norm_kernels._compiles.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [norm_kernels._compiles(torch.device("cpu")) for _ in range(3)] == [False] * 3
    norm_kernels._compiles.cache_clear()
    (record,) = caplog.records
    assert "C compiler" in record.getMessage()
    assert "apt install gcc python3." in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_cpu_asks_for_no_triton() -> None:
    assert not norm_kernels.are_usable(torch.device("cpu"))
    assert not norm.has_kernels(torch.ones(2, 64))


def test_a_rank_forgoes_the_kernels_that_another_cannot_compile(monkeypatch) -> None:
    device = torch.device("cuda", 0)
    monkeypatch.setattr(norm_kernels, "_compiles", lambda _: True)
    monkeypatch.setattr(norm_kernels, "_forgone", set())
    assert norm_kernels.are_usable(device)
    norm_kernels.forgo(device)
    assert not norm_kernels.are_usable(device)
