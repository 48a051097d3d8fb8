"""What a hook is told, for tests that call a plugin's functions by hand."""

from collections.abc import Mapping
from typing import Any

from rdtops.plugging import registry
from rdtops.ssh.hosts import Host


def options(name: str, host: Host) -> Mapping[str, Any]:
    """The options of that plugin for a host, as the registry fills them in."""
    (plugin,) = (p for p in registry.load().loaded if p.name == name)
    return registry.options_of(plugin, host)
