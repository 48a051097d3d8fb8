"""SSH config: what an ssh_config says of a host, as `ssh -G` reads it. The only module that asks `ssh -G`.

Fabric honours a part of ssh_config(5). An option outside of it makes OpenSSH the transport of the host, unless it does
not matter for a command on a host, or comes from /etc/ssh/ssh_config: distributions set their ciphers there.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rdtops.errors import ConfigError
from rdtops.ssh.hosts import FABRIC, NO_FILES, OPENSSH, Hop, Host, SshOptions, SshSource
from rdtops.ssh.login.known_hosts import KnownHosts

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
USER_CONFIG = Path("~/.ssh/config")
FABRIC_HONOURS = frozenset((
    "connecttimeout", "globalknownhostsfile", "host", "hostkeyalias", "hostname", "identitiesonly", "identityagent",
    "identityfile", "port", "proxyjump", "user", "userknownhostsfile"))
# For a command without a terminal, after a strict check of the host key:
NO_MATTER = frozenset((
    "addkeystoagent", "batchmode", "checkhostip", "clearallforwardings", "compression", "connectionattempts",
    "controlmaster", "controlpath", "controlpersist", "dynamicforward", "enableescapecommandline", "escapechar",
    "exitonforwardfailure", "fingerprinthash", "forkafterauthentication", "forwardagent", "forwardx11",
    "forwardx11timeout", "forwardx11trusted", "gatewayports", "gssapidelegatecredentials", "gssapikexalgorithms",
    "gssapikeyexchange", "gssapirenewalforcesrekey", "gssapitrustdns", "hashknownhosts", "hostbasedacceptedalgorithms",
    "ipqos", "localcommand", "localforward", "loglevel", "logverbose", "numberofpasswordprompts",
    "obscurekeystroketiming", "permitlocalcommand", "permitremoteopen", "rekeylimit", "remotecommand", "remoteforward",
    "requesttty", "sendenv", "serveralivecountmax", "serveraliveinterval", "sessiontype", "stdinnull",
    "streamlocalbindmask", "streamlocalbindunlink", "stricthostkeychecking", "syslogfacility", "tag", "tcpkeepalive",
    "tunnel", "tunneldevice", "updatehostkeys", "visualhostkey", "xauthlocation"))
OVERRIDES = {"address": "HostName", "port": "Port", "user": "User", "identity_file": "IdentityFile",
             "known_hosts": "UserKnownHostsFile", "connect_timeout_s": "ConnectTimeout"}  # keys of hosts.toml
MAY_LET_IN = ("gssapiauthentication", "hostbasedauthentication")  # tried when Fabric is refused
_LISTS = ("identityfile", "certificatefile", "localforward", "remoteforward", "dynamicforward", "sendenv", "setenv")
_ROUTE_LIMIT = 16  # hops
INCLUDE_DEPTH = 16  # as ssh
_UNKNOWN_NAME = "rdtops-knows-no-such-host"

Settings = dict[str, Any]


@dataclass(frozen=True)
class Destination:
    """`[ssh://][user@]host[:port]`, a hop of ProxyJump; an IPv6 address may have brackets.

    >>> Destination.of("ssh://hop@[::1]:2222"), Destination.of("fe80::1"), Destination.of("me@box@gpu")
    (Destination(user='hop', name='::1', port='2222'), Destination(user='', name='fe80::1', port=''), \
Destination(user='me@box', name='gpu', port=''))
    """

    user: str
    name: str
    port: str

    @classmethod
    def of(cls, text: str) -> Destination:
        user, _, rest = text.removeprefix("ssh://").rstrip("/").rpartition("@")
        if rest.startswith("["):
            name, _, port = rest[1:].partition("]")
            return cls(user, name, port.lstrip(":"))
        name, _, port = rest.partition(":") if rest.count(":") == 1 else (rest, "", "")
        return cls(user, name, port)


def default_file() -> Path:
    """Return the ssh_config of this user; RDTOPS_SSH_CONFIG names another."""
    return Path(os.environ.get("RDTOPS_SSH_CONFIG", "") or USER_CONFIG).expanduser().absolute()


def knows(name: str, file: Path) -> bool:
    """Return whether an ssh_config says anything of a host: by its name, by a pattern or in an included file."""
    if name.startswith("-") or not _WORD.fullmatch(name):
        return False
    if name in aliases(file):
        return True
    asked, unknown = _asked(Destination("", name, ""), file), _asked(Destination("", _UNKNOWN_NAME, ""), file)
    own = {key: value for key, value in asked.items() if (key, value) not in (("hostname", name), ("host", name))}
    return own != {key: value for key, value in unknown.items() if key not in ("hostname", "host")}


def aliases(file: Path) -> list[str]:
    """Return the names of an ssh_config and of the files it includes that are no patterns."""
    names: dict[str, None] = {}
    for text in _texts(file, 0):
        for line in re.findall(r"^\s*Host(?:\s+|\s*=\s*)(.+)$", text, re.MULTILINE | re.IGNORECASE):
            names |= dict.fromkeys(word.strip('"') for word in line.split() if not re.search(r"[*?!#]", word))
    return list(names)


def host(alias: str, values: Mapping[str, Any], file: Path) -> Host:
    """Return a host whose address and route come from an ssh_config; `values` go before it. Raise ConfigError."""
    if not file.exists() and file != USER_CONFIG.expanduser().absolute():
        raise ConfigError(f"ssh_alias {alias!r}: there is no {file}", remedy="check RDTOPS_SSH_CONFIG")
    route = _route(Destination.of(alias), file, (), goes_directly=False)
    own = route[-1]
    given = {key: value for key, value in values.items() if key != "jumps" or value}
    if "identity_file" in given:
        own = replace(own, identity_file=None, ssh=replace(own.ssh, identity_files=(), identities_only=True))
    overrides = (*(f'{option} "{given[key]}"' for key, option in OVERRIDES.items() if key in given),
                 *(["IdentitiesOnly yes"] if "identity_file" in given else []))
    source = None if "jumps" in given else SshSource(str(file), alias, overrides)  # those are another route
    fields = {key: getattr(own, key) for key in Hop.__dataclass_fields__}
    return Host(**{**fields, "name": alias, "jumps": tuple(route[:-1]), "ssh_source": source, **given})


def transport(host: Host) -> str:
    """Return the transport of a host: FABRIC, or OPENSSH where its options ask for it. Raise ConfigError where OpenSSH
    is needed and is not installed."""
    reason = host.why_openssh
    if not reason:
        return FABRIC
    if host.transport == FABRIC:
        raise ConfigError(f"transport = \"{FABRIC}\" of {host.name}: Fabric cannot honour {reason}",
                          remedy=f"remove `transport` of {host.name} in hosts.toml")
    if not is_installed():
        raise ConfigError(f"{host.name} needs OpenSSH ({reason}), and there is no `ssh` on "
                          "PATH", remedy="install OpenSSH's client")
    return OPENSSH


def is_installed() -> bool:
    """Return whether this laptop has OpenSSH's client."""
    return shutil.which("ssh") is not None


def may_let_in(host: Host) -> bool:
    """Return whether OpenSSH has a way in that Fabric has not, and that may be tried where Fabric is refused."""
    return bool(host.ssh_source and is_installed() and any(hop.ssh.maybe_openssh for hop in host.route))


# --- one hop ---

def _route(destination: Destination, file: Path, seen: tuple[Destination, ...], *, goes_directly: bool) -> list[Hop]:
    """Return the hops to a destination, outermost first. `goes_directly`: its own jumps are overridden, as ssh does
    with each jump of a list but the first."""
    if destination in seen or len(seen) > _ROUTE_LIMIT:
        names = " -> ".join(one.name for one in (*seen, destination))
        raise ConfigError(f"{file}: ProxyJump of {seen[0].name!r} is a loop: {names}",
                          remedy=f"edit ProxyJump in {file}")
    found = _asked(destination, file)
    hop = _hop(destination, found, _asked(destination, None), goes_directly)
    words = found.get("proxyjump", "none")
    if goes_directly or words.lower() == "none":
        return [hop]
    tokens = _tokens(destination, found)
    words = re.sub("%([hnpr%])", lambda match: tokens[match[1]], words)
    jumps = [Destination.of(word.strip()) for word in words.split(",")]
    first = _route(jumps[0], file, (*seen, destination), goes_directly=False)
    return [*first, *(_route(jump, file, seen, goes_directly=True)[0] for jump in jumps[1:]), hop]


def _hop(destination: Destination, found: Settings, default: Settings, goes_directly: bool) -> Hop:
    tokens = _tokens(destination, found)
    known_hosts = [_path(word, tokens) for key in ("userknownhostsfile", "globalknownhostsfile")
                   for word in _paths(found.get(key, "")) if word.lower() != "none"]
    user_files = _paths(found.get("userknownhostsfile", "none"))
    if user_files[:1] == ["none"] or not user_files:
        known_hosts.insert(0, os.devnull)
    chosen = found.get("identityfile", []) != default.get("identityfile", [])
    files = [_path(word, tokens) for word in found.get("identityfile", []) if word.lower() != "none"] if chosen else []
    files = files or [NO_FILES] * chosen
    timeout = found.get("connecttimeout", "none")
    hop = Hop(name=destination.name, address=tokens["h"], port=int(tokens["p"]), user=tokens["r"],
              identity_file=files[0] if files else None, known_hosts=known_hosts[0],
              connect_timeout_s=max(int(timeout), 1) if timeout.isdigit() else Hop.connect_timeout_s)
    options = SshOptions(
        identity_files=tuple(files[1:]), known_hosts=tuple(known_hosts[1:]),
        identities_only=found.get("identitiesonly", "no") == "yes",
        identity_agent=_path(agent, tokens) if (agent := found.get("identityagent", "")) not in (
            "", "none", "SSH_AUTH_SOCK") else agent.removeprefix("SSH_AUTH_SOCK"),
        host_key_alias=found.get("hostkeyalias", ""),
        maybe_openssh=next((key for key in MAY_LET_IN if found.get(key, "no") == "yes"), ""))
    hop = replace(hop, ssh=options)
    return replace(hop, ssh=replace(options, only_openssh=_obstacle(hop, found, default, goes_directly)))


def _obstacle(hop: Hop, found: Settings, default: Settings, goes_directly: bool) -> str:
    """Return the option that Fabric cannot honour; '' when there is none."""
    ignored = FABRIC_HONOURS | NO_MATTER | {*MAY_LET_IN} | ({"proxycommand"} if goes_directly else set())
    for key, value in found.items():
        if key not in ignored and value != default.get(key) and value not in ("none", "") and not (
                key == "proxyusefdpass" and "proxycommand" not in found):
            return key
    for path in (*hop.identity_files, *hop.known_hosts_files):
        if re.search("%[A-Za-z]", path):
            return f"a token in {path}"
    return obstacle(hop)


def obstacle(hop: Hop) -> str:
    """Return what of a hop's keys Fabric cannot use: a hardware key, a certificate, a certificate authority."""
    if KnownHosts(hop).has_authority:
        return "@cert-authority in known_hosts"
    for file in hop.identity_files:
        if Path(f"{file}-cert.pub").exists():
            return f"the certificate {file}-cert.pub"
        if _first_word(Path(f"{file}.pub")).startswith("sk-"):
            return f"the hardware key {file}"
    return ""


def _first_word(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")[:200].partition(" ")[0]
    except OSError:
        return ""


# --- ssh -G ---

_WORD = re.compile(r"[^\s\"'\\$`;|&<>()\x00-\x1f]+")  # a host name that ssh accepts


def _asked(destination: Destination, file: Path | None) -> Settings:
    """Return the settings of a destination by option, in lower case; of the system's ssh_config alone without `file`.
    Where OpenSSH is not installed, paramiko reads the file."""
    if not is_installed():
        return _read_by_paramiko(destination, file)
    if destination.name.startswith("-") or not _WORD.fullmatch(destination.name):
        raise ConfigError(f"{file}: {destination.name!r} is not a name of a host",
                          remedy="check ProxyJump and ssh_alias")
    command = ["ssh", "-G", *_files(file), *(["-l", destination.user] if destination.user else []),
               *(["-p", destination.port] if destination.port else []), "--", destination.name]
    try:
        read = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise ConfigError(f"{file}: ssh -G {destination.name} gives no answer: {error}",
                          remedy=" ".join(command)) from None
    if read.returncode:
        why = " ".join(read.stderr.decode("utf-8", "replace").split())[-300:]
        raise ConfigError(f"{file}: ssh cannot read it: {why}",
                          remedy=" ".join(["ssh", "-G", *_files(file), destination.name]))
    settings: Settings = {}
    for line in read.stdout.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(" ")
        if key in _LISTS:
            settings.setdefault(key, []).append(value)
        else:
            settings[key] = value
    return settings


def _files(file: Path | None) -> list[str]:
    """Return the option that names the ssh_config: none for the user's own, which ssh reads with the system's, and
    finds by the account, not by HOME."""
    if file == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh/config":
        return []
    if file is None or not file.exists():
        return ["-F", str(SYSTEM_CONFIG) if SYSTEM_CONFIG.exists() else os.devnull]
    return ["-F", str(file)]


def _read_by_paramiko(destination: Destination, file: Path | None) -> Settings:
    import paramiko  # here, because it is slow to import

    found: Settings = {}
    if file is not None and file.is_file():
        try:
            found = dict(paramiko.SSHConfig.from_path(str(file)).lookup(destination.name))
        except (paramiko.SSHException, ValueError, OSError) as error:
            raise ConfigError(f"{file}: cannot be read: {error}", remedy=f"edit {file}") from None
    found = {"hostname": destination.name, "user": getpass.getuser(), "port": "22", **found}
    if destination.user:
        found["user"] = destination.user
    if destination.port:
        found["port"] = destination.port
    found.setdefault("userknownhostsfile", "~/.ssh/known_hosts")
    return found


# --- paths and tokens ---

def _tokens(destination: Destination, found: Settings) -> dict[str, str]:
    """Return the values of the TOKENS of ssh_config(5), and of the hop."""
    name = socket.gethostname()
    return {"d": str(Path.home()), "h": found.get("hostname", destination.name).strip("[]"), "i": str(os.getuid()),
            "k": found.get("hostkeyalias", destination.name), "L": name.partition(".")[0], "l": name,
            "n": destination.name, "p": str(found.get("port", 22)), "r": found.get("user", getpass.getuser()),
            "u": getpass.getuser(), "%": "%"}


def _path(text: str, tokens: Mapping[str, str]) -> str:
    """Expand ~, %h and ${NAME}; what is unknown stays as it is."""
    text = re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], match[0]), text)
    if re.fullmatch(r"\$\w+", text):  # IdentityAgent
        text = os.environ.get(text[1:], text)
    text = re.sub("%(.)", lambda match: tokens.get(match[1], match[0]), text)
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _paths(text: str) -> list[str]:
    """Split a list of files. ssh -G prints `"/a b/c" /d` without its quotes: a word that begins no path belongs to the
    word before it.

    >>> _paths("/a b/c ~/d none")
    ['/a b/c', '~/d', 'none']
    """
    paths: list[str] = []
    for word in text.split(" "):
        if not paths or word.startswith(("/", "~", "%", "$")) or word.lower() == "none":
            paths.append(word)
        else:
            paths[-1] += f" {word}"
    return [path for path in paths if path]


def _texts(file: Path, depth: int) -> Sequence[str]:
    """Return the texts of an ssh_config and of what it includes, as deep as ssh does."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    texts = [text]
    lines = re.findall(r"^\s*Include(?:\s+|\s*=\s*)(.+)$", text, re.MULTILINE | re.IGNORECASE)
    for line in lines if depth < INCLUDE_DEPTH else ():
        for word in line.split():
            pattern = Path(word.strip('"')).expanduser()
            pattern = pattern if pattern.is_absolute() else Path("~/.ssh").expanduser() / pattern
            for included in sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))):
                texts += _texts(included, depth + 1)
    return texts
