"""Login shell: what a host prints before our line runs, and the error of a shell that never runs it.

sshd gives every command to the login shell, which reads start-up files first: they may print, read, exit, or start
another shell. So our sh prints READY before anything else, and an answer is what comes after it.
"""

from __future__ import annotations

from rdtops.errors import LoginShellError
from rdtops.ssh.command import GREETING, NOT_OURS, READY
from rdtops.ssh.display import shown
from rdtops.ssh.hosts import Host

NOISE_BYTES = 1 << 20
TOO_LONG = f"more than {NOISE_BYTES} bytes came before it"
_SHOWN = 300
_START_UP_FILES = {"zsh": "~/.zshenv", "fish": "~/.config/fish/config.fish", "csh": "~/.tcshrc or ~/.cshrc",
                   "bash": "~/.bashrc"}
_CAUSES = {  # words of a shell that does not run our line -> what to do
    "restricted": "a restricted shell cannot run our commands; ask for another one: chsh -s /bin/bash",
    "No PTY requested": "it is a bastion with a menu; its direct form is one hop, user = \"USER@ACCOUNT@ASSET\" "
                        "(docs/logins.md)",
    "not available": "the account has no shell; ask the administrator for one: usermod -s /bin/bash",
}
_NO_PROCESS = ("annot fork", "fork: ", "Resource temporarily unavailable", "can't start new thread", "[Errno 11]")


class Preamble:
    """The output of one pipe up to READY."""

    def __init__(self) -> None:
        self.noise = b""
        self.is_over = False

    def rest(self, piece: bytes) -> bytes:
        """Return what of the next piece of output comes after READY."""
        if self.is_over:
            return piece
        if self.is_too_long:
            return b""
        searched = max(0, len(self.noise) - len(READY))
        self.noise += piece
        at = self.noise.find(READY, searched)
        if at < 0:
            return b""
        self.is_over, rest = True, self.noise[at + len(READY):]
        self.noise = self.noise[:at]
        return rest

    @property
    def is_too_long(self) -> bool:
        return not self.is_over and len(self.noise) > NOISE_BYTES


def unheard(host: Host, how: str, out: bytes, err: bytes) -> LoginShellError:
    """Return the error for a login shell that did not run our line. `how` it ended: "exit 1"; what it printed."""
    text = (err.strip() + b"\n" + out.strip()).strip().decode("utf-8", "replace")
    words = text if len(text) <= _SHOWN else f"{text[:_SHOWN // 2]} ... {text[-_SHOWN // 2:]}"
    printed = f"it printed: {shown(words)}" if words else "it printed nothing"
    return LoginShellError(f"{host.name}: the login shell of {host.user} did not run our command ({how}); {printed}",
                           remedy=_remedy(host, how, text))


def process_remedy(host: Host, text: str) -> str:
    """Return the remedy for a host that starts no more processes; '' for any other error."""
    if not any(words in text for words in _NO_PROCESS):
        return ""
    return f"ps -u {host.user}; ulimit -u   # on {host.name}: it starts no more processes; end some of them"


def _remedy(host: Host, how: str, text: str) -> str:
    if remedy := process_remedy(host, text):
        return remedy
    for words, remedy in _CAUSES.items():
        if words in text:
            return f"on {host.name}: {remedy}"
    if NOT_OURS in text:
        suspect = "`read` or `cat`"
    elif how == f"exit {GREETING.split()[1].decode()}":  # a shell took our greeting for a command
        suspect = "`exec` of another shell"
    else:
        suspect = "`exit`, `exec` or a menu"
    files = next((file for shell, file in _START_UP_FILES.items() if shell in text),
                 ", ".join(_START_UP_FILES.values()) + " or ~/.ssh/rc")
    return (f"on {host.name}: look for {suspect} in {files}, and let it act in terminals only   "
            f"# `ssh {host.name} true` must end at once with exit code 0")
