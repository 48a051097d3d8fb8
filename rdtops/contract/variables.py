"""Variables: the one list of what a run and an evaluation set, drop from the account's environment, and pass on.

A variable that changes numbers, lets a process hang or hides packages is set or dropped; what names the network, a
device or a folder is passed on. A value in `env` of hosts.toml wins over both. The laptop writes the list into
launch.sh and eval.sh; whoever starts a program by hand gets it from the program, but for what Python reads before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import Enum

DECLARED = "RDTOPS_DECLARED"  # the names of the list that hosts.toml has in `env`
DROPPED = "RDTOPS_DROPPED"  # the names that launch.sh or eval.sh have dropped, for the log
RELEASE = "the release"
WITH_ENVIRONMENT = "1 with a venv, conda or container"


class Act(Enum):
    SET = "set"
    DROP = "dropped"
    LEAVE = "passed on"


@dataclass(frozen=True)
class Variable:
    """`name` ends in * where it is the beginning of names."""

    name: str
    act: Act
    why: str
    value: str = ""
    even_declared: bool = False  # dropped also where hosts.toml has it

    def covers(self, name: str) -> bool:
        return name.startswith(self.name[:-1]) if self.name.endswith("*") else name == self.name


def _set(name: str, value: str, why: str) -> Variable:
    return Variable(name, Act.SET, why, value)


def _drop(names: str, why: str, *, even_declared: bool = False) -> list[Variable]:
    return [Variable(name, Act.DROP, why, even_declared=even_declared) for name in names.split()]


def _pass(names: str, why: str) -> list[Variable]:
    return [Variable(name, Act.LEAVE, why) for name in names.split()]


LIST = (
    _set("PYTHONPATH", RELEASE, "the code that was deployed; packages of the account would hide the environment's"),
    _set("PYTHONNOUSERSITE", WITH_ENVIRONMENT,
         "packages in ~/.local/lib hide those of a conda environment or container"),
    _set("PYTHONUNBUFFERED", "1", "the log is written at once"),
    _set("PYTHONDONTWRITEBYTECODE", "1", "a release is never changed"),
    _set("PYTHONUTF8", "1", "logs and files are UTF-8, whatever LANG says"),
    _set("OMP_NUM_THREADS", "1", "with another number of threads the sums of a CPU are others"),
    _set("CUBLAS_WORKSPACE_CONFIG", ":4096:8", "without it cuBLAS does not repeat its bits"),
    _set("CUDA_DEVICE_ORDER", "PCI_BUS_ID", "CUDA counts the GPUs as nvidia-smi does"),
    _set("HF_HUB_OFFLINE", "1", "models are read from folders; a host without internet would wait"),
    _set("TOKENIZERS_PARALLELISM", "false", "its threads do not survive the fork of loader workers"),
    _set("USE_TORCH", "1", "transformers uses torch; a broken tensorflow beside it is not imported"),
    _set("USE_TF", "0", "likewise"),
    _set("USE_FLAX", "0", "likewise jax"),
    _set("MPLBACKEND", "agg", "matplotlib needs no screen; Jupyter names a backend that is not there"),
    _set("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT", "torchrun would end its ranks on SIGHUP"),
    _set("TORCH_NCCL_USE_COMM_NONBLOCKING", "0",
         "torch 2.6 and 2.7.0 take NCCL's other way for ranks bound to a GPU, and hang in it at times"),
    *_drop("PYTHONHOME", "the interpreter would look for its library elsewhere"),
    *_drop("PYTHONOPTIMIZE", "it removes assertions"),
    *_drop("PYTHONWARNINGS", "a warning of a library would become an error"),
    *_drop("PYTHONINSPECT", "the interpreter would wait for input at the end"),
    *_drop("PYTHONHASHSEED", "the interpreter does not start with a wrong one"),
    *_drop("PYTHONIOENCODING", "it undoes PYTHONUTF8"),
    *_drop("MKL_NUM_THREADS OPENBLAS_NUM_THREADS MKL_CBWR", "they change the sums of a CPU"),
    *_drop("OMP_PROC_BIND OMP_PLACES GOMP_CPU_AFFINITY KMP_AFFINITY", "all ranks would share one core"),
    *_drop("NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "they change the products of a GPU"),
    *_drop("CUDA_LAUNCH_BLOCKING", "for debugging: a training takes up to twice as long"),
    *_drop("TORCH_NCCL_ASYNC_ERROR_HANDLING NCCL_ASYNC_ERROR_HANDLING TORCH_NCCL_BLOCKING_WAIT NCCL_BLOCKING_WAIT",
           "ranks would wait for a dead one without end"),
    *_drop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD TORCH_FORCE_WEIGHTS_ONLY_LOAD",
           "how a file is unpickled is decided where it is read"),
    *_drop("NUMBA_DISABLE_JIT", "the simulator would take many times as long"),
    *_drop("DISPLAY WAYLAND_DISPLAY", "the connection to a screen ends with the login"),
    *_drop("PYOPENGL_PLATFORM", "it follows the renderer that is chosen"),
    *_drop("LIBERO_CONFIG_PATH", "an evaluation uses the files of the installed package"),
    *_drop("ACCELERATE_* PET_*", "config.json of the run decides"),
    *_drop("RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK MASTER_ADDR MASTER_PORT "
           "TORCHELASTIC_RUN_ID TORCHELASTIC_USE_AGENT_STORE TORCHELASTIC_ERROR_FILE",
           "they belong to an outer process group; also from hosts.toml", even_declared=True),
    *_pass("CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES", "they name devices"),
    *_pass("MUJOCO_GL MUJOCO_EGL_DEVICE_ID", "they name the renderer, and a device in EGL's count"),
    *_pass("NCCL_* GLOO_* http_proxy https_proxy all_proxy no_proxy", "they name the network"),
    *_pass("HF_* WANDB_*", "mirrors, folders and accounts"),
    *_pass("PATH LD_LIBRARY_PATH LD_PRELOAD", "drivers and modules of a cluster need them; the checks run with them"),
    *_pass("OPENBLAS_CORETYPE MKL_THREADING_LAYER", "they name the processor, or mend a conda environment"),
    *_pass("PYTORCH_CUDA_ALLOC_CONF TORCH_LOGS TORCH_DISTRIBUTED_DEBUG", "memory and messages; the numbers stay"),
    *_pass("HDF5_*", "they name how a file system locks"),
    *_pass("TMPDIR XDG_* LANG LC_* TZ", "folders, language, time"),
)


def of_a_launch(release: str, declared: Mapping[str, str], *, has_environment: bool) -> dict[str, str]:
    """Return the variables that launch.sh and eval.sh export. `declared`: env of hosts.toml, which wins.
    `has_environment`: whether the host declares a venv, a conda environment or a container."""
    given = {variable.name: variable.value for variable in LIST if variable.act is Act.SET}
    given["PYTHONPATH"] = release
    if has_environment:
        given["PYTHONNOUSERSITE"] = "1"
    else:
        del given["PYTHONNOUSERSITE"]  # `pip install` of a user who owns no environment puts packages there
    named = [name for name in declared if is_listed(name)]
    return {**given, **declared, **({DECLARED: " ".join(named)} if named else {})}


def to_unset() -> tuple[str, ...]:
    """Return the names that a shell drops. Those of which only the beginning is known are dropped by `kept`."""
    return tuple(variable.name for variable in LIST
                 if variable.act is Act.DROP and not variable.name.endswith("*"))


def kept(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the environment of ranks and workers, and the names that were dropped, by us or before by the script."""
    declared = declared_in(environment)
    dropped = [name for name in environment if (found := _listed(name)) and found.act is Act.DROP
               and (found.even_declared or name not in declared)]
    ours = {variable.name: variable.value for variable in LIST if variable.act is Act.SET
            and variable.value not in (RELEASE, WITH_ENVIRONMENT) and variable.name not in declared}
    rest = {name: text for name, text in environment.items() if name not in dropped}
    return {**rest, **ours}, sorted({*dropped, *environment.get(DROPPED, "").split()})


def use(environment: MutableMapping[str, str]) -> None:
    """Make an environment that of a run; what was dropped stands in DROPPED."""
    wanted, dropped = kept(environment)
    environment.clear()
    environment.update({**wanted, DROPPED: " ".join(dropped)})


def declared_in(environment: Mapping[str, str]) -> set[str]:
    """Return the names of the list that hosts.toml has in `env`, as launch.sh and eval.sh tell them."""
    return set(environment.get(DECLARED, "").split())


def is_listed(name: str) -> bool:
    """Tell whether a variable is set or dropped."""
    found = _listed(name)
    return found is not None and found.act is not Act.LEAVE


def value(name: str) -> str:
    """Return the value that a variable is set to."""
    return next(variable.value for variable in LIST if variable.name == name and variable.act is Act.SET)


def rows() -> Iterable[tuple[str, str, str]]:
    """Yield names, what is done with them, and why, for docs/launch.md."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for variable in LIST:
        done = f"= {variable.value}" if variable.value else variable.act.value
        grouped.setdefault((done, variable.why), []).append(variable.name)
    for (done, why), names in grouped.items():
        yield ", ".join(f"`{name}`" for name in names), done, why


def _listed(name: str) -> Variable | None:
    return next((variable for variable in LIST if variable.covers(name)), None)
