"""Identities: how we prove who we are to a hop, in the order of ssh: keys of the agent, keys of files, then what a
person answers. paramiko's own order offers every key of the agent first, and a server hangs up after six.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from paramiko.agent import AgentSSH
from paramiko.auth_strategy import AuthStrategy

from rdtops.hostlib.names import quoted
from rdtops.ssh.hosts import NO_FILES, Hop
from rdtops.ssh.transport import Ask, NobodyToAsk

DEFAULT_FILES = (Path("~/.ssh/id_rsa"), Path("~/.ssh/id_ecdsa"), Path("~/.ssh/id_ed25519"))  # of ssh; paramiko's kinds
AGENT_S, SIGNING_S = 10.0, 60.0  # for the agent, which may ask a person before it signs
TRIES = 3  # of a person at one question, as ssh's NumberOfPasswordPrompts
PUBLICKEY, INTERACTIVE, PASSWORD = "publickey", "keyboard-interactive", "password"
BEGIN, END = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
OPEN_TO_OTHERS = "is open to other users, so ssh does not use it"
NO_FILE, LOCKED = "no such file", "has a passphrase and is not in the agent"
MAGIC = b"openssh-key-v1\0"


class LoginRefused(paramiko.AuthenticationException):  # type: ignore[misc]  # paramiko has no types
    """The hop accepts nothing of what we have. `offered`, `unusable`: keys in words; `methods`: what it accepts;
    `question`: what it asks, where there is no person to answer; `dropped`: its words when it hung up."""

    def __init__(self, offered: Sequence[str], unusable: Sequence[Unusable], methods: Sequence[str],
                 question: str = "", dropped: str = "") -> None:
        super().__init__("Authentication failed.")
        self.offered, self.unusable, self.methods = tuple(offered), tuple(unusable), tuple(methods)
        self.question, self.dropped = question, dropped


@dataclass(frozen=True)
class Unusable:
    """A key that is configured and cannot be offered."""

    file: str
    why: str
    remedy: str = ""


@dataclass
class Identities:
    """The keys to offer to a hop: (their name, the key), and those that cannot be used."""

    keys: list[tuple[str, Any]] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)


@contextlib.contextmanager
def identities(hop: Hop) -> Iterator[Identities]:
    """Give the keys for a hop in the order of ssh: of the agent, those of the configured files first; then the files
    that the agent does not hold."""
    with _agent(hop) as agent:
        yield _ordered(hop, agent)


def _ordered(hop: Hop, agent: Sequence[Any]) -> Identities:
    found = Identities()
    files = [Path(file).expanduser() for file in hop.identity_files if file != NO_FILES] if hop.identity_files else [
        file for file in map(Path.expanduser, DEFAULT_FILES) if file.exists()]
    held = {key.asbytes(): key for key in agent}
    blobs = {file: public_blob(file) for file in files}
    ours = [(str(file), held.pop(blob)) for file, blob in blobs.items() if blob in held]
    others = [] if hop.ssh.identities_only else [(f"{key.comment or key.get_name()} of the agent", key)
                                                 for key in held.values()]
    found.keys = [*((f"{name} of the agent", key) for name, key in ours), *others]
    for file in files:
        if str(file) not in dict(ours):
            _add_file(found, file)
    return found


def _add_file(found: Identities, file: Path) -> None:
    try:
        if file.stat().st_mode & 0o077 and file.stat().st_uid == os.getuid() and not _is_public(file):
            found.unusable.append(Unusable(str(file), OPEN_TO_OTHERS, f"chmod 600 {file}"))
            return
        found.keys.append((str(file), _private_key(file)))
    except FileNotFoundError:
        found.unusable.append(Unusable(str(file), NO_FILE))
    except paramiko.PasswordRequiredException:
        found.unusable.append(Unusable(str(file), LOCKED, f"ssh-add {file}"))
    except OSError as error:
        found.unusable.append(Unusable(str(file), error.strerror or str(error)))
    except Exception as error:  # paramiko and cryptography raise many types for a file that is no key
        if "password" in str(error).lower():
            why, remedy = LOCKED, f"ssh-add {file}"
        elif _is_public(file):
            why, remedy = "is a public key, and the agent does not hold its private key", "ssh-add -l"
        else:
            why, remedy = f"is no private key that can be read ({str(error)[:100] or type(error).__name__})", ""
        found.unusable.append(Unusable(str(file), why, remedy))


def _private_key(file: Path) -> paramiko.PKey:
    """Load a private key. paramiko does not know PKCS8 of RSA."""
    try:
        return paramiko.PKey.from_path(file)
    except paramiko.PasswordRequiredException:
        raise
    except (paramiko.SSHException, ValueError):
        key = load_pem_private_key(file.read_bytes(), None)
        if not isinstance(key, RSAPrivateKey):
            raise
        return paramiko.RSAKey(key=key)


def _is_public(file: Path) -> bool:
    return _first_line(file).startswith(("ssh-", "ecdsa-", "sk-"))


# --- the agent ---

class Agent(AgentSSH):  # type: ignore[misc]  # paramiko has no types
    """The agent behind a socket. paramiko's own knows no IdentityAgent and waits for ever."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connect(connection)


@contextlib.contextmanager
def _agent(hop: Hop) -> Iterator[Sequence[Any]]:
    """Give the keys of the hop's agent; none where there is no agent or it does not answer."""
    path = hop.ssh.identity_agent or os.environ.get("SSH_AUTH_SOCK", "")
    if not path or path == "none":
        yield ()
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(AGENT_S)
        try:
            connection.connect(path)
            keys: Sequence[Any] = Agent(connection).get_keys()
        except (OSError, paramiko.SSHException, EOFError, ValueError):
            keys = ()
        connection.settimeout(SIGNING_S)
        yield [key for key in keys if not key.get_name().startswith("sk-")]


# --- files of keys ---

def public_blob(file: Path) -> bytes:
    """Return the public key of a key file: of FILE.pub, else of FILE, also where that has a passphrase; b"" where it
    cannot be read."""
    for candidate in (Path(f"{file}.pub"), file):
        words = _first_line(candidate).split()
        if len(words) >= 2 and words[0].startswith(("ssh-", "ecdsa-", "sk-")):
            try:
                return base64.b64decode(words[1], validate=True)
            except ValueError:
                continue
    return _blob_inside(file)


def _blob_inside(file: Path) -> bytes:
    """Read the public part of an OpenSSH private key: PROTOCOL.key of OpenSSH."""
    try:
        text = file.read_text(encoding="ascii")
        rest = base64.b64decode("".join(text.partition(BEGIN)[2].partition(END)[0].split()), validate=True)
    except (OSError, ValueError):
        return b""
    if not rest.startswith(MAGIC):
        return b""
    rest = rest[len(MAGIC):]
    for _ in range(3):  # cipher, key derivation, its options
        rest = rest[4 + int.from_bytes(rest[:4], "big"):]
    rest = rest[4:]  # number of keys
    return rest[4:4 + int.from_bytes(rest[:4], "big")]


def _first_line(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.readline(1 << 16)
    except OSError:
        return ""


# --- the login ---

class Login(AuthStrategy):  # type: ignore[misc]  # paramiko has no types
    """Log in to a hop: offer keys, then ask the person for what else the hop wants. The answers are kept nowhere."""

    def __init__(self, hop: Hop, ask: Ask | None) -> None:
        super().__init__(ssh_config=None)
        self._hop, self._ask = hop, ask
        self._offered: list[str] = []
        self._unusable: list[Unusable] = []

    def get_sources(self) -> Iterator[Any]:
        """Yield nothing: authenticate does all itself."""
        yield from ()

    def authenticate(self, transport: Any) -> list[str]:
        """Log in. Raise LoginRefused."""
        methods = self._by_keys(transport)
        used: set[str] = set()
        while methods:
            method = next((m for m in (INTERACTIVE, PASSWORD) if m in methods and m not in used), None)
            if method is None:
                raise self._refused(methods)
            used.add(method)
            left = self._by_answers(transport, method, methods)
            methods = self._by_keys(transport) if left is not methods and PUBLICKEY in left else left
        return []

    def _by_keys(self, transport: Any) -> list[str]:
        """Offer the keys; return the methods that are still wanted, none when the hop let us in."""
        wanted: list[str] | None = None
        with identities(self._hop) as found:
            self._unusable = found.unusable
            for name, key in found.keys:
                self._offered.append(name)
                left = self._tried(transport, functools.partial(transport.auth_publickey, self._hop.user, key))
                if left is not None and PUBLICKEY not in left:
                    return left
                wanted = wanted if left is None else left  # one key of two
        if wanted is not None:
            return wanted
        methods = self._tried(transport, lambda: transport.auth_none(self._hop.user))
        if methods is None:
            raise self._refused([])
        return methods

    def _by_answers(self, transport: Any, method: str, methods: list[str]) -> list[str]:
        """Ask the person, a few times where the answer is wrong; return the methods that are still wanted."""
        questions = [0]

        def ask(question: str, echo: bool) -> str:
            questions[0] += 1
            if self._ask is None:
                raise NobodyToAsk(question)
            try:
                return self._ask(question, echo)
            except EOFError:  # Ctrl-D
                raise NobodyToAsk(question) from None

        def attempt() -> list[str]:
            if method == PASSWORD:
                return list(transport.auth_password(self._hop.user, ask("password:", False)))
            return list(transport.auth_questions(self._hop.user, ask))

        for number in range(1, TRIES + 1):
            try:
                left = self._tried(transport, attempt)
            except NobodyToAsk as question:
                raise self._refused(methods, question=str(question)) from None
            if left is not None:
                return left
            if questions[0] < number:  # refused without a question
                break
        return methods

    def _tried(self, transport: Any, attempt: Callable[[], list[str]]) -> list[str] | None:
        """Return the methods that are wanted beside this one, none when the hop let us in; None when it refused. Raise
        LoginRefused when it hung up with a word."""
        try:
            return attempt()
        except NobodyToAsk:
            raise
        except paramiko.BadAuthenticationType as error:
            return list(error.allowed_types) or None
        except paramiko.AuthenticationException:
            if not transport.is_active():
                if transport.last_words:
                    raise self._refused([], dropped=transport.last_words) from None
                raise
            return None
        except paramiko.SSHException:  # the agent does not sign with this key
            if not transport.is_active():
                raise
            return None

    def _refused(self, methods: Sequence[str], question: str = "", dropped: str = "") -> LoginRefused:
        return LoginRefused(self._offered, self._unusable, methods, quoted(question) if question else "",
                            quoted(dropped) if dropped else "")
