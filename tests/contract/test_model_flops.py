from __future__ import annotations

import pytest

from rdtops.contract.model_flops import encoding_flops, peak_flops_s


@pytest.mark.parametrize(("name", "precision", "tflop_per_s"), [
    ("NVIDIA A100-SXM4-80GB", "bf16", 312), ("NVIDIA A800-SXM4-80GB", "fp16", 312),
    ("NVIDIA H100 80GB HBM3", "bf16", 989), ("NVIDIA H100 PCIe", "bf16", 756), ("NVIDIA H800", "bf16", 989),
    ("NVIDIA H200", "bf16", 989), ("NVIDIA H20", "bf16", 148), ("NVIDIA L40S", "bf16", 362),
    ("NVIDIA GeForce RTX 4090", "bf16", 165), ("NVIDIA GeForce RTX 4090 D", "bf16", 147),
    ("NVIDIA GeForce RTX 3090", "bf16", 71), ("Tesla V100-SXM2-32GB", "fp16", 125),
    ("Tesla V100-SXM2-32GB", "bf16", None),  # it has none
    ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", "bf16", None), ("NVIDIA A800-SXM4-80GB", "no", None),
    ("NVIDIA RTX 9999", "bf16", None), ("", "bf16", None)])
def test_the_peak_of_a_gpu_is_known_by_the_words_of_its_name(name, precision, tflop_per_s) -> None:
    found = peak_flops_s(name, precision)
    assert found == (None if tflop_per_s is None else tflop_per_s * 1e12)


def test_an_encoder_that_is_no_siglip_has_no_known_flops() -> None:
    assert encoding_flops("small", 4) is None
    assert encoding_flops("rdt-1b", 8) == 2 * encoding_flops("rdt-170m", 4)
