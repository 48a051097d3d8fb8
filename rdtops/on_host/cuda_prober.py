"""Host program: what torch will see of the GPUs, asked of the driver's library as torch does it, without the seconds
that importing torch takes. Runs in the environment's Python, so that its torch is the one that is meant.

Where the driver does not answer well, torch itself is asked: its words are the ones that a training would end with.

Answer (one JSON line): {"available": bool, "count": int, "cuda": str or null (a build for CPUs), "bf16": bool}
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import re
import sys

MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
AMPERE = 8  # the first that calculates with bf16


def built_for() -> str | None:
    """Return the CUDA of the installed torch, as its version.py has it; None for a build for CPUs. Raise ValueError
    where that cannot be read, and for a build for ROCm."""
    found = importlib.util.find_spec("torch")
    folders = found.submodule_search_locations if found else None
    if not folders:
        raise ValueError("no torch")
    with open(os.path.join(folders[0], "version.py"), encoding="utf-8") as file:
        versions = dict(re.findall(r"^(cuda|hip)\b[^=\n]*= (?:'([\w.-]+)'|None)", file.read(), re.MULTILINE))
    if "cuda" not in versions or versions.get("hip"):
        raise ValueError("not built for CUDA")
    return versions["cuda"] or None


def asked_of_driver(cuda: str) -> dict[str, object]:
    """Raise OSError where the library is missing or fails, or is of an older major version than torch's CUDA."""
    driver = ctypes.CDLL("libcuda.so.1")

    def number(function: str, *arguments: int) -> int:
        value = ctypes.c_int()
        code = getattr(driver, function)(ctypes.byref(value), *arguments)
        if code:
            raise OSError(f"{function}: error {code}")
        return value.value

    if driver.cuInit(0):
        raise OSError("cuInit failed")
    count = number("cuDeviceGetCount")
    if not count or number("cuDriverGetVersion") // 1000 < int(cuda.split(".")[0]):
        raise OSError("no GPU for this CUDA")
    majors = [number("cuDeviceGetAttribute", MAJOR, device) for device in range(count)]
    return {"available": True, "count": count, "cuda": cuda, "bf16": min(majors) >= AMPERE}


def asked_of_torch() -> dict[str, object]:
    torch = importlib.import_module("torch")
    there = torch.cuda.is_available()
    majors = [torch.cuda.get_device_capability(device)[0] for device in range(torch.cuda.device_count())]
    return {"available": there, "count": len(majors), "cuda": torch.version.cuda,
            "bf16": there and min(majors) >= AMPERE}


def main() -> None:
    try:
        cuda = built_for()
        answer = ({"available": False, "count": 0, "cuda": None, "bf16": False} if cuda is None
                  else asked_of_driver(cuda))
    except (OSError, ValueError, AttributeError, ImportError):
        answer = asked_of_torch()
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
