"""Nebula cluster: are the modules there, is there room on scratch? Makes an environment that loads the modules.

On Nebula nothing is on PATH before `module load`, and files lie on /scratch. rdtops knows venvs and conda: so before a
training this plugin makes a folder that looks like a venv, whose `python` loads the modules first. hosts.toml:

    [hosts.nebula]
    environment = { venv = "~/nebula-env" }
    [hosts.nebula.plugins.nebula]
    modules = ["cuda/12.4", "python/3.11"]
    scratch = "/scratch/robot"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdtops.api import (
    CheckResult,
    Command,
    Connection,
    Host,
    Option,
    Output,
    PreflightVeto,
    Probe,
    RdtopsError,
    ask,
    hookimpl,
)

API_VERSION = 1
OPTIONS = {
    "modules": Option(list, "what `module load` gets, in this order", default=()),
    "init": Option(str, "the file that defines `module`", default="/etc/profile.d/modules.sh", pattern="[/~].*"),
    "scratch": Option(str, "the fast file system; caches of a training go there", default="/scratch", pattern="[/~].*"),
    "min_free_gb": Option(float, "GB that must be free on scratch", default=100.0, least=0),
}
PYTHON = """\
#!/bin/sh
# Written by the rdtops plugin nebula: loads the modules, then becomes their python.
. {init} || exit 1
module load {modules} || exit 1
export TMPDIR={scratch}/tmp HF_HOME={scratch}/huggingface
exec python3 "$@"
"""


@hookimpl
def preflight_check(host: Host, connection: Connection, options: Mapping[str, Any]) -> list[CheckResult]:
    if not options["modules"]:
        return []
    scratch = connection.absolute(options["scratch"])
    answers = ask(connection, [Probe("python", loading(connection, options) + "python3 --version", parse_python),
                               Probe("scratch", f"LC_ALL=C {Command('df', '-kP', scratch).shell()}", parse_free)])
    return [_modules(host, options, answers["python"].value, answers["python"].problem),
            _scratch(host, options, answers["scratch"].value, answers["scratch"].problem)]


@hookimpl(tryfirst=True)  # others may want the environment
def before_train(host: Host, connection: Connection, options: Mapping[str, Any]) -> None:
    """Write the environment that hosts.toml names. One that somebody else made is left alone."""
    if not options["modules"]:
        return
    if not host.environment.venv:
        raise PreflightVeto(f"{host.name} loads modules, but has no environment to load them in",
                            remedy=f'environment = {{ venv = "~/nebula-env" }} under [hosts.{host.name}] in hosts.toml')
    python = f"{connection.absolute(host.environment.venv)}/bin/python"
    ours = connection.run(Command("grep", "-sq", "rdtops plugin nebula", python), check=False).ok
    if not ours and connection.run(Command("test", "-e", python), check=False).ok:
        raise PreflightVeto(f"{python} is there and was not made by this plugin",
                            remedy=f"another folder as venv of [hosts.{host.name}] in hosts.toml")
    try:
        _write(connection, python, script(connection, options))
    except RdtopsError as error:
        raise PreflightVeto(f"the environment {python} could not be made: {error.message}",
                            remedy=f"df -h {options['scratch']} ~   # on {host.name}") from error


def script(connection: Connection, options: Mapping[str, Any]) -> str:
    scratch = connection.absolute(options["scratch"])
    return PYTHON.format(init=Command(connection.absolute(options["init"])).shell(),
                         modules=Command(*options["modules"]).shell(), scratch=Command(scratch).shell())


def loading(connection: Connection, options: Mapping[str, Any]) -> str:
    """A prefix for a line of sh: what `python3` means after it."""
    init = Command(connection.absolute(options["init"])).shell()
    return f". {init} && {Command('module', 'load', *options['modules']).shell()} && "


def parse_python(output: Output) -> str:
    """The version that `python3 --version` tells. `module` may exit with 0 when a module is missing, and says so."""
    if output.code != 0 or "ERROR" in output.err or not output.out.startswith("Python 3."):
        raise ValueError("the modules cannot be loaded")
    return output.out.split()[1]


def parse_free(output: Output) -> float:
    """The free GB of `df -kP`."""
    fields = output.out.splitlines()[-1].split() if output.code == 0 and output.out.strip() else []
    if len(fields) < 6:
        raise ValueError("df says nothing readable")
    return int(fields[3]) * 1024 / 1e9


def _write(connection: Connection, path: str, text: str) -> None:
    folder, part = path.rpartition("/")[0], f"{path}.new"
    connection.run(Command("mkdir", "-p", folder))
    connection.run(Command("tee", part), stdin=text.encode())
    connection.run(Command("chmod", "755", part))
    connection.run(Command("mv", "-f", part, path))


def _modules(host: Host, options: Mapping[str, Any], version: str | None, problem: str) -> CheckResult:
    words = " ".join(options["modules"])
    if version is None:
        return CheckResult.fail("nebula modules", f"`module load {words}` does not work there", problem,
                                f"module avail   # on {host.name}; then edit [hosts.{host.name}.plugins.nebula]")
    return CheckResult.ok("nebula modules", f"{words}: Python {version}")


def _scratch(host: Host, options: Mapping[str, Any], free_gb: float | None, problem: str) -> CheckResult:
    if free_gb is None:
        return CheckResult.fail("nebula scratch", f"there is no {options['scratch']}", problem,
                                f"edit scratch under [hosts.{host.name}.plugins.nebula] in hosts.toml")
    words = f"{free_gb:.0f} GB free on {options['scratch']}, {options['min_free_gb']:g} wanted"
    if free_gb < options["min_free_gb"]:
        return CheckResult.fail("nebula scratch", words, remedy=f"du -xsh {options['scratch']}/*   # on {host.name}")
    return CheckResult.ok("nebula scratch", words)
