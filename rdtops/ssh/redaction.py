"""Redaction: what may be shown of a text that may hold secrets. The one place where they become ***."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from rdtops.ssh.hosts import Host

NAMES = ("_API_KEY", "_TOKEN", "_PASSWORD", "_SECRET")  # how variables end that hold a secret
SHORTEST = 4  # characters; what is shorter would be found in every other word
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Without the name and password of any address in it, and without `secrets`."""
    for secret in sorted({s for s in secrets if len(s) >= SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USERINFO.sub("***@", text)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is to be shown to nobody: a token by its name, or an address with a password."""
    return name.endswith(NAMES) or bool(_USERINFO.search(value))


def secrets_of(host: Host) -> set[str]:
    """Values of a host's table in hosts.toml that are secrets, and the passwords in its addresses."""
    declared = host.environment
    addresses = [*host.env.values(), *_texts(host.plugins), declared.index_url or "", *declared.extra_index_urls,
                 *declared.requirements]
    tokens = {value for name, value in host.env.items() if name.endswith(NAMES)}
    return tokens | {secret for text in addresses for secret in _passwords(text)}


def _passwords(text: str) -> Iterable[str]:
    """As they are written, and as they are meant: p%40ss is p@ss."""
    for userinfo in _USERINFO.findall(text):
        name, separator, password = userinfo[:-1].partition(":")
        written = password if separator else name  # https://TOKEN@github.com
        yield from (written, urllib.parse.unquote(written))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
