"""Registry: the loaded plugins; each hook of each is called alone, in bounded time, with its own options.

pluggy checked their hooks when they were loaded (discovery); the calls are ours, because in a plain pluggy call one
exception loses the results of all plugins and does not name its plugin.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdtops.checks import CheckResult, Status
from rdtops.contract.config import nearest
from rdtops.errors import ConfigError, PluginError, PluginTimeout, RdtopsError
from rdtops.options import TIME_LIMIT, filled
from rdtops.plugging import discovery
from rdtops.plugging.bounded import bounded, raised
from rdtops.plugging.discovery import DISABLED, Plugin
from rdtops.ssh.hosts import Host

Works = list[Callable[[], list[CheckResult]]]


@dataclass(frozen=True)
class Call:
    """The outcome of one hook call of one plugin."""

    plugin: str
    value: Any
    seconds: float
    error: BaseException | None = None


class Registry:
    """The loaded plugins, those that failed to load, and those that were left out."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = tuple(plugins)

    @property
    def loaded(self) -> tuple[Plugin, ...]:
        return tuple(p for p in self.plugins if not p.problem)

    @property
    def broken(self) -> tuple[Plugin, ...]:
        return tuple(p for p in self.plugins if p.problem and not p.disabled)

    def missing(self, required: Sequence[str]) -> dict[str, str]:
        """Return the required plugins that are not loaded, each with the reason."""
        loaded = {p.name for p in self.loaded}
        reasons = {p.name: p.problem for p in self.plugins if p.problem}
        return {n: reasons.get(n, f"not found{nearest(n, loaded)}") for n in required if n not in loaded}

    def require(self, names: Sequence[str]) -> None:
        """Raise PluginError when a plugin that hosts.toml requires is not loaded."""
        for name, why in self.missing(names).items():
            raise PluginError(f"required plugin {name!r} is not loaded: {why}", remedy="inv plugins")

    def with_hook(self, hook: str) -> tuple[Plugin, ...]:
        """Return the plugins with a hook in the order of their calls: tryfirst, the others as found, trylast."""
        found = [(p.hookimpls[hook], p) for p in self.loaded if hook in p.hookimpls]
        return tuple(p for impl, p in sorted(found, key=lambda pair: pair[0].trylast - pair[0].tryfirst))

    def call(self, hook: str, host: Host, **arguments: Any) -> Iterator[Call]:
        """Call `hook` of each plugin that has it, and yield each outcome. Never raises for a plugin."""
        for plugin in self.with_hook(hook):
            yield _called(plugin, hook, host, arguments)

    def preflight_works(self, host: Host, **arguments: Any) -> Works:
        """Return each plugin's check as a function that never raises: a plugin that raises, hangs or returns something
        else is a FAIL with its name. They may run in parallel, so that their questions travel together."""
        found = [_finding(p.name, "could not be loaded: " + p.problem) for p in self.broken]
        wrong = self.option_findings(host)
        good = (p for p in self.with_hook("preflight_check") if p.name not in {w.source for w in wrong})
        return [lambda: found + wrong, *(functools.partial(_checked, plugin, host, arguments) for plugin in good)]

    def option_findings(self, host: Host) -> list[CheckResult]:
        """Return what is wrong with the options of a host, including those of unused plugins."""
        found = (self._option_finding(name, host) for name in host.plugins)
        return [finding for finding in found if finding]

    def _option_finding(self, name: str, host: Host) -> CheckResult | None:
        table = f"[{options_table(host, name)}]"
        plugin = next((p for p in self.plugins if p.name == name and p.source != DISABLED), None)
        if plugin is None:
            return _finding(name, f"{table} is for an unknown plugin"
                            f"{nearest(name, [p.name for p in self.plugins])}", f"edit {table} in hosts.toml")
        if plugin.disabled:
            return CheckResult(name, Status.WARN, f"{table} has no effect: the plugin is {plugin.problem}",
                               remedy=f"unset {DISABLED}", source=name, group=name)
        try:
            options_of(plugin, host)
        except ConfigError as error:
            return _finding(name, error.message, error.remedy) if not plugin.problem else None
        return None


def load() -> Registry:
    return Registry(discovery.load())


_loading = threading.Lock()


@functools.cache
def _loaded() -> Registry:
    return load()


def loaded() -> Registry:
    """Return the registry of this process, whose plugins are loaded once."""
    with _loading:
        return _loaded()


def options_of(plugin: Plugin, host: Host) -> Mapping[str, Any]:
    """Return the plugin's options for a host, with defaults. Raises ConfigError."""
    return filled(plugin.options, host.plugins.get(plugin.name, {}), options_table(host, plugin.name))


def options_table(host: Host, plugin: str) -> str:
    return f"hosts.{host.name}.plugins.{plugin}"


def _checked(plugin: Plugin, host: Host, arguments: Mapping[str, Any]) -> list[CheckResult]:
    return _findings(_called(plugin, "preflight_check", host, arguments))


def _called(plugin: Plugin, hook: str, host: Host, arguments: Mapping[str, Any]) -> Call:
    try:
        options = options_of(plugin, host)
    except ConfigError as error:
        return Call(plugin.name, None, 0.0, error)
    impl, given = plugin.hookimpls[hook], {"host": host, "options": options, **arguments}
    outcome = bounded(plugin.name, lambda: impl.function(**{name: given[name] for name in impl.argnames}),
                      options[TIME_LIMIT] or plugin.limit_s(hook))
    problem = outcome.error
    if isinstance(problem, PluginTimeout):
        problem = PluginTimeout(f"{plugin.name} was {problem.message} in {hook}; it continues until this command "
                                "ends",
                                remedy=f"raise {TIME_LIMIT} under [{options_table(host, plugin.name)}]")
    return Call(plugin.name, outcome.value, outcome.seconds, problem)


def _findings(call: Call) -> list[CheckResult]:
    if isinstance(call.error, PluginTimeout):
        return [_finding(call.plugin, call.error.message, call.error.remedy)]
    if call.error is not None:
        remedy = call.error.remedy if isinstance(call.error, RdtopsError) else ""
        return [_finding(call.plugin, f"the plugin raised {raised(call.error)}", remedy)]
    values = [call.value] if isinstance(call.value, CheckResult) else call.value or []
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, CheckResult) for v in values):
        return [_finding(call.plugin, f"preflight_check returned {call.value!r:.100}, not CheckResults")]
    return [CheckResult(v.name, v.status, v.summary, v.evidence, v.remedy, call.plugin, call.plugin) for v in values]


def _finding(plugin: str, summary: str, remedy: str = "") -> CheckResult:
    return CheckResult(plugin, Status.FAIL, summary, remedy=remedy or f"{DISABLED}={plugin} leaves it out",
                       source=plugin, group=plugin)
