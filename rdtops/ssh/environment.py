"""Environment: the shell code that puts the trainer's Python on PATH, as hosts.toml declares it.

A command over SSH never reaches the `conda init` block of .bashrc, so a conda environment is activated by its prefix:
CONDA_PREFIX, PATH and its activate.d scripts, as `conda activate` does.
"""

from __future__ import annotations

from rdtops.ssh import container
from rdtops.ssh.command import quoted
from rdtops.ssh.hosts import Host

MODULE_INITS = ("$MODULESHOME/init/sh", "$LMOD_PKG/init/sh", "/etc/profile.d/modules.sh", "/etc/profile.d/lmod.sh",
                "/usr/share/modules/init/sh", "/usr/share/lmod/lmod/init/sh", "/usr/local/Modules/init/sh")
CONDA_ROOTS = ("~/miniconda3", "~/anaconda3", "~/miniforge3", "~/mambaforge", "/opt/conda", "/opt/miniconda3")


def activation(host: Host) -> str:
    """Return a prefix for a line of sh, ending in `&& `; empty when the host declares no environment.

    When the environment or a module is missing, the line fails with exit code 1 and prints on stderr what is missing.
    """
    return modules(host) + _python(host)


def python(host: Host) -> str:
    """Return the name of the interpreter in the activated environment."""
    return "python" if is_declared(host) else host.python


def is_declared(host: Host) -> bool:
    """Tell whether the host has an environment of its own for the trainer: a venv, a conda environment, a container."""
    return bool(host.environment.venv or host.environment.conda or host.environment.container)


def _python(host: Host) -> str:
    if host.environment.venv:
        return _venv(host.environment.venv)
    if host.environment.conda:
        return _conda(host.environment.conda)
    return container.activation(host) if host.environment.container else ""


def modules(host: Host) -> str:
    """Return the prefix that loads the modules. `module` is a function of login shells, so define it first. Its error
    messages differ, so check LOADEDMODULES afterwards."""
    names = host.environment.modules
    if not names:
        return ""
    places = " ".join(f'"{place}"' for place in MODULE_INITS)
    missing = quoted("there is no `module` command on this host; looked for " + ", ".join(MODULE_INITS))
    loaded = " && ".join(
        f'{{ case ":$LOADEDMODULES:" in *:{quoted(name)}:*|*:{quoted(name)}/*) ;; '
        f'*) echo {quoted(f"the module {name} could not be loaded: module avail")} >&2; false;; esac; }}'
        for name in names)
    return (f"{{ for f in {places}; do command -v module >/dev/null 2>&1 && break; [ -r \"$f\" ] && . \"$f\"; done; "
            f"command -v module >/dev/null 2>&1 || {{ echo {missing} >&2; false; }}; }} && "
            f"{{ module load {' '.join(quoted(name) for name in names)} || :; }} && {loaded} && ")


def _venv(path: str) -> str:
    """Activate a venv by its real folder: `inv deploy --env` may replace it while it is used."""
    place = _expanded(path)
    unusable = _unusable(place, f"there is no venv {path}")
    return (f"{{ VIRTUAL_ENV=$(cd -P -- {place} 2>/dev/null && pwd); "
            f"[ -n \"$VIRTUAL_ENV\" ] && [ -x \"$VIRTUAL_ENV/bin/python\" ] || {unusable}; }} && "
            'export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH" && ')


def conda_places(name_or_prefix: str) -> list[str]:
    """Return the folders where a conda environment may lie, ~ for the home on the host; the first that exists is
    used."""
    if "/" in name_or_prefix or name_or_prefix.startswith("~"):
        return [name_or_prefix]
    return [*(f"{root}/envs/{name_or_prefix}" for root in CONDA_ROOTS), f"~/.conda/envs/{name_or_prefix}"]


def _conda(name_or_prefix: str) -> str:
    places = conda_places(name_or_prefix)
    search = " ".join(_expanded(p) for p in places)
    unusable = _unusable(search, f"there is no conda environment {name_or_prefix}; looked in {', '.join(places)}")
    return (f"{{ CONDA_PREFIX=; for d in {search}; do "
            '[ -x "$d/bin/python" ] && CONDA_PREFIX=$(cd -P -- "$d" && pwd) && break; done; '
            f"[ -n \"$CONDA_PREFIX\" ] || {unusable}; }} && "
            f"export CONDA_PREFIX CONDA_DEFAULT_ENV={quoted(name_or_prefix)} PATH=\"$CONDA_PREFIX/bin:$PATH\" && "
            '{ for f in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do [ -r "$f" ] && . "$f"; done; true; } && ')


def _unusable(search: str, missing: str) -> str:
    """Return what says why none of these folders can be used, and fails."""
    return (f'{{ why={quoted(missing)}; for d in {search}; do [ -e "$d/bin/python" ] && '
            'why="$d/bin/python may not be executed: is its file system mounted noexec?"; done; '
            'echo "$why" >&2; false; }')


def _expanded(path: str) -> str:
    """Quote a path for sh and leave only a leading ~ to the shell."""
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + quoted(path[1:]) if len(path) > 1 else '"$HOME"'
    return quoted(path)
