"""nvidia-smi: list the GPUs of a machine, and those that CUDA_VISIBLE_DEVICES selects. Standard library, Python 3.8:
sent with host programs.

A row is a GPU when it has an index and a UUID; a value that its driver does not report ([N/A], ERR!) is unknown. Every
other line (a warning about an infoROM, a GPU that is lost or requires a reset) is no GPU and is quoted to people.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rdtops.hostlib import fields

GPU, APPS = "gpu", "compute-apps"  # kinds of queries
IDENTITY = ("index", "uuid")  # of every query for GPUs
DRIVER = ("driver_version",)  # the columns of a query that driver() reads
LIST = ("nvidia-smi", "-L")  # the command line that also lists MIG instances
READINGS = {"memory_used_mib": "memory.used", "memory_total_mib": "memory.total",  # our name -> its field
            "utilization_percent": "utilization.gpu", "temperature_c": "temperature.gpu", "power_w": "power.draw"}
APP_FIELDS = ("gpu_uuid", "pid", "process_name", "used_memory")
VISIBLE = "CUDA_VISIBLE_DEVICES"
LIMIT_S = 10.0  # a broken driver hangs for ever
LOST = ("is lost", "requires reset", "Unable to determine")  # of a GPU that cannot be used
QUOTED_LETTERS = 200
_UUID = re.compile(r"(GPU-)?[0-9a-fA-F-]{8,}")  # a Jetson's has no prefix
_VERSION = re.compile(r"^\d{1,5}(\.\d{1,5}){0,3}$", re.MULTILINE)
_LISTED = re.compile(r"\(UUID: ([^)\s]+)\)")


@dataclass(frozen=True)
class Gpu:
    index: int | None  # None for a MIG instance, which is not listed
    uuid: str
    told: Mapping[str, str]  # field -> the text of nvidia-smi

    def number(self, name: str) -> float | None:
        """Return a number of nvidia-smi; None where the driver does not report it."""
        return number(self.told.get(name, ""))


@dataclass(frozen=True)
class GpuProcess:
    """A process that has memory on a GPU. In a container none are listed: the driver sees other process ids."""

    gpu_uuid: str
    pid: int
    name: str
    memory_mib: int | None


@dataclass(frozen=True)
class Listing:
    gpus: tuple[Gpu, ...] = ()
    odd: tuple[str, ...] = ()  # lines that are no GPU

    @property
    def warning(self) -> str:
        """The other lines of nvidia-smi, for people; '' where every line is a GPU."""
        return "nvidia-smi also says: " + "; ".join(repr(line) for line in self.odd[:4]) if self.odd else ""

    @property
    def problem(self) -> str:
        """Why GPUs cannot be used; '' where all that are listed can."""
        lost = [line for line in self.odd if not self.gpus or any(word in line for word in LOST)]
        return "; ".join(lost)


def query(columns: Sequence[str], what: str = GPU) -> tuple[str, ...]:
    """Return the command line of a query for some columns."""
    return ("nvidia-smi", f"--query-{what}={','.join(columns)}", "--format=csv,noheader,nounits")


def parse(columns: Sequence[str], text: str) -> Listing:
    """Parse the output of a query for GPUs; `columns` begin with IDENTITY."""
    gpus: list[Gpu] = []
    odd: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        words = [word.strip() for word in line.split(",")]
        index = fields.decimal(words[0])
        if len(words) == len(columns) and index is not None and _UUID.fullmatch(words[1]) and not any(
                word in line for word in LOST):
            gpus.append(Gpu(index, words[1], dict(zip(columns, words))))
        else:
            odd.append(line[:QUOTED_LETTERS])
    return Listing(tuple(gpus), tuple(odd))


def driver(text: str) -> str:
    """Parse the output of a query for DRIVER: the version, the same for every GPU; '' where there is none. There may be
    lines about a lost GPU."""
    version = _VERSION.search(text)
    return version[0] if version else ""


def parse_list(text: str) -> dict[str, tuple[str, ...]]:
    """Parse the output of LIST: the UUIDs of the MIG instances of each GPU, by its own. Empty where none is listed."""
    found: dict[str, tuple[str, ...]] = {}
    for uuid in _LISTED.findall(text):
        if uuid.startswith("MIG-") and found:
            last = list(found)[-1]
            found[last] = (*found[last], uuid)
        else:
            found[uuid] = ()
    return found


def parse_apps(text: str) -> tuple[GpuProcess, ...]:
    """Parse the output of a query for APP_FIELDS; a process name may contain commas."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        pid = fields.decimal(words[1]) if len(words) >= len(APP_FIELDS) else None
        if pid is not None:
            memory = number(words[-1])
            found.append(GpuProcess(words[0], pid, ",".join(line.split(",")[2:-1]).strip(),
                                    None if memory is None else int(memory)))
    return tuple(found)


def gpus(columns: Sequence[str] = IDENTITY) -> Listing:
    """Return the GPUs of this machine; none without nvidia-smi."""
    return parse(columns, output(query(columns)))


def processes() -> tuple[GpuProcess, ...]:
    """Return the processes on the GPUs of this machine."""
    return parse_apps(output(query(APP_FIELDS, APPS)))


def output(words: Sequence[str]) -> str:
    """Return the output of nvidia-smi, whatever its exit code: it lists the other GPUs when one is lost."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {LIMIT_S:g} s"
    except OSError:
        return ""
    text = done.stdout.decode("utf-8", "replace")
    return text if text.strip() or not done.returncode else f"exit {done.returncode}"


def named(variable: str) -> list[str]:
    """Return the entries of CUDA_VISIBLE_DEVICES as CUDA reads them: it ignores all after an invalid or repeated one.

    >>> named("3,5,7"), named("4,-1,5"), named(" 0 , MIG-8932f937 "), named("")
    (['3', '5', '7'], ['4'], ['0', 'MIG-8932f937'], [])
    """
    found: list[str] = []
    for entry in (part.strip() for part in variable.split(",")):
        if not entry or entry.startswith("-") or entry in found:
            break
        found.append(entry)
    return found


def requested(count: int, variable: str | None) -> list[str]:
    """Return the GPUs of processes 0, 1, 2 … as CUDA counts them: those of CUDA_VISIBLE_DEVICES, else 0, 1, 2 …

    >>> requested(2, "3,5,7"), requested(2, None), requested(2, "4,-1,5")
    (['3', '5'], ['0', '1'], ['4'])
    """
    return [str(number) for number in range(count)] if variable is None else named(variable)[:count]


def visible(listed: Iterable[Gpu], variable: str | None,
            instances: Iterable[str] | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES selects, in its order; an entry that names none ends it. Each MIG
    instance counts as one; `instances` are the UUIDs of those that exist, None where that is not known."""
    there, chosen = list(listed), []
    known = None if instances is None else list(instances)
    if variable is None:
        return tuple(there)
    for entry in named(variable):
        gpu = next((gpu for gpu in there if is_named(gpu.uuid, gpu.index, entry)), None)
        if gpu is None and entry.startswith("MIG-") and (known is None or any(mig.startswith(entry) for mig in known)):
            gpu = Gpu(None, entry, {})
        if gpu is None:
            break
        chosen.append(gpu)
    return tuple(chosen)


def is_named(uuid: str, index: int | None, entry: str) -> bool:
    """Return whether an entry names a GPU, by its index or by the beginning of its UUID."""
    return entry == str(index) or (entry.startswith("GPU-") and uuid.startswith(entry))


def number(text: str) -> float | None:
    """Return a number; None for [N/A], ERR! and anything else."""
    try:
        value = fields.number(float(text))
    except ValueError:
        return None
    return value if value is None or not float(value).is_integer() else int(value)
