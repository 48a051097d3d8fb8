"""The plugins: found, loaded one by one, and called one by one, so that none can take another down.

Sources, in this order: plugins/ of this project, ~/.config/rdtops/plugins/, entry points of group `rdtops.plugins`.
pluggy holds the hook specifications and checks names and arguments; the calls are ours, because one raising plugin
makes a plain pluggy call lose everybody's results without saying whose fault it was.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

import rdtops
from rdtops import hookspecs
from rdtops.checks import CheckResult, Status
from rdtops.contract.config import nearest
from rdtops.errors import PluginError

HOOKS = ("preflight_check", "before_train", "after_checkpoint", "after_eval")
GROUP = "rdtops.plugins"
Works = list[Callable[[], list[CheckResult]]]


@dataclass(frozen=True)
class Plugin:
    """One plugin; `problem` says why it could not be loaded, `hooks` is empty then."""

    name: str
    source: str
    summary: str = ""
    version: str = ""
    hooks: tuple[str, ...] = ()
    problem: str = ""
    module: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Call:
    """What became of one hook call of one plugin."""

    plugin: str
    value: Any
    seconds: float
    error: BaseException | None = None


class Registry:
    """The loaded plugins and those that failed to load."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = tuple(plugins)

    @property
    def loaded(self) -> tuple[Plugin, ...]:
        return tuple(p for p in self.plugins if not p.problem)

    @property
    def broken(self) -> tuple[Plugin, ...]:
        return tuple(p for p in self.plugins if p.problem)

    def require(self, names: Sequence[str]) -> None:
        """Raises PluginError when a plugin that hosts.toml requires is not there."""
        loaded = {p.name for p in self.loaded}
        missing = [n for n in names if n not in loaded]
        if missing:
            reasons = {p.name: p.problem for p in self.broken}
            why = reasons.get(missing[0], f"not found{nearest(missing[0], loaded)}")
            raise PluginError(f"required plugin {missing[0]!r} is not loaded: {why}", remedy="inv plugins")

    def with_hook(self, hook: str) -> tuple[Plugin, ...]:
        return tuple(p for p in self.loaded if hook in p.hooks)

    def call(self, hook: str, **arguments: Any) -> Iterator[Call]:
        """Call `hook` of each plugin that has it, alone and timed. Yields as they end; never raises for a plugin."""
        for plugin in self.with_hook(hook):
            yield _called(plugin, hook, arguments)

    def preflight_works(self, **arguments: Any) -> Works:
        """Each plugin's check as a call that never raises: one that does, or answers nonsense, is a FAIL with its
        name. They may run side by side, so that what they ask travels together."""
        broken = [_finding(p.name, "could not be loaded: " + p.problem) for p in self.broken]
        return [lambda: broken, *(functools.partial(_checked, plugin, arguments)
                                  for plugin in self.with_hook("preflight_check"))]


def load() -> Registry:
    """Load every plugin that RDTOPS_DISABLED_PLUGINS (names, separated by commas) does not name."""
    disabled = {n.strip() for n in os.environ.get("RDTOPS_DISABLED_PLUGINS", "").split(",") if n.strip()}
    found: dict[str, Plugin] = {}
    for name, source, get in _sources():
        if name in disabled:
            continue
        if name in found:
            found[name + "#2"] = Plugin(name, source, problem=f"a plugin of this name comes from {found[name].source}")
        else:
            found[name] = _load(name, source, get)
    return Registry(list(found.values()))


def bundled_folder() -> Path:
    return Path(rdtops.__file__).resolve().parents[1] / "plugins"


def user_folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "rdtops" / "plugins"


def _sources() -> Iterator[tuple[str, str, Any]]:
    for folder in (bundled_folder(), user_folder()):
        for file in sorted(folder.glob("*.py")) if folder.is_dir() else []:
            if not file.name.startswith("_"):
                yield file.stem, str(file), lambda file=file: _from_file(file)
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        yield entry.name, origin, entry.load


def _from_file(file: Path) -> Any:
    name = f"rdtops_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the plugin look themselves up there
    spec.loader.exec_module(module)
    return module


def _load(name: str, source: str, get: Any) -> Plugin:
    try:
        module = get()
        hooks = _hooks_of(name, module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, SystemExit too, and must not end us
        return Plugin(name, source, problem=f"{type(error).__name__}: {error}")
    lines = (getattr(module, "__doc__", None) or "").strip().splitlines()
    version = str(getattr(module, "__version__", rdtops.__version__ if _is_bundled(source) else ""))
    return Plugin(name, source, lines[0] if lines else "", version, hooks, module=module)


def _is_bundled(source: str) -> bool:
    return Path(source).parent == bundled_folder()


def _hooks_of(name: str, module: Any) -> tuple[str, ...]:
    """The hooks a module implements, checked by pluggy in a manager of its own: a misspelt hook is an error."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    callers = manager.get_hookcallers(module) or []
    if not callers:
        raise PluginError("it implements no hook; mark a function with @hookimpl")
    return tuple(h for h in HOOKS if h in {c.name for c in callers})


def _checked(plugin: Plugin, arguments: dict[str, Any]) -> list[CheckResult]:
    return _findings(_called(plugin, "preflight_check", arguments))


def _called(plugin: Plugin, hook: str, arguments: dict[str, Any]) -> Call:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin.module, plugin.name)
    start = time.monotonic()
    try:
        values = getattr(manager.hook, hook)(**arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it is, it is this plugin's and is reported as such
        return Call(plugin.name, None, time.monotonic() - start, error)
    return Call(plugin.name, values[0] if values else None, time.monotonic() - start)


def _findings(call: Call) -> list[CheckResult]:
    if call.error is not None:
        return [_finding(call.plugin, f"the plugin raised {type(call.error).__name__}: {call.error}")]
    values = [call.value] if isinstance(call.value, CheckResult) else call.value or []
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, CheckResult) for v in values):
        return [_finding(call.plugin, f"preflight_check answered {call.value!r:.100}, not CheckResults")]
    return [CheckResult(v.name, v.status, v.summary, v.evidence, v.remedy, call.plugin, call.plugin) for v in values]


def _finding(plugin: str, summary: str) -> CheckResult:
    return CheckResult(plugin, Status.FAIL, summary, remedy=f"RDTOPS_DISABLED_PLUGINS={plugin} leaves it out",
                       source=plugin, group=plugin)
