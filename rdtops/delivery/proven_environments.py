"""Proven environments: versions of the trainer's packages with which `inv drill environments` trains, and which of them
the driver and the Python of a host can run. Pure, but for the two files that rdtops.delivery.requirements reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rdtops.delivery import requirements
from rdtops.delivery.requirements import numbers
from rdtops.errors import RunError
from rdtops.ssh.hosts import Environment, Host

# NVIDIA's table: the oldest Linux driver of each CUDA
OLDEST_DRIVER = {10: 410, 11: 450, 12: 525, 13: 580}
WHEELS = {11: "cu118", 12: "cu126", 13: "cu130"}  # PyTorch's folders of builds for them
OLDEST_PYTHON = (3, 10)  # of the trainer
MIDDLE = {"torch": "2.6.0", "transformers": "4.51.3", "accelerate": "1.2.1", "diffusers": "0.32.2", "numpy": "1.26.4",
          "h5py": "3.12.1", "pillow": "11.0.0", "safetensors": "0.8.0", "sentencepiece": "0.2.0"}
# what torch and diffusers of that time need beside them: RDT's authors had them, pip would take newer ones
BESIDE_OLDEST = {"huggingface_hub": "0.23.5"}
LAST_PYTHON = {"eval": (3, 11)}  # of an extra: mujoco 2.3.7 has no newer wheels
_BUILD = re.compile(r"[+/](cpu|cu\d+)\b")  # of torch==2.8.0+cu126, and of an index of PyTorch's


@dataclass(frozen=True)
class ProvenEnvironment:
    """Versions that train together. `cuda`: what PyPI's torch of it was built for."""

    name: str
    pins: Mapping[str, str]
    cuda: int
    pythons: tuple[tuple[int, int], tuple[int, int]]  # the first and the last for which these versions have wheels

    @property
    def torch(self) -> str:
        return self.pins["torch"]

    @property
    def constraints(self) -> tuple[str, ...]:
        return tuple(f"{package}=={version}" for package, version in self.pins.items())

    def has_wheels_for(self, python: str) -> bool:
        return not python or self.pythons[0] <= numbers(python)[:2] <= self.pythons[1]


def proven() -> tuple[ProvenEnvironment, ...]:
    """Return them, newest first. The oldest has the floors of pyproject.toml."""
    oldest = {**requirements.lowest(requirements.of_trainer()), **BESIDE_OLDEST}
    return (ProvenEnvironment("newest", requirements.pins(), 13, ((3, 11), (3, 99))),
            ProvenEnvironment("middle", MIDDLE, 12, ((3, 10), (3, 12))),
            ProvenEnvironment("oldest", oldest, 12, ((3, 10), (3, 11))))


@dataclass(frozen=True)
class Chosen:
    """The environment for a host. `why`: why it is not the newest; '' where it is."""

    environment: ProvenEnvironment
    why: str = ""


def choose(host: Host, driver: str, python: str = "") -> Chosen:
    """Return the newest proven environment that a host can run; what hosts.toml says of torch comes first. `driver` and
    `python` are versions, '' for none or one that is not known. Raise RunError where no environment fits."""
    _require_extras(host, python)
    environments, cuda = proven(), declared_cuda(host.environment)
    newest = environments[0]
    if declared := declared_torch(host.environment):
        version = numbers(declared.partition("==")[2])
        return Chosen(next((each for each in environments if numbers(each.torch) == version), newest))
    needed = {each.name: each.cuda if cuda is None else cuda for each in environments}
    fitting = [each for each in environments if runs(driver, needed[each.name])]
    if not fitting:
        raise _no_torch_for(host, driver, environments[-1], needed[environments[-1].name])
    for each in fitting:
        if each.has_wheels_for(python):
            return Chosen(each, "" if each is newest else _reason(newest, needed[newest.name], driver))
    raise _no_wheels_for(host, python, fitting[0], driver)


def runs(driver: str, cuda: int) -> bool:
    """Tell whether a driver runs programs that were built for a CUDA; without a driver there is nothing to run."""
    return not driver or not cuda or numbers(driver)[0] >= OLDEST_DRIVER[cuda]


def torch_build(driver: str) -> str:
    """Return PyTorch's newest build for a driver; '' for one that is not known, or too old for any."""
    fits = [cuda for cuda in WHEELS if driver and runs(driver, cuda)]
    return WHEELS[max(fits)] if fits else ""


def declared_cuda(declared: Environment) -> int | None:
    """Return the CUDA of the builds that the declared indexes hold: 12 of .../whl/cu126, 0 of .../whl/cpu; None where
    they do not say."""
    for index in (declared.index_url or "", *declared.extra_index_urls):
        if found := _BUILD.search(index):
            return int(found[1][2:-1]) if found[1] != "cpu" else 0
    return None


def declared_torch(declared: Environment) -> str:
    """Return the requirement for torch that hosts.toml declares; '' where it declares none."""
    return next((line for line in declared.requirements if requirements.package_of(line) == "torch"), "")


# --- reasons ---

def _reason(newest: ProvenEnvironment, cuda: int, driver: str) -> str:
    """Return why it is not the newest one: the driver, or else the Python."""
    if runs(driver, cuda):
        return f"the packages of torch {newest.torch} need Python {_dotted(newest.pythons[0])} or newer"
    return (f"torch {newest.torch} was built for CUDA {cuda}, which needs driver {OLDEST_DRIVER[cuda]} or newer; "
            f"the host has {driver}")


def _require_extras(host: Host, python: str) -> None:
    """Raise RunError for an extra that has no packages for the host's Python."""
    for extra in host.environment.extras:
        last = LAST_PYTHON.get(extra)
        if python and last and numbers(python)[:2] > last:
            raise RunError(f"{host.name}: the extra {extra} has packages for Python up to {_dotted(last)}, and the "
                           f"host has {python}; nothing was downloaded",
                           remedy=f'python = "python{_dotted(last)}" {_another_python(host)}; or no extra {extra}')


def _another_python(host: Host) -> str:
    return f"under [hosts.{host.name}] in hosts.toml: a Python that is on the host"


def _no_torch_for(host: Host, driver: str, oldest: ProvenEnvironment, cuda: int) -> RunError:
    newer = f"ask the administrator of {host.name} for driver {OLDEST_DRIVER[cuda]} or newer"
    if build := torch_build(driver):  # torch of its time, since PyTorch has no newer one for CUDA 11
        index = f'extra_index_urls = ["https://download.pytorch.org/whl/{build}"]'
        version = f'requirements = ["torch=={MIDDLE["torch"]}+{build}"], ' if build == WHEELS[11] else ""
        newer = f"{version}{index} under [hosts.{host.name}.environment] in hosts.toml; or {newer}"
    return RunError(f"{host.name}: the driver {driver} is too old for CUDA {cuda}, for which torch {oldest.torch} was "
                    f"built: it needs {OLDEST_DRIVER[cuda]} or newer; nothing was downloaded", remedy=newer)


def _no_wheels_for(host: Host, python: str, fitting: ProvenEnvironment, driver: str) -> RunError:
    edit = _another_python(host)
    if numbers(python)[:2] < OLDEST_PYTHON:
        return RunError(f"{host.name}: Python {python}; the trainer needs {_dotted(OLDEST_PYTHON)} or newer",
                        remedy=f'python = "python3.11" {edit}')
    first, last = map(_dotted, fitting.pythons)
    return RunError(f"{host.name}: torch {fitting.torch}, the newest for the driver {driver}, has packages for Python "
                    f"{first} to {last}, and the host has {python}; nothing was downloaded",
                    remedy=f'python = "python{last}" {edit}')


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
