"""OpenSSH backend of the lab: the path of sshd and its configuration."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from rdtops.errors import LabError
from rdtops.lab.lab_files import place

_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"  # often not on an ordinary user's PATH
_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server",
                 "/usr/libexec/sftp-server", "/usr/lib/sftp-server")
_PAM = Path("/etc/pam.d")
_PAM_MODULES = ("lib/security/pam_exec.so", "lib64/security/pam_exec.so", "lib/*/security/pam_exec.so",
                "usr/lib/*/security/pam_exec.so", "usr/lib*/security/pam_exec.so")
_ASK_PAM = "UsePAM yes\nPermitRootLogin yes\n"
_DOORS = {  # lines before all others: sshd takes the first value of a keyword
    "noforward": "AllowTcpForwarding no\nAllowStreamLocalForwarding no\n",
    "password": f"AuthenticationMethods password\nPasswordAuthentication yes\n{_ASK_PAM}",
    "code": f"AuthenticationMethods keyboard-interactive\nKbdInteractiveAuthentication yes\n{_ASK_PAM}",
    "key-and-code": ("AuthenticationMethods publickey,keyboard-interactive\nKbdInteractiveAuthentication yes\n"
                     f"{_ASK_PAM}"),
    "oldkeys": "HostKeyAlgorithms ssh-rsa\nKexAlgorithms diffie-hellman-group14-sha1\n",
}


def sshd() -> str | None:
    """Return the absolute path of sshd, because sshd executes itself again."""
    return shutil.which("sshd") or shutil.which("sshd", path=_SBIN)


def obstacle() -> str | None:
    """Return why OpenSSH cannot run the lab here, None when it can."""
    if sshd() is None:
        return "sshd is not installed (package openssh-server)"
    if os.geteuid() == 0 and _root_is_locked():
        return "root's account is locked, and sshd without PAM refuses logins to a locked account"
    return None


def gives_terminals() -> bool:
    """Tell whether sshd can give terminals. Without root it cannot give a terminal to the group tty; it need not where
    devpts is mounted with that group, as on Debian and in Docker, but not everywhere."""
    if os.geteuid() == 0:
        return True
    try:
        tty = grp.getgrnam("tty").gr_gid
    except KeyError:
        return True
    master, slave = os.openpty()
    try:
        return os.fstat(slave).st_gid == tty or tty in os.getgroups()
    finally:
        os.close(master)
        os.close(slave)


def pam_obstacle() -> str | None:
    """Return why sshd cannot ask PAM here, None when it can."""
    if os.geteuid():
        return "sshd asks PAM only as root"
    if not _PAM.is_dir():
        return f"there is no {_PAM}"
    modules = (path for folder in _PAM_MODULES for path in Path("/").glob(folder))
    return None if any(modules) else "PAM's module pam_exec.so is not installed"


def listening(config: Path, log: Path, service: str = "") -> list[str]:
    """Return the command of an sshd that listens itself: the jump host. PAM knows an sshd by the name that it was
    started by: `service`, a link beside its configuration."""
    program = Path(_sshd())
    if service:
        link = config.parent / service
        link.unlink(missing_ok=True)
        link.symlink_to(program)
        program = link
    return [str(program), "-D", "-f", str(config), "-E", str(log)]


def serving_one(config: Path, log: Path) -> list[str]:
    """Return the command of an sshd that serves the connection on its standard input: a GPU host, behind its gate."""
    return [_sshd(), "-i", "-f", str(config), "-E", str(log)]


def prepare_system() -> None:
    """Create the empty folder for privilege separation, which sshd needs under root; usually it is made at boot."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


def prepare_pam(service: str, words: Path) -> None:
    """Let PAM admit to this service whoever knows an entry word of this file."""
    root = str(Path(__file__).resolve().parents[2])
    program = f"import sys; sys.path.insert(0, {root!r}); from rdtops.lab import entry_words; entry_words.main()"
    place(_PAM / service, (
        "# Written by the rdtops lab, removed by inv lab.down.\n"
        f"auth required pam_exec.so type=auth expose_authtok quiet [{sys.executable}] -I -c [{program}] [{words}]\n"
        "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"))


def remove_pam(service: str) -> None:
    if os.geteuid() == 0:
        (_PAM / service).unlink(missing_ok=True)


def door_config(door: str, service: str = "") -> str:
    """Return the lines that come before the jump host's configuration at this door. `service` is PAM's name for it,
    which sshd can be told since 9.9."""
    return _DOORS.get(door, "") + (_if_known(f"PAMServiceName {service}") if service else "")


def jump_config(*, port: int, host_key: Path, authorized_keys: Path, ports: Iterable[int]) -> str:
    """Return the jump host's configuration: forwarding to these ports only; MaxSessions 0 refuses shell, exec and
    subsystems."""
    allowed = " ".join(f"127.0.0.1:{p} localhost:{p}" for p in ports)
    text = _common(port=port, host_key=host_key, authorized_keys=authorized_keys) + (
        "MaxSessions 0\n"
        "PermitTTY no\n"
        "AllowTcpForwarding local\n"
        "AllowStreamLocalForwarding no\n"
        f"PermitOpen {allowed}\n")
    # sshd 9.8 and later blocks an address after failed logins, and here all clients have the same address
    return text + _if_known("PerSourcePenalties no")


def host_config(*, port: int, host_key: Path, authorized_keys: Path, environment: Mapping[str, str],
                session: Path) -> str:
    """Return a GPU host's configuration: every kind of session, in its own environment and home folder."""
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return _common(port=port, host_key=host_key, authorized_keys=authorized_keys) + (
        "MaxStartups 100\n"  # it may represent many hosts
        f"SetEnv {variables}\n"
        f"PermitTTY {'yes' if gives_terminals() else 'no'}\n"  # if it cannot give one, sshd ends the connection
        f"ForceCommand {shlex.quote(str(session))}\n"
        f"Subsystem sftp {_sftp_server()}\n")


# sshd starts a session in the home folder of the passwd file; SetEnv moves HOME, and this moves the session there.
SESSION = """\
#!/bin/sh
cd "$HOME" || exit
unset OLDPWD
command=$SSH_ORIGINAL_COMMAND
unset SSH_ORIGINAL_COMMAND
[ -n "$command" ] || exec "$SHELL"
exec "$SHELL" -c "$command"
"""


def _common(*, port: int, host_key: Path, authorized_keys: Path) -> str:
    return (f"Port {port}\n"
            "ListenAddress 127.0.0.1\n"
            f'HostKey "{host_key}"\n'
            "PidFile none\n"
            f'AuthorizedKeysFile "{authorized_keys}"\n'
            f"AllowUsers {pwd.getpwuid(os.geteuid()).pw_name}\n"
            "PermitRootLogin prohibit-password\n"
            "AuthenticationMethods publickey\n"
            "PasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\n"
            "StrictModes no\n"
            "UsePAM no\n"
            "UseDNS no\n"
            "PermitUserRC no\n"
            "PrintMotd no\n"
            "PrintLastLog no\n"
            "AllowAgentForwarding no\n"
            "X11Forwarding no\n")


def _if_known(line: str) -> str:
    """Return a line of configuration where this sshd knows its keyword, else ''."""
    known = subprocess.run([_sshd(), "-T", "-f", os.devnull, "-o", line], capture_output=True, encoding="utf-8",
                           errors="replace", timeout=10, check=False)
    return "" if "Bad configuration option" in known.stderr else line + "\n"


def _sshd() -> str:
    path = sshd()
    if path is None:
        raise LabError("sshd is not installed", remedy="sudo apt-get install -y openssh-server")
    return path


def _sftp_server() -> str:
    return next((path for path in _SFTP_SERVERS if Path(path).exists()), "internal-sftp")


def _root_is_locked() -> bool:
    try:
        entries = Path("/etc/shadow").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(entry.startswith("root:!") for entry in entries)
