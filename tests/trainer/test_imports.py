"""The check of imports: it tries what a training imports, and says which package beside torch breaks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdtops.preflight import compatibility
from rdtops.trainer import imports

REPOSITORY = Path(__file__).parents[2]
# torchvision/_meta_registrations.py of a torchvision that was built for another torch
REAL = ('import torch\n\n@torch.library.register_fake("torchvision::nms")\n'
        'def meta_nms(dets, scores, iou_threshold):\n    return dets\n')
UNDEFINED = "raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationE')\n"
KILLED = "import os, signal\nos.kill(os.getpid(), signal.{})\n"


class Environment:
    """Packages beside those of this Python, as in the site-packages of an account."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site-packages"
        self.folder.mkdir()

    def has(self, package: str, text: str, version: str = "1.0") -> None:
        (self.folder / package).mkdir()
        (self.folder / package / "__init__.py").write_text(text)
        info = self.folder / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(package + "\n")

    def run(self, program: str) -> dict:
        done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{self.folder}"}, check=True, timeout=120)
        return json.loads(done.stdout.strip().rpartition("\n")[2])

    def tried(self, *names: str, limit_s: float = 60) -> dict:
        return self.run(f"import json; from rdtops.trainer import imports; "
                        f"print(json.dumps(imports.tried({list(names)}, {limit_s}).failed))")


@pytest.fixture
def environment(tmp_path) -> Environment:
    return Environment(tmp_path)


BROKEN = {
    "flash_attn": (UNDEFINED, "ImportError: flash_attn_2_cuda.so: undefined symbol"),
    "apex": ("raise RuntimeError('built for CUDA 11')\n", "RuntimeError: built for CUDA 11"),
    "deepspeed": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "peft": ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
    "jax": ("def f(:\n", "SyntaxError"),
    "bitsandbytes": (KILLED.format("SIGSEGV"), "SIGSEGV (exit 139): a native library crashed"),
    "tensorflow": (KILLED.format("SIGILL"), "SIGILL (exit 132): a native library has instructions that this processor"),
    "xformers": (KILLED.format("SIGABRT"), "SIGABRT (exit 134): a native library crashed"),
    "torchaudio": ("import ctypes\nctypes.string_at(0)\n", "SIGSEGV (exit 139): a native library crashed"),
}


def test_a_broken_neighbour_is_named_with_its_reason_and_version_and_hides_no_other(environment):
    """transformers and accelerate import what they find, and wrap its error into one of their own."""
    names = ["json"]
    for neighbour, (breaks, _) in BROKEN.items():
        environment.has(neighbour, breaks, "2.4")
        environment.has(f"with_{neighbour}", f"try:\n    import {neighbour}\nexcept Exception as error:\n"
                                             "    raise ImportError('Failed, because of the above') from error\n")
        names += [f"with_{neighbour}:Model", "csv"]
    found = environment.tried(*names)
    assert found.keys() == {f"with_{neighbour}:Model" for neighbour in BROKEN}
    for neighbour, (_, why) in BROKEN.items():
        facts = found[f"with_{neighbour}:Model"]
        assert facts["why"].startswith(why), facts
        assert (facts["package"], facts["versions"][neighbour]) == (neighbour, "2.4")


def test_a_neighbour_that_hangs_is_named(environment):
    environment.has("neighbour", "import time\ntime.sleep(60)\n")
    found = environment.tried("neighbour", "json", limit_s=2)
    assert found == {"neighbour": {**found["neighbour"], "why": "it takes too long", "package": "neighbour"}}


def test_a_torchvision_of_another_torch_is_found_where_transformers_imports_it(environment):
    environment.has("torchvision", REAL, "0.15.0")
    found = environment.tried("transformers.models.siglip.modeling_siglip:SiglipVisionModel")
    (broken,) = found.values()
    assert broken["why"] == "RuntimeError: operator torchvision::nms does not exist"
    assert (broken["package"], broken["versions"]["torchvision"]) == ("torchvision", "0.15.0")
    assert broken["versions"]["torch"]


@pytest.mark.parametrize(("package", "torch", "fits"), [
    ("torchvision", "2.1.0", "torchvision==0.16.*"), ("torchvision", "2.8.0+cu126", "torchvision==0.23.*"),
    ("torchvision", "2.13.0+cpu", "torchvision==0.28.*"), ("torchaudio", "2.6.0", "torchaudio==2.6.*"),
    ("flash_attn", "2.6.0", ""), ("torchvision", "", ""), ("torchvision", "1.13.1", "")])
def test_the_version_beside_a_torch_is_known(package, torch, fits):
    assert compatibility.beside_torch(package, torch) == fits


def test_the_list_is_what_the_trainer_imports_under_its_settings():
    usual = imports.wanted()
    assert usual[0] == "torch"
    assert {"transformers.models.siglip.modeling_siglip:SiglipVisionModel", "h5py", "transformers:AutoTokenizer",
            "transformers.models.t5.modeling_t5:T5EncoderModel", "rdtops.trainer.train"} <= set(usual)
    never = ("accelerate", "wandb", "torch.distributed.tensor", "mujoco")
    assert not [name for name in usual if name.startswith(never)]
    assert {"wandb", "accelerate:PartialState"} <= set(imports.wanted(["wandb"]))
    assert "wandb" not in imports.wanted(["tensorboard"])
    assert "torch.distributed.fsdp:fully_shard" in imports.wanted(["fsdp2", "off"])
