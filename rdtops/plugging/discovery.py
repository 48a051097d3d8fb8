"""Discovery: find plugins, and load each alone and in bounded time, so that none can break another.

Sources, in this order: plugins/ of this project, ~/.config/rdtops/plugins/, entry points of group `rdtops.plugins`.
A plugin is a module: a file, a folder with __init__.py, or whatever an entry point names.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy
from pluggy import HookImpl

import rdtops
from rdtops import hookspecs
from rdtops.contract.config import nearest
from rdtops.errors import PluginError
from rdtops.hookspecs import API_VERSION, HOOKS, TIME_LIMIT_S
from rdtops.options import COMMON, Option
from rdtops.plugging.bounded import bounded, raised
from rdtops.user_folders import config_folder

GROUP = "rdtops.plugins"
DISABLED = "RDTOPS_DISABLED_PLUGINS"
LOAD_TIME_LIMIT_S = 30.0
_NOT_PLUGINS = re.compile(r"[_.].*|tests|test_.*|conftest")


@dataclass(frozen=True)
class Plugin:
    """One plugin. `problem` says why it is not used, `hookimpls` is empty then."""

    name: str
    source: str
    summary: str = ""
    version: str = ""
    problem: str = ""
    disabled: bool = False  # left out on purpose, not an error
    options: Mapping[str, Option] = field(default_factory=dict)
    hookimpls: Mapping[str, HookImpl] = field(default_factory=dict, repr=False, compare=False)  # by the hook's name
    limits_s: Mapping[str, float] = field(default_factory=dict)  # hook -> seconds, where it differs from the default
    module: Any = field(default=None, repr=False, compare=False)

    @property
    def hooks(self) -> tuple[str, ...]:
        return tuple(hook for hook in HOOKS if hook in self.hookimpls)

    def limit_s(self, hook: str) -> float:
        return self.limits_s.get(hook, TIME_LIMIT_S[hook])


@dataclass(frozen=True)
class Source:
    """A plugin before it is loaded; none of its code has run."""

    name: str
    where: str
    version: str
    get: Callable[[], Any]


def load() -> list[Plugin]:
    """Load every plugin of every source; those of RDTOPS_DISABLED_PLUGINS (names, separated by commas) are not
    executed."""
    disabled, manager = _disabled(), _manager()
    found: list[Plugin] = []
    for source in sources():
        duplicate = next((p for p in found if p.name == source.name), None)
        if source.name in disabled:
            found.append(Plugin(source.name, source.where, version=source.version, disabled=True,
                                problem=f"left out by {DISABLED}"))
        elif duplicate:
            found.append(Plugin(source.name, source.where, version=source.version,
                                problem=f"a plugin of this name exists in {duplicate.source}"))
        else:
            found.append(loaded(source, manager))
    names = [p.name for p in found]
    return found + [Plugin(name, DISABLED, disabled=True, problem=f"no such plugin{nearest(name, names)}")
                    for name in sorted(disabled - set(names))]


def sources() -> Iterator[Source]:
    for folder, version in ((bundled_folder(), rdtops.__version__), (user_folder(), "")):
        files = [file for file in folder.glob("*.py") if file.stem != "__init__"] + list(folder.glob("*/__init__.py"))
        yield from (of_file(file, version) for file in sorted(files, key=_name)
                    if not _NOT_PLUGINS.fullmatch(_name(file)))
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        where = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        yield Source(entry.name, where, entry.dist.version if entry.dist else "", entry.load)


def of_file(file: Path, version: str = "") -> Source:
    return Source(_name(file), str(file), version, lambda: _from_file(file))


def loaded(source: Source, manager: pluggy.PluginManager | None = None) -> Plugin:
    """Return the plugin of a source, registered with `manager`; an unusable one has a problem and is not registered."""
    outcome = bounded(source.name, source.get, LOAD_TIME_LIMIT_S)
    if outcome.error is None:  # in a second call: a plugin that was late must not register any more
        module, into = outcome.value, manager or _manager()
        outcome = bounded(source.name, lambda: _examined(source, module, into), LOAD_TIME_LIMIT_S)
    if outcome.error is not None:
        problem = str(outcome.error) if isinstance(outcome.error, PluginError) else raised(outcome.error)
        return Plugin(source.name, source.where, version=source.version, problem=problem)
    plugin: Plugin = outcome.value
    return plugin


def bundled_folder() -> Path:
    return Path(rdtops.__file__).resolve().parents[1] / "plugins"


def user_folder() -> Path:
    return config_folder() / "plugins"


def _disabled() -> set[str]:
    return {name.strip() for name in os.environ.get(DISABLED, "").split(",") if name.strip()}


def _name(file: Path) -> str:
    return file.parent.name if file.stem == "__init__" else file.stem


def _from_file(file: Path) -> Any:
    name = f"rdtops_plugin_{_name(file)}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _examined(source: Source, module: Any, manager: pluggy.PluginManager) -> Plugin:
    """Check all that the module declares. Raises PluginError, or whatever its code raises."""
    _require_api(getattr(module, "API_VERSION", API_VERSION))
    lines = (getattr(module, "__doc__", None) or "").strip().splitlines()
    return Plugin(source.name, source.where, lines[0] if lines else "",
                  str(getattr(module, "__version__", source.version)), options=_options(module),
                  limits_s=_limits(module), hookimpls=_registered(source.name, module, manager), module=module)


def _require_api(version: Any) -> None:
    if version != API_VERSION:
        older = isinstance(version, int) and version < API_VERSION
        raise PluginError(f"it needs version {version} of rdtops.api, this is {API_VERSION}: "
                          + ("update the plugin" if older else "update rdtops"))


def _registered(name: str, module: Any, manager: pluggy.PluginManager) -> dict[str, HookImpl]:
    """Register a module and return the hooks that it implements."""
    _require_known_hooks(module)
    try:
        manager.register(module, name)
        manager.check_pending()
        found = {caller.name: impl for caller in manager.get_hookcallers(module) or ()
                 for impl in caller.get_hookimpls() if impl.plugin is module}
        if not found:
            raise PluginError("it implements no hook; mark a function with @hookimpl")
        if any(impl.wrapper or impl.hookwrapper for impl in found.values()):
            raise PluginError("it wraps a hook, which is not supported: each plugin is called alone")
    except BaseException:
        if manager.has_plugin(name):
            manager.unregister(name=name)  # else the next plugin would get this one's error
        raise
    return found


def _require_known_hooks(module: Any) -> None:
    """Raise PluginError that names the nearest, where a hook or an argument is misspelt."""
    for name, function in vars(module).items():
        marked = getattr(function, f"{hookspecs.PROJECT}_impl", None)
        if not isinstance(marked, Mapping):
            continue
        hook = str(marked.get("specname") or name)
        if hook not in HOOKS:
            raise PluginError(f"there is no hook {hook!r}{nearest(hook, HOOKS)}; hooks: {', '.join(HOOKS)}")
        known = list(inspect.signature(getattr(hookspecs, hook)).parameters)
        for argument in inspect.signature(function).parameters:
            if argument not in known:
                raise PluginError(f"{hook} has no argument {argument!r}{nearest(argument, known)}; arguments: "
                                  f"{', '.join(known)}")


def _options(module: Any) -> Mapping[str, Option]:
    declared = getattr(module, "OPTIONS", {})
    if not isinstance(declared, Mapping) or not all(isinstance(o, Option) for o in declared.values()):
        raise PluginError("its OPTIONS must map names to rdtops.api.Option")
    taken = [name for name in declared if name in COMMON]
    if taken:
        raise PluginError(f"its option {taken[0]!r} is reserved: every plugin has it")
    return dict(declared)


def _limits(module: Any) -> Mapping[str, float]:
    declared = getattr(module, "TIME_LIMIT_S", {})
    unknown = [hook for hook in declared if hook not in HOOKS]
    if unknown:
        raise PluginError(f"its TIME_LIMIT_S names an unknown hook: {unknown[0]}{nearest(unknown[0], HOOKS)}")
    return {hook: float(seconds) for hook, seconds in declared.items()}
