"""Conformance kit: test that a plugin keeps rdtops' rules for plugins, also when a host fails.

    python -m rdtops.testing.conform my_plugin --set 'min_free_gb=10'

runs each of its hooks against the lab: a healthy host, an unreachable host, commands that hang, a garbled answer, a
full disk. It checks the rules: of rdtops the plugin imports rdtops.api only, a check changes nothing on the host,
every call ends within its time limit, and a failure is an RdtopsError or a finding, never something else or "OK".
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from rdtops.checks import CheckResult, Status
from rdtops.contract.evaluation import Evaluation
from rdtops.contract.run import Checkpoint, RunEnd, RunSpec, RunState, checkpoint_name
from rdtops.errors import PluginTimeout, RdtopsError
from rdtops.hookspecs import HOOKS
from rdtops.hostlib import manifest, names
from rdtops.lab.ports import Ports
from rdtops.lab.site import Lab
from rdtops.options import TIME_LIMIT
from rdtops.plugging.discovery import Plugin
from rdtops.plugging.registry import Call, Registry
from rdtops.runs import launchers
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.testing.launching import promises
from rdtops.testing.scripted import load, make_spec
from rdtops.testing.troubled import FULL, GARBLED, GONE, HANGING, Troubled

HOST = "lab2"
LIMIT_S = 60.0  # for a hook on a failing host
CACHES = (".cache/rdtops",)  # of rdtops itself
ENCODERS = {  # the smallest that pass as complete
    "text_encoder": {"config.json": b'{"d_model": 64}', "model.safetensors": b"t5", "spiece.model": b"words"},
    "vision_encoder": {"config.json": b'{"vision_config": {"hidden_size": 32, "image_size": 28, "patch_size": 14}}',
                       "model.safetensors": b"siglip"}}

EVALUATED = names.evaluation_name("step_000010-libero_90-0a1b2c3d")
_TALLY = {"successes": 1, "trials": 1, "errors": 0, "success_rate": 1.0, "wilson_95": [0.2065, 1.0],
          "mean_steps_to_success": 43.0}
REPORT: dict[str, Any] = {  # the smallest with every field
    "checkpoint": {"name": checkpoint_name(10)}, "codec": {"name": "delta_velocity"}, "notes": [], "total": _TALLY,
    "protocol": {"benchmark": "libero_90", "max_steps": 200, "exec_horizon": 16, "pred_horizon": 64, "seed": 0},
    "tasks": [{"number": 0, "name": "a_task", "language": "a task", **_TALLY}],
    "trials": [{"task": "a_task", "trial": 0, "outcome": "success", "steps": 43, "video": "videos/00_a_task.mp4"}]}


HOMES = {"HOME": "", "XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache", "XDG_STATE_HOME": ".local/state",
         "RDTOPS_STATE": ".local/state/rdtops"}  # variables that name a place of the user on the laptop


@dataclass(frozen=True)
class ConformanceVerdict:
    """The verdict on one rule. `holds` is None where the rule could not be tested here."""

    rule: str
    holds: bool | None
    words: str = ""


@dataclass(frozen=True)
class ConformanceTrial:
    """The result of one hook in one situation."""

    call: Call
    commands: int  # number that it ran on the host
    changed: tuple[str, ...]  # files of the host's home


def judge(plugin: Plugin, lab: Lab, options: Mapping[str, Any] | None = None) -> Iterator[ConformanceVerdict]:
    """Yield the verdict on every rule as it is tested. The lab is up before and after."""
    yield from _static(plugin)
    bench = _Bench(plugin, lab, dict(options or {}))
    try:
        yield from _tried(bench)
    finally:
        bench.close()


def _tried(bench: _Bench) -> Iterator[ConformanceVerdict]:
    healthy = {}
    for hook in bench.plugin.hooks:
        if hook == "register_launchers":
            yield ConformanceVerdict(f"{hook}: the promises of its launchers", None, "use --host HOST to test them")
            continue
        if hook not in bench.arguments():
            yield ConformanceVerdict(f"{hook}: a healthy host", None, "the kit does not know this hook")
            continue
        healthy[hook] = bench.trial(hook)
        yield _of_health(hook, healthy[hook])
        if hook == "preflight_check":
            changed = healthy[hook].changed
            yield ConformanceVerdict(f"{hook}: changes nothing on the host", not changed, ", ".join(changed[:5]))
    for trouble, situation in bench.troubles.items():
        for hook in healthy:
            rule = f"{hook}: {trouble}"
            with situation() as why_not:
                yield (ConformanceVerdict(rule, None, why_not) if why_not
                       else _of_trouble(rule, trouble, bench.trial(hook), healthy[hook]))


def _static(plugin: Plugin) -> Iterator[ConformanceVerdict]:
    foreign = sorted({f"{file.name}:{line}: {name}" for file in _sources(plugin.module)
                      for line, name in _imports(file) if not _allowed(name)})
    yield ConformanceVerdict("of rdtops it imports rdtops.api only", not foreign, "; ".join(foreign))
    yield ConformanceVerdict("its docstring says in one line what it does", bool(plugin.summary), plugin.summary)
    silent = [name for name, option in plugin.options.items() if not option.help]
    yield ConformanceVerdict("every option has a help text", not silent, ", ".join(silent or plugin.options))


def _sources(module: ModuleType) -> list[Path]:
    file = Path(str(module.__file__))
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that a file imports, except relative imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _allowed(name: str) -> bool:
    root, _, rest = name.partition(".")
    return (root not in ("rdtops", "plugins") and not root.startswith("rdtops_plugin_")) or rest.split(".")[0] == "api"


def _of_health(hook: str, trial: ConformanceTrial) -> ConformanceVerdict:
    rule = f"{hook}: a healthy host"
    error = trial.call.error
    if error is not None and not (hook == "before_train" and isinstance(error, RdtopsError)):  # before_train may veto
        return ConformanceVerdict(rule, False, _named(error))
    wrong = _wrong_answer(hook, trial.call.value)
    said = _named(error) if error else wrong or _shown(trial.call.value)
    return ConformanceVerdict(rule, not wrong, f"{trial.call.seconds:.1f} s: {said}")


def _of_trouble(rule: str, trouble: str, trial: ConformanceTrial, healthy: ConformanceTrial) -> ConformanceVerdict:
    error, hook = trial.call.error, rule.partition(":")[0]
    if isinstance(error, PluginTimeout) or (error is not None and not isinstance(error, RdtopsError)):
        return ConformanceVerdict(rule, False, _named(error))
    if error is not None:
        return ConformanceVerdict(rule, True, _named(error))
    wrong = _wrong_answer(hook, trial.call.value)
    if not wrong and healthy.commands and trouble != FULL and not _notices(hook, trouble, trial.call.value):
        wrong = "it uses the host, but did not report the failure"
    return ConformanceVerdict(rule, not wrong, wrong or _shown(trial.call.value))


def _notices(hook: str, trouble: str, value: Any) -> bool:
    """Tell whether the failure is reported: a check has a finding that is not OK. A command that prints garbage may
    still have done its work."""
    if hook != "preflight_check":
        return trouble == GARBLED
    return any(r.status is not Status.OK for r in _results(value))


def _wrong_answer(hook: str, value: Any) -> str:
    if hook == "preflight_check":
        results = _results(value)
        odd = [r for r in results if not isinstance(r, CheckResult)]
        mute = [r.name for r in results if isinstance(r, CheckResult) and r.status is Status.FAIL and not r.remedy]
        return (f"returns {odd[0]!r:.80}, not CheckResults" if odd
                else f"a FAIL without a remedy: {', '.join(mute)}" if mute else "")
    if value is not None and (hook == "before_train" or not isinstance(value, Mapping)):
        return f"returns {value!r:.80}"
    return ""


def _results(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _shown(value: Any) -> str:
    results = [r for r in _results(value) if isinstance(r, CheckResult)]
    return "; ".join(f"{r.status.value} {r.name}: {r.summary}" for r in results)[:200] or f"{value!r:.200}"


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


@contextmanager
def _scratch_home(folder: Path) -> Iterator[None]:
    """Let this process live in an empty home: what a hook writes on the laptop goes there."""
    folder.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.get(name) for name in HOMES}
    os.environ.update({name: str(folder / part) for name, part in HOMES.items()})
    try:
        with chdir(folder):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# --- situations ---

class _Bench:
    """A workspace on the lab's host with everything that the hooks receive, and the failures to test."""

    def __init__(self, plugin: Plugin, lab: Lab, options: dict[str, Any]) -> None:
        self.plugin, self.lab = plugin, lab
        self.options = {TIME_LIMIT: LIMIT_S, **options}
        self.home = lab.home(HOST)
        self.workspace = self.home / "conform"
        self.trouble = ""
        self.local = Path(tempfile.mkdtemp(prefix="rdtops-conform-"))
        self.troubles: dict[str, Callable[[], Any]] = {
            GONE: self._gone, HANGING: lambda: self._in(HANGING), GARBLED: lambda: self._in(GARBLED), FULL: self._full}

    def close(self) -> None:
        for folder in (self.local, self.workspace):
            shutil.rmtree(folder, ignore_errors=True)

    def trial(self, hook: str) -> ConformanceTrial:
        """Call one hook as rdtops does, on a connection that worked at the start."""
        self._furnish()
        connection = Troubled(self._host(), self.trouble)
        with connection:
            connection.open()
            connection.commands = 0
            if self.trouble == GONE:
                self.lab.stop_server(HOST)
            before = _tree(self.home)
            with _scratch_home(self.local / "home"):
                (call,) = Registry([self.plugin]).call(hook, host=connection.host, connection=connection,
                                                       **self.arguments()[hook])
        after = _tree(self.home)
        changed = tuple(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)))
        return ConformanceTrial(call, connection.commands, changed)

    def arguments(self) -> dict[str, dict[str, Any]]:
        """Return for each hook its arguments besides host, connection and options."""
        spec, local = self._spec(), {role: self.local / role for role in ENCODERS}
        end = RunEnd(RunState.FAILED, 10, 20, 0.5, 1, "out of memory", 1.7e9)
        told = {"preflight_check": {"spec": spec, "local_assets": local, "traits": launchers.traits(self._host())},
                "before_train": {"run": spec, "local_assets": local},
                "after_checkpoint": {"run": spec, "checkpoint": self._checkpoint(spec)},
                "after_eval": {"run": spec, "evaluation": self._evaluation(spec)},
                "after_run": {"run": spec, "end": end}}
        assert set(told) <= set(HOOKS)
        return told

    def _spec(self) -> RunSpec:
        return make_spec(name="tiny", host=HOST, workspace=str(self.workspace))

    def _host(self) -> Host:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "hosts.toml"
            self.lab.write_inventory(file, {})
            host = inventory.load(file).host(HOST)
        return replace(host, workspace=str(self.workspace), plugins={self.plugin.name: self.options})

    def _checkpoint(self, spec: RunSpec) -> Checkpoint:
        folder = Path(str(spec.paths.checkpoints)) / checkpoint_name(10)
        try:
            sealed = manifest.Manifest.from_json((folder / manifest.NAME).read_text(encoding="utf-8"))
        except OSError:  # the disk is full
            sealed = manifest.Manifest(())
        return Checkpoint(10, checkpoint_name(10), str(folder), sealed.size_bytes, sealed.digest)

    def _evaluation(self, spec: RunSpec) -> Evaluation:
        folder = spec.paths.root / "eval" / EVALUATED
        report = json.dumps(REPORT).encode()
        return Evaluation(EVALUATED, str(folder), str(folder / "report.json"), hashlib.md5(report).hexdigest(),
                          checkpoint_name(10), "libero_90", 1, 1, 0)

    def _furnish(self) -> None:
        """Create assets on the laptop, and a run with a checkpoint and an evaluation on the host."""
        for role, files in ENCODERS.items():
            _write(self.local / role, files)
        spec = self._spec()
        checkpoint = Path(str(spec.paths.checkpoints)) / checkpoint_name(10)
        try:
            _write(Path(spec.assets["dataset"]), {"demo.hdf5": b"data"})
            _write(checkpoint, {"model.safetensors": b"weights", "trainer.json": b'{"heldout_loss": 0.5}'})
            manifest.seal(checkpoint)
            _write(Path(str(spec.paths.root)) / "eval" / EVALUATED, {
                "report.json": json.dumps(REPORT).encode(), "eval.json": b"{}", "trials.jsonl": b"",
                REPORT["trials"][0]["video"]: b"film"})
        except OSError:
            if self.trouble != FULL:
                raise

    # --- failures: each yields why it cannot be tested, or nothing

    @contextmanager
    def _in(self, trouble: str) -> Iterator[str]:
        self.trouble = trouble
        try:
            yield ""
        finally:
            self.trouble = ""

    @contextmanager
    def _gone(self) -> Iterator[str]:
        with self._in(GONE):
            try:
                yield ""
            finally:
                self.lab.up()

    @contextmanager
    def _full(self) -> Iterator[str]:
        """Mount a separate full file system with a checkpoint on it."""
        place, here = self.home / "conform-full", self.workspace
        place.mkdir(exist_ok=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True,
                                 encoding="utf-8", errors="replace", check=False)
        if mounted.returncode:
            yield f"only root can mount a small disk here ({mounted.stderr.strip() or 'mount refused'})"
            return
        try:
            with self._in(FULL):
                self.workspace = place
                self._furnish()
                _fill(place / "ballast")
                yield ""
        finally:
            self.workspace = here
            subprocess.run(["umount", "-l", str(place)], check=True)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _fill(ballast: Path) -> None:
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
    except OSError:
        return


def _tree(home: Path) -> dict[str, tuple[Any, ...]]:
    """Return kind and mode, size, mtime and MD5 of everything below the home, by path."""
    found = {}
    for path in home.rglob("*"):
        name = path.relative_to(home).as_posix()
        if name.startswith(CACHES) or any(cache.startswith(name) for cache in CACHES):
            continue
        stat = path.lstat()
        content = hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[name] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, content)
    return found


# --- the program ---

def main(arguments: list[str], show: Callable[[str], None]) -> int:
    """Run the kit. Return 0 when every rule holds, 1 when one does not, 2 when the plugin cannot be used at all."""
    parser = argparse.ArgumentParser(prog="python -m rdtops.testing.conform", description=str(__doc__).split("\n")[0])
    parser.add_argument("plugin", help="a name that `inv plugins` shows, a file, or a module")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option, in TOML")
    parser.add_argument("--host", help="host of hosts.toml on which to test the promises of its launchers, with jobs")
    given = parser.parse_args(arguments)
    try:
        plugin = load(given.plugin)
        options = tomllib.loads("\n".join(given.set))
        if given.host:
            verdicts = list(_shown_each(judge_launchers(plugin, given.host, options), show))
            return _sum(plugin, verdicts, show)
        with tempfile.TemporaryDirectory(prefix="rdtops-lab-") as folder:
            verdicts = list(_shown_each(judge_in(plugin, Path(folder), options), show))
    except (RdtopsError, tomllib.TOMLDecodeError) as error:
        show(f"error: {error}")
        return 2
    return _sum(plugin, verdicts, show)


def _sum(plugin: Plugin, verdicts: list[ConformanceVerdict], show: Callable[[str], None]) -> int:
    failed = sum(v.holds is False for v in verdicts)
    show(f"{plugin.name}: {'conforms' if not failed else f'{failed} rules broken'}, {len(verdicts)} tested")
    return int(failed > 0)


def judge_launchers(plugin: Plugin, name: str, options: Mapping[str, Any]) -> Iterator[ConformanceVerdict]:
    """Test the promises of each launcher of a plugin on a host of hosts.toml, below its workspace."""
    host = inventory.load().host(name)
    host = replace(host, plugins={**host.plugins, plugin.name: {**host.plugins.get(plugin.name, {}), **options}})
    (call,) = Registry([plugin]).call("register_launchers", host)
    if call.error is not None:
        yield ConformanceVerdict("register_launchers", False, _named(call.error))
        return
    with Connection(host) as connection:
        folder = f"{connection.workspace}/conform"
    for launcher in call.value or ():
        for promise in promises(launcher, host, folder):
            yield ConformanceVerdict(f"{launcher.name}: {promise.words}", promise.holds, promise.seen)


def judge_in(plugin: Plugin, folder: Path, options: Mapping[str, Any]) -> Iterator[ConformanceVerdict]:
    """Test the rules in a separate lab, which is shut down afterwards."""
    lab = Lab(folder, Ports.free())
    lab.up()
    try:
        yield from judge(plugin, lab, options)
    finally:
        lab.down()


def _shown_each(verdicts: Iterator[ConformanceVerdict], show: Callable[[str], None]) -> Iterator[ConformanceVerdict]:
    for verdict in verdicts:
        sign = {True: "holds ", False: "BROKEN", None: "skipped"}[verdict.holds]
        show(f"{sign:7} {verdict.rule}" + (f"   ({verdict.words})" if verdict.words else ""))
        yield verdict


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], print))
