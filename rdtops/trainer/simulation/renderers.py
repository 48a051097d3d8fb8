"""Renderers: which of MuJoCo's renderers without a screen can draw on this machine, and on which device.

`egl` draws on a GPU, or with Mesa on the CPU; `osmesa` draws on the CPU. That a library is installed says little: it
may have no device, crash, hang, or draw nothing but black. So each is tried on a small scene, in a process of its own:

    python -m rdtops.trainer.simulation.renderers draw egl 0

EGL counts its devices otherwise than CUDA does, and knows nothing of CUDA_VISIBLE_DEVICES. The two are matched by the
address of the GPU on the PCI bus.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rdtops
from rdtops.contract import exit_codes
from rdtops.errors import SimulatorError
from rdtops.hostlib.fields import loads

GL, EGL_DEVICE = "MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID"
KINDS = ("egl", "osmesa")  # in the order in which they are tried
LIMIT_S = 180.0  # for one of them to draw a small scene, which takes a second; a driver that takes longer hangs
INSTALL = ("apt-get install libegl1 libgl1-mesa-dri libosmesa6   # without root: conda install -c conda-forge "
           "'mesalib<25.1' in the environment, which brings osmesa")
SCENE = ('<mujoco><visual><headlight ambient="1 1 1"/></visual><worldbody>'
         '<camera name="above" pos="0 0 2"/><geom type="box" size="1 1 .1" rgba="1 0 0 1"/></worldbody></mujoco>')
EDGE = 32  # pixels of the small scene
# numbers of EGL and of its extensions EXT_device_query, EXT_device_drm and NV_device_cuda
_EXTENSIONS, _DRM_FILE, _CUDA_DEVICE = 0x3055, 0x3233, 0x323A
_MOST_DEVICES = 32


@dataclass(frozen=True)
class Device:
    """A device of EGL. `bus`: its address on the PCI bus, in lower case; '' where it has none or does not tell."""

    number: int
    bus: str = ""
    is_software: bool = False


@dataclass(frozen=True)
class MujocoRenderer:
    """A renderer that drew. `device`: the number of EGL's device; None with osmesa."""

    kind: str
    device: int | None
    name: str  # as OpenGL tells it: llvmpipe (LLVM 15.0.6, 256 bits), NVIDIA A100-SXM4-80GB/PCIe/SSE2
    failed: Mapping[str, str] = field(default_factory=dict)  # the renderers that were tried before -> why not

    def words(self) -> str:
        where = f"egl, device {self.device}" if self.kind == "egl" else self.kind
        return f"{where} ({self.name})" + "".join(f"; {kind} does not work: {why}" for kind, why in self.failed.items())

    def select(self, environment: Any) -> None:
        """Set the variables by which MuJoCo and robosuite choose this renderer."""
        environment[GL] = environment["PYOPENGL_PLATFORM"] = self.kind
        environment.pop(EGL_DEVICE, None)
        if self.device is not None:
            environment[EGL_DEVICE] = str(self.device)


def choose(gpu: int = 0, environment: Mapping[str, str] = os.environ) -> MujocoRenderer:
    """Return the first renderer that draws. MUJOCO_GL and MUJOCO_EGL_DEVICE_ID are obeyed. `gpu`: the number of the GPU
    in CUDA's count, on which the policy computes. Raise SimulatorError with what each of them said."""
    given = environment.get(GL, "").strip().lower()
    if given and given not in KINDS:
        raise SimulatorError(f"{GL}={given} cannot draw here: without a screen it must be {' or '.join(KINDS)}",
                             remedy=f"unset {GL}   # or {GL} = \"egl\" in env of [hosts.X] of hosts.toml")
    failed: dict[str, str] = {}
    for kind in (given,) if given else KINDS:
        try:
            return _egl(gpu, environment, failed) if kind == "egl" else _drawn("osmesa", None, environment, failed)
        except SimulatorError as error:
            failed[kind] = error.message
    chosen = f" ({GL}={given})" if given else ""
    raise SimulatorError(f"no renderer draws in {sys.executable}{chosen}: "
                         + "; ".join(f"{kind}: {why}" for kind, why in failed.items()), remedy=INSTALL)


def in_order(devices: Sequence[Device], bus: str) -> list[Device]:
    """Sort EGL's devices: the GPU at `bus`, then those that do not tell their address, then those on the CPU, and in
    the end other GPUs, which may be somebody else's. With no `bus` they stay in EGL's order."""
    if not bus:
        return list(devices)
    return sorted(devices, key=lambda device: (device.bus != bus, bool(device.bus), device.is_software, device.number))


def _egl(gpu: int, environment: Mapping[str, str], failed: Mapping[str, str]) -> MujocoRenderer:
    given = environment.get(EGL_DEVICE, "").strip()
    if given and not given.isdigit():
        raise SimulatorError(f"{EGL_DEVICE}={given} is not a number of EGL's devices")
    devices = [Device(int(given))] if given else in_order(_devices(environment), _bus_of(gpu, environment))
    if not devices:
        raise SimulatorError("EGL has no device: no driver of a GPU, and no Mesa")
    problems = []
    for device in devices:
        try:
            return _drawn("egl", device.number, environment, failed)
        except SimulatorError as error:
            problems.append(f"device {device.number}: {error.message}")
    raise SimulatorError("; ".join(dict.fromkeys(problems)))


def _drawn(kind: str, device: int | None, environment: Mapping[str, str], failed: Mapping[str, str]) -> MujocoRenderer:
    """Return the renderer once it has drawn the small scene. Raise SimulatorError."""
    found = MujocoRenderer(kind, device, "", dict(failed))
    chosen = dict(environment)
    found.select(chosen)
    name = _asked(["draw"], chosen)
    return MujocoRenderer(kind, device, str(name), dict(failed))


def _devices(environment: Mapping[str, str]) -> list[Device]:
    """Return EGL's devices. Their GPUs are looked up among all, so CUDA_VISIBLE_DEVICES must not hide any."""
    every = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    return [Device(**found) for found in _asked(["devices"], {**every, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})]


def _bus_of(gpu: int, environment: Mapping[str, str]) -> str:
    """Return the address of a GPU as CUDA counts them in this environment; '' where there is none."""
    with contextlib.suppress(SimulatorError):
        return str(_asked(["bus", str(gpu)], environment))
    return ""


def _asked(words: Sequence[str], environment: Mapping[str, str]) -> Any:
    """Run this module in a process of its own and return its JSON. Raise SimulatorError with its last words."""
    root = str(Path(rdtops.__file__).parents[1])
    try:
        done = subprocess.run([sys.executable, "-m", __name__ if __name__ != "__main__" else __spec__.name, *words],
                              env={**environment, "PYTHONPATH": root}, stdin=subprocess.DEVNULL, capture_output=True,
                              encoding="utf-8", errors="replace", timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise SimulatorError(f"it did not draw within {LIMIT_S:g} s") from None
    try:
        return loads(done.stdout.strip().rpartition("\n")[2]) if not done.returncode else _refuse(done)
    except ValueError:
        return _refuse(done)


def _refuse(done: subprocess.CompletedProcess[str]) -> Any:
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    died = exit_codes.words(done.returncode) if exit_codes.is_signal(done.returncode) else ""
    raise SimulatorError(died or (said[-1][:300] if said else exit_codes.words(done.returncode)))


# in a process of its own ---------------------------------------------------------------------------------------------

def main(arguments: Sequence[str]) -> int:
    question, *words = arguments
    if question == "devices":
        answer: Any = [asdict(device) for device in devices_of_egl()]
    elif question == "bus":
        answer = bus_of_cuda(int(words[0]))
    else:
        answer = draw()
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # some drivers crash in their own tear-down


def draw() -> str:
    """Draw the small scene with the renderer of MUJOCO_GL. Return OpenGL's name of the device. Raise RuntimeError where
    the box in it is not red."""
    if os.environ[GL] == "osmesa" and not _library("OSMesa"):
        raise RuntimeError("libOSMesa is not installed")
    import mujoco
    import numpy as np

    opengl = importlib.import_module("OpenGL.GL")  # it comes with MuJoCo

    context = mujoco.GLContext(EDGE, EDGE)
    context.make_current()
    model = mujoco.MjModel.from_xml_string(SCENE)
    data, scene, camera = mujoco.MjData(model), mujoco.MjvScene(model, maxgeom=10), mujoco.MjvCamera()
    mujoco.mj_forward(model, data)
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    target = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, target)
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    edges, pixels_SS3 = mujoco.MjrRect(0, 0, EDGE, EDGE), np.zeros((EDGE, EDGE, 3), np.uint8)
    mujoco.mjr_render(edges, scene, target)
    mujoco.mjr_readPixels(pixels_SS3, None, edges, target)
    red, green, _blue = (int(value) for value in pixels_SS3[EDGE // 2, EDGE // 2])
    if red < 100 or green > red / 2:
        raise RuntimeError(f"it draws wrong pictures: a red box has the colour {pixels_SS3[EDGE // 2, EDGE // 2]}")
    name: bytes = opengl.glGetString(opengl.GL_RENDERER)
    return name.decode(errors="replace")


def devices_of_egl() -> Iterator[Device]:
    """Yield EGL's devices in its own order. Raise RuntimeError without EGL."""
    library = _library("EGL")
    if library is None:
        raise RuntimeError("libEGL is not installed")
    library.eglGetProcAddress.restype = ctypes.c_void_p
    function, pointer, integer = ctypes.CFUNCTYPE, ctypes.c_void_p, ctypes.c_int
    address = library.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        raise RuntimeError("this libEGL cannot list devices (no EGL_EXT_device_enumeration)")
    found, count = (pointer * _MOST_DEVICES)(), integer()
    if not function(integer, integer, pointer, pointer)(address)(_MOST_DEVICES, found, ctypes.byref(count)):
        return
    questions = [library.eglGetProcAddress(name) for name in (b"eglQueryDeviceStringEXT", b"eglQueryDeviceAttribEXT")]
    if not all(questions):
        yield from map(Device, range(count.value))
        return
    text = function(ctypes.c_char_p, pointer, integer)(questions[0])
    attribute = function(integer, pointer, integer, pointer)(questions[1])
    for number, device in enumerate(found[:count.value]):
        extensions = (text(device, _EXTENSIONS) or b"").split()
        bus, cuda = "", ctypes.c_ssize_t()
        if b"EGL_NV_device_cuda" in extensions and attribute(device, _CUDA_DEVICE, ctypes.byref(cuda)):
            bus = bus_of_cuda(cuda.value)
        elif b"EGL_EXT_device_drm" in extensions:
            bus = _bus_of_file((text(device, _DRM_FILE) or b"").decode())
        yield Device(number, bus, b"EGL_MESA_device_software" in extensions)


def bus_of_cuda(gpu: int) -> str:
    """Return the address of CUDA's GPU of this number; '' where CUDA has none."""
    library, device, text = _library("cuda"), ctypes.c_int(), ctypes.create_string_buffer(32)
    if library is None or library.cuInit(0) or library.cuDeviceGet(ctypes.byref(device), gpu):
        return ""
    return "" if library.cuDeviceGetPCIBusId(text, len(text), device) else text.value.decode().lower()


def _bus_of_file(path: str) -> str:
    """Return the address of the GPU behind /dev/dri/card0, '' for what is no such file."""
    link = Path("/sys/class/drm", Path(path).name, "device")
    return link.resolve().name.lower() if path and link.exists() else ""


def _library(name: str) -> ctypes.CDLL | None:
    files = (f"lib{name}.so.1", f"lib{name}.so", ctypes.util.find_library(name) or f"lib{name}.so.8")
    for file in files:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(file)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
