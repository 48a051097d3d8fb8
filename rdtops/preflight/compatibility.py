"""Compatibility: versions of the trainer's packages that are known not to work, alone or together. Pure.

The oldest versions that are known to work are the floors in pyproject.toml; `inv drill environments` proves them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rdtops.contract.config import FSDP2_TORCH
from rdtops.delivery.proven_environments import torch_build
from rdtops.delivery.requirements import numbers
from rdtops.ssh.command import quoted

Installed = Mapping[str, str | None]  # a package that is not installed has the version None


@dataclass(frozen=True)
class Bounds:
    """The versions of a package from `first` on, before `end`; without one of them, without that bound."""

    name: str
    first: str = ""
    end: str = ""

    def has(self, installed: Installed) -> bool:
        version = installed.get(self.name)
        return bool(version) and (not self.first or numbers(str(version)) >= numbers(self.first)) and (
            not self.end or numbers(str(version)) < numbers(self.end))


@dataclass(frozen=True)
class Clash:
    """Versions that do not work together. `requirement` is what pip is to install instead."""

    versions: tuple[Bounds, ...]
    why: str
    requirement: str
    setting: str = ""  # of the training, with which only they clash

    def words(self, installed: Installed) -> str:
        return f"{' with '.join(f'{bounds.name} {installed[bounds.name]}' for bounds in self.versions)}: {self.why}"


KNOWN = (
    Clash((Bounds("torch", end="2.1"),), "its load_state_dict cannot assign", "torch>=2.1.0"),
    Clash((Bounds("transformers", end="4.37"),), "it has no SigLIP", "transformers>=4.41.0"),
    Clash((Bounds("torch", end="2.3"), Bounds("numpy", first="2")), "this torch was built for numpy 1", "numpy<2"),
    Clash((Bounds("torch", end="2.4"), Bounds("transformers", first="5")), "it has no models with this torch",
          "transformers<5"),
    Clash((Bounds("diffusers", end="0.28"), Bounds("huggingface-hub", first="0.26")),
          "diffusers imports cached_download, which is gone", "huggingface_hub<0.26"),
    Clash((Bounds("torch", end=FSDP2_TORCH),), f"sharding = fsdp2 needs {FSDP2_TORCH}", f"torch>={FSDP2_TORCH}",
          "sharding=fsdp2"),
)
PACKAGES = tuple(dict.fromkeys(bounds.name for clash in KNOWN for bounds in clash.versions))


def clashes(installed: Installed, settings: tuple[str, ...] = ()) -> Iterator[Clash]:
    """Yield what is known not to work. `settings` are those of the training, as `key=value`."""
    for clash in KNOWN:
        if all(bounds.has(installed) for bounds in clash.versions) and (not clash.setting or clash.setting in settings):
            yield clash


def install_line(pip: str, requirements: list[str], driver: str = "") -> str:
    """Return the line that installs them; torch comes in the build for the driver, where that is known."""
    torch = [requirement for requirement in requirements if Bounds("torch").name == re.split(r"[<>=]", requirement)[0]]
    others = [requirement for requirement in requirements if requirement not in torch]
    index = f" --index-url https://download.pytorch.org/whl/{build}" if (build := torch_build(driver)) else ""
    lines = [f"{pip} {_quoted(torch)}{index}"] if torch else []
    return " && ".join([*lines, *([f"{pip} {_quoted(others)}"] if others else [])])


def beside_torch(package: str, torch: str) -> str:
    """Return the requirement for a package that is built for one torch each; '' for others. torchvision 0.x comes with
    torch 2.(x - 15), and torchaudio has torch's own number."""
    found = (*numbers(torch), 0)
    if found[0] != 2 or package not in ("torchvision", "torchaudio"):
        return ""
    return f"torchvision==0.{found[1] + 15}.*" if package == "torchvision" else f"torchaudio==2.{found[1]}.*"


def _quoted(requirements: list[str]) -> str:
    return " ".join(quoted(requirement) for requirement in requirements)
