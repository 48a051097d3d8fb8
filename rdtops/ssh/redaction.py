"""Redaction: replace secrets in a text by ***, the only place where that is done."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from rdtops.ssh.hosts import Host

NAMES = ("_API_KEY", "_TOKEN", "_PASSWORD", "_SECRET")  # suffixes of variables that hold a secret
SHORTEST = 4  # characters; shorter ones occur in ordinary words
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without the user name and password of any URL in it, and without `secrets`."""
    for secret in sorted({s for s in secrets if len(s) >= SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USERINFO.sub("***@", text)


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable is secret: a token by its name, or a URL with a password."""
    return name.endswith(NAMES) or bool(_USERINFO.search(value))


def secrets_of(host: Host) -> set[str]:
    """Return the values of a host's table in hosts.toml that are secrets, and the passwords in its URLs."""
    declared = host.environment
    addresses = [*host.env.values(), *_texts(host.plugins), declared.index_url or "", *declared.extra_index_urls,
                 *declared.requirements]
    tokens = {value for name, value in host.env.items() if name.endswith(NAMES)}
    return tokens | {secret for text in addresses for secret in _passwords(text)}


def _passwords(text: str) -> Iterable[str]:
    """Yield the passwords in a text, as written and decoded: p%40ss is p@ss."""
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
