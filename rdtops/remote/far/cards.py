"""GPUs as nvidia-smi shows them, and which of them a process uses."""

from __future__ import annotations

import subprocess
from typing import Any, Iterable

FIELDS = ("index", "uuid", "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu", "power.draw")
LIMIT_S = 8.0  # a broken driver hangs for ever


def all_of_them() -> list[dict[str, Any]]:
    """A row for each GPU, numbers where the driver knows them; none without nvidia-smi or with a broken one."""
    return [{"index": number(row[0]), "uuid": row[1], "name": row[2], "memory_used_mib": number(row[3]),
             "memory_total_mib": number(row[4]), "utilization_percent": number(row[5]),
             "temperature_c": number(row[6]), "power_w": number(row[7])}
            for row in query("gpu", FIELDS) if len(row) == len(FIELDS)]


def of_processes(pids: Iterable[int]) -> list[str]:
    """UUIDs of the GPUs that these processes have memory on. None inside a container, where the driver sees other
    process ids."""
    wanted = {str(pid) for pid in pids}
    return sorted({row[1] for row in query("compute-apps", ("pid", "gpu_uuid")) if len(row) == 2 and row[0] in wanted})


def visible(cards: list[dict[str, Any]], variable: str | None, count: int) -> list[str]:
    """UUIDs of the first `count` that CUDA_VISIBLE_DEVICES leaves; as in CUDA, an entry that names none ends it."""
    if variable is None:
        return [card["uuid"] for card in cards][:count]
    chosen = []
    for entry in (part.strip() for part in variable.split(",")):
        named = [c["uuid"] for c in cards if entry == str(c["index"]) or
                 (entry.startswith("GPU-") and c["uuid"].startswith(entry))]
        if not named:
            break
        chosen.append(named[0])
    return chosen[:count]


def query(what: str, fields: tuple[str, ...]) -> list[list[str]]:
    try:
        said = subprocess.run(["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=LIMIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    if said.returncode:
        return []
    return [[part.strip() for part in line.split(",")] for line in said.stdout.decode("utf-8", "replace").splitlines()]


def number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else value
