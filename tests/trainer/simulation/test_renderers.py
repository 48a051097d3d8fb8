"""Renderers: one that does not draw is told with its reason, and the next one is tried; GL is loaded after all else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdtops.errors import SimulatorError
from rdtops.trainer.simulation import renderers
from rdtops.trainer.simulation.renderers import Device
from tests.trainer.worlds import needs_simulator

REPOSITORY = Path(__file__).parents[3]
NO_DRIVER = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}  # libEGL is installed and has no device


def environment(**variables: str) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if name not in (renderers.GL, renderers.EGL_DEVICE)}
    return {**mine, **variables}


# without the simulator ------------------------------------------------------------------------------------------------

def test_the_gpu_of_the_policy_comes_first_and_somebody_elses_last():
    listed = [Device(0, "0000:1b:00.0"), Device(1, "0000:43:00.0"), Device(2), Device(3, is_software=True)]
    assert [d.number for d in renderers.in_order(listed, "0000:43:00.0")] == [1, 2, 3, 0]
    assert [d.number for d in renderers.in_order(listed, "0000:99:00.0")] == [2, 3, 0, 1]
    assert [d.number for d in renderers.in_order(listed, "")] == [0, 1, 2, 3]


@pytest.mark.parametrize("value", ["glfw", "glx", "wgl", "disable"])
def test_a_renderer_that_needs_a_screen_is_refused_by_name(value):
    with pytest.raises(SimulatorError, match=f"MUJOCO_GL={value} cannot draw here: .* must be egl or osmesa") as caught:
        renderers.choose(environment=environment(**{renderers.GL: value}))
    assert caught.value.remedy.startswith("unset MUJOCO_GL ")


@pytest.mark.parametrize(("dies", "words"), [
    ("os.kill(os.getpid(), 11)", "SIGSEGV (exit 139): a native library crashed"),
    ("raise OSError('libEGL.so.1: cannot open')", "OSError: libEGL.so.1: cannot open"),
    ("time.sleep(60)", "it did not draw within 2 s"), ("print('not JSON')", "exit code 0")])
def test_a_renderer_that_crashes_or_hangs_is_told_in_a_sentence(dies, words, monkeypatch, tmp_path):
    """Each end is real, of a real process in place of the one that draws."""
    stand_in = tmp_path / "rdtops" / "trainer" / "simulation"
    stand_in.mkdir(parents=True)
    for folder in (stand_in, stand_in.parent, stand_in.parent.parent):
        (folder / "__init__.py").touch()
    (stand_in / "renderers.py").write_text(f"import os, time\n{dies}\n")
    monkeypatch.setattr(renderers.rdtops, "__file__", str(tmp_path / "rdtops" / "__init__.py"))
    monkeypatch.setattr(renderers, "LIMIT_S", 2.0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SimulatorError) as caught:
        renderers._asked(["draw"], environment())
    assert caught.value.message == words


GL_LAST = """
import builtins, sys
order, real = [], builtins.__import__
def noted(name, *rest):
    top = name.partition(".")[0]
    if top in ("triton", "mujoco", "robosuite", "OpenGL") and top not in order:
        order.append(top)
    return real(name, *rest)
builtins.__import__ = noted
import importlib
importlib_import = importlib.import_module
importlib.import_module = lambda name: (order.append(name), importlib_import(name))[1]
from rdtops.trainer.simulation import renderers, simulator
renderers.choose = lambda gpu: renderers.MujocoRenderer("egl", 2, "stand-in")
simulator.load(images=True)
print(*dict.fromkeys(order))
"""


def packages(folder: Path) -> Path:
    """Stand-ins for what the simulator imports; robosuite refuses EGL's device as the real one does."""
    texts = {"triton": "", "mujoco": "import os\nassert os.environ['MUJOCO_EGL_DEVICE_ID'] == '2'\n", "bddl": "",
             "robosuite": "import os\nassert 'MUJOCO_EGL_DEVICE_ID' not in os.environ\n",
             "robosuite/macros": "", "libero": "", "libero/libero": ASKING, "libero/libero/envs":
             "import os\nassert os.environ['MUJOCO_EGL_DEVICE_ID'] == '2'\n", "libero/libero/benchmark": ""}
    for name, text in texts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
    (folder / "robosuite" / "macros.py").write_text("")
    return folder


# libero/libero/__init__.py of LIBERO itself
ASKING = """
import os, json
libero_config_path = os.environ.get("LIBERO_CONFIG_PATH", os.path.expanduser("~/.libero"))
config_file = os.path.join(libero_config_path, "config.yaml")
if not os.path.exists(config_file):
    answer = input("Do you want to specify a custom path for the dataset folder? (Y/N): ").lower()
benchmark_root = json.load(open(config_file))["benchmark_root"]
assert benchmark_root == os.path.dirname(os.path.abspath(__file__)), benchmark_root
"""


def test_gl_is_imported_after_triton_and_liberos_question_is_not_asked(tmp_path):
    """With triton after GL a process dies with 139: `import mujoco, robosuite; import triton` does it."""
    place = packages(tmp_path / "site")
    done = subprocess.run([sys.executable, "-c", GL_LAST], stdin=subprocess.PIPE, capture_output=True, text=True,
                          env={**environment(), "PYTHONPATH": f"{REPOSITORY}:{place}", "HOME": str(tmp_path),
                               "LIBERO_CONFIG_PATH": "/gone"}, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:3] == ["triton", "mujoco", "robosuite"]


# with the simulator ---------------------------------------------------------------------------------------------------

@needs_simulator
def test_a_library_without_a_device_is_left_for_the_other_renderer():
    found = renderers.choose(environment=environment(**NO_DRIVER))
    assert (found.kind, found.failed) == ("osmesa", {"egl": "EGL has no device: no driver of a GPU, and no Mesa"})
    with pytest.raises(SimulatorError, match=r"no renderer draws in .* \(MUJOCO_GL=egl\): egl: EGL has no device"):
        renderers.choose(environment=environment(MUJOCO_GL="egl", **NO_DRIVER))


@needs_simulator
@pytest.mark.parametrize("variables", [
    {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "-1"},
    {"CUDA_VISIBLE_DEVICES": "0,0"}, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"},
    {"CUDA_VISIBLE_DEVICES": "MIG-b7c8e0f2-5b0f-5b5e-9a6b-1a2b3c4d5e6f"}, {"PYOPENGL_PLATFORM": "osmesa"},
    {"DISPLAY": ":99"}], ids=str)
def test_egl_draws_whatever_the_account_says_of_devices(variables):
    assert renderers.choose(environment=environment(**variables)).kind == "egl"


@needs_simulator
def test_a_device_that_is_not_there_is_told():
    found = renderers.choose(environment=environment(MUJOCO_EGL_DEVICE_ID="7"))
    assert found.kind == "osmesa"
    assert "device 7" in found.failed["egl"]


@needs_simulator
@pytest.mark.parametrize("kind", renderers.KINDS)
def test_a_torch_with_triton_lives_beside_gl(kind):
    """The order that was typed in the issue dies with 139 in the same environment."""
    pytest.importorskip("triton")
    orders = {"import mujoco, robosuite; import triton": -11,
              "from rdtops.trainer.simulation import simulator; simulator.load(images=True); import triton, torch": 0}
    for program, code in orders.items():
        given = environment(MUJOCO_GL=kind, PYTHONPATH=str(REPOSITORY))
        done = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=False,
                              timeout=120)
        assert done.returncode == code, done.stderr[-2000:]
