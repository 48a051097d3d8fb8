"""OpenSSH config: an ssh_config of a route for OpenSSH's own programs, with the same keys and host key checking."""

from __future__ import annotations

import glob
import re
import tempfile
from pathlib import Path

from rdtops.errors import ConfigError
from rdtops.hostlib.files import write_whole
from rdtops.ssh.hosts import OPENSSH, Hop, Host
from rdtops.ssh.login import relay, ssh_config

COMMON = """\
Host *
  StrictHostKeyChecking yes
  ControlMaster no
  ControlPath none
  ServerAliveInterval 10
  LogLevel DEBUG1
  ClearAllForwardings yes
  PermitLocalCommand no
  RemoteCommand none
  RequestTTY auto
  IgnoreUnknown SessionType,StdinNull,ForkAfterAuthentication
  SessionType default
  StdinNull no
  ForkAfterAuthentication no
"""
SHORT = re.compile(r"[\w./+-]{1,60}")  # a path that needs no quotes in an ssh_config
QUICK = "Host *\n  Ciphers ^aes128-gcm@openssh.com\n"  # hardware does AES; the default's tag costs three times as much


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for the files of an `ssh`: its path must fit into a socket's, and an ssh_config."""
    usual = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(prefix="rdtops-ssh-", dir=usual if SHORT.fullmatch(usual) else "/tmp")  # noqa: S108


def configured(host: Host, *, batch: bool = True) -> tempfile.TemporaryDirectory[str]:
    """Make a private folder with the ssh_config of a route, `config`. Raise ConfigError, and leave no folder."""
    folder = private_folder()
    try:
        write_config(host, Path(folder.name), batch=batch)
    except BaseException:
        folder.cleanup()
        raise
    return folder


def write_config(host: Host, folder: Path, *, batch: bool = True) -> Path:
    """Write the ssh_config of a route into a folder. `batch`: no person is asked."""
    file = folder / "config"
    write_whole(file, COMMON + f"  BatchMode {'yes' if batch else 'no'}\n\n" + config_text(host, file), 0o600)
    return file


def config_text(host: Host, file: Path) -> str:
    """Return an ssh_config with which `ssh -F file` reaches a host; see destination. Where OpenSSH is the host's
    transport, the user's own ssh_config says how, in all that it says."""
    source = host.ssh_source
    if source is None or ssh_config.transport(host) != OPENSSH:
        return "\n".join([QUICK, *(_block(host.route, number, file) for number in range(len(host.route)))])
    read = [Path(source.file)]
    if read == [ssh_config.USER_CONFIG.expanduser().absolute()]:
        read.append(ssh_config.SYSTEM_CONFIG)
    name = ssh_config.Destination.of(source.alias).name
    return "\n".join([f"Host {name}", *(f"  {line}" for line in source.overrides), "Match all",
                      *(f'  Include "{glob.escape(str(one))}"' for one in read)]) + "\n"


def destination(host: Host, hop: int = -1) -> str:
    """Return the name of a hop in config_text. Two hops may share a name, an address or both; one block for two hops
    would be its own jump, and ssh would start itself without end."""
    if host.ssh_source and ssh_config.transport(host) == OPENSSH:
        return host.ssh_source.alias
    return f"hop-{hop % len(host.route)}"


def _block(route: tuple[Hop, ...], number: int, file: Path) -> str:
    hop = route[number]
    lines = [f"Host hop-{number}", f"HostName {_quoted(hop.address)}", f"Port {hop.port}", f"User {_quoted(hop.user)}",
             f"UserKnownHostsFile {' '.join(map(_path, hop.known_hosts_files))}", "GlobalKnownHostsFile /dev/null",
             f"ConnectTimeout {hop.connect_timeout_s}", *(f"IdentityFile {_path(one)}" for one in hop.identity_files)]
    if hop.ssh.identities_only:
        lines.append("IdentitiesOnly yes")
    if hop.ssh.identity_agent:
        lines.append(f"IdentityAgent {_quoted(hop.ssh.identity_agent)}")
    if hop.ssh.host_key_alias:
        lines.append(f"HostKeyAlias {hop.ssh.host_key_alias}")
    if number and route[number - 1].relay:
        command = relay.relay_command(hop).replace("%", "%%")
        lines.append(f"ProxyCommand ssh -F {_shell_word(file)} hop-{number - 1} {_shell_word(command)}")
    elif number:
        lines.append(f"ProxyJump hop-{number - 1}")
    return "\n  ".join(lines) + "\n"


def _shell_word(word: str | Path) -> str:
    return "'" + str(word).replace("'", "'\\''") + "'"


def _quoted(word: str) -> str:
    if any(letter in word for letter in '"\n\r\0'):
        raise ConfigError(f"an ssh_config cannot contain {word!r}", remedy="edit hosts.toml")
    return f'"{word}"'


def _path(word: str) -> str:
    """Return a path for an option that has tokens: ours has none."""
    return _quoted(word.replace("%", "%%"))
