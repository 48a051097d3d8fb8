"""Transport: paramiko's connection to one hop, with limits on what that hop may send, before and after the login."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA, cMSG_SERVICE_REQUEST

Ask = Callable[[str, bool], str]

REKEY_BYTES = 1 << 35
PACKET_BYTES = 1 << 18  # OpenSSH's own limit
BACKLOG_BYTES = 1 << 26  # unread, of a channel: twice the window that a host may fill
RSA_KEY = "ssh-rsa"  # the key; rsa-sha2-* are its signatures
SERVICE = "ssh-userauth"
QUESTIONS, QUESTION_CHARS = 20, 1000  # of a hop, during a login


class NobodyToAsk(paramiko.SSHException):  # type: ignore[misc]  # paramiko has no types
    """A question that there is no person to answer."""


def bounded(kinds: Sequence[str], sock: Any, **settings: Any) -> paramiko.Transport:
    """Return a transport for Fabric to open. `kinds`: the kinds of host key to prefer, those that are known.

    GCM first: paramiko's first cipher (CTR, with a separate MAC) costs a fifth more CPU. Its window of 2 MiB on the way
    through a jump stays: 32 MiB brought a third at 40 ms, but without delay paramiko's buffer grew too large. New keys
    after 32 GiB (OpenSSH: 64) instead of 512 MiB: when a channel is closed during a rekey, paramiko's thread waits for
    itself, and closes the connection after 30 s."""
    transport = _Transport(sock, **settings)
    transport.packetizer.REKEY_BYTES = REKEY_BYTES
    transport.packetizer.read_all = functools.partial(_bounded_read, transport.packetizer.read_all)
    security = transport.get_security_options()
    security.ciphers = sorted(security.ciphers, key=lambda cipher: "gcm" not in cipher)
    known = {RSA_KEY if kind.startswith("rsa-sha2-") else kind for kind in kinds}
    security.key_types = sorted(security.key_types, key=lambda kind: (
        RSA_KEY if kind.startswith("rsa-sha2-") else kind) not in known)
    return transport


def _feed(channel: paramiko.Channel, message: Any) -> None:
    _refuse_backlog(channel)
    channel._feed(message)  # noqa: SLF001  # as paramiko itself does


def _feed_extended(channel: paramiko.Channel, message: Any) -> None:
    _refuse_backlog(channel)
    channel._feed_extended(message)  # noqa: SLF001


def _refuse_backlog(channel: paramiko.Channel) -> None:
    """Raise SSHException when a host sends more than its window allows; paramiko does not check that."""
    if len(channel.in_buffer) + len(channel.in_stderr_buffer) > BACKLOG_BYTES:
        raise paramiko.SSHException(f"more than {BACKLOG_BYTES} bytes unread in a channel")


def _bounded_read(read: Callable[..., bytes], size: int, check_rekey: bool = False) -> bytes:
    if size > PACKET_BYTES:
        raise paramiko.SSHException(f"a packet of {size} bytes is too large")
    return read(size, check_rekey)


class _AuthHandler(AuthHandler):  # type: ignore[misc]  # paramiko has no types
    """An AuthHandler for one attempt of a login: paramiko's own asks for the service anew each time, at which some
    servers hang up. It limits the number of questions: paramiko would allocate a list of four billion of them."""

    def _request_auth(self) -> None:
        accepted = paramiko.Message()
        accepted.add_string(SERVICE)
        accepted.rewind()
        super()._parse_service_accept(accepted)  # sends the attempt

    def _parse_service_accept(self, message: paramiko.Message) -> None:  # noqa: ARG002
        self.transport.service_accepted.set()

    def _parse_userauth_info_request(self, message: paramiko.Message) -> None:
        head = paramiko.Message(message.get_remainder())
        for _ in range(3):
            head.get_binary()
        if head.get_int() > QUESTIONS:
            raise paramiko.SSHException(f"it asks more than {QUESTIONS} questions")
        super()._parse_userauth_info_request(message)


class _Transport(paramiko.Transport):  # type: ignore[misc]  # paramiko has no types
    """A transport whose thread ends without a traceback when the connection below it is lost: the waiting threads get
    the error. `last_words`: what the server said when it hung up."""

    last_words = ""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.service_accepted = threading.Event()
    _channel_handler_table: ClassVar[dict[int, Any]] = {
        **paramiko.Transport._channel_handler_table,  # noqa: SLF001
        MSG_CHANNEL_DATA: _feed, MSG_CHANNEL_EXTENDED_DATA: _feed_extended}

    def auth_questions(self, username: str, ask: Ask) -> list[str]:
        """Answer the questions of the server (keyboard-interactive); return the methods that it still wants."""
        asked = 0

        def answers(title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
            nonlocal asked
            asked += max(len(prompts), 1)
            if asked > QUESTIONS:
                raise paramiko.SSHException(f"it asks more than {QUESTIONS} questions")
            intro = " ".join(part for part in (title, instructions) if part)
            return [ask(f"{intro} {text}".strip()[:QUESTION_CHARS], echo) for text, echo in prompts]

        return self._attempt(lambda handler, event: handler.auth_interactive(username, answers, event))

    def auth_none(self, username: str) -> list[str]:
        return self._attempt(lambda handler, event: handler.auth_none(username, event))

    def auth_publickey(self, username: str, key: paramiko.PKey) -> list[str]:
        return self._attempt(lambda handler, event: handler.auth_publickey(username, key, event))

    def auth_password(self, username: str, password: str) -> list[str]:
        return self._attempt(lambda handler, event: handler.auth_password(username, password, event))

    def _attempt(self, begin: Callable[[_AuthHandler, threading.Event], None]) -> list[str]:
        """Make an attempt; return the methods that the server still wants, none when it let us in."""
        self._ask_for_service()
        event = threading.Event()
        self.auth_handler = _AuthHandler(self)
        begin(self.auth_handler, event)
        left: list[str] = self.auth_handler.wait_for_response(event)
        return left

    def _ask_for_service(self) -> None:
        if self.service_accepted.is_set():
            return
        self.auth_handler = _AuthHandler(self)
        message = paramiko.Message()
        message.add_byte(cMSG_SERVICE_REQUEST)
        message.add_string(SERVICE)
        self._send_message(message)
        ends_s = time.monotonic() + self.auth_timeout
        while not self.service_accepted.wait(0.05):
            if not self.is_active():
                raise self.saved_exception or paramiko.AuthenticationException("transport shut down or saw EOF")
            if time.monotonic() > ends_s:
                raise paramiko.AuthenticationException("Authentication timeout.")

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        words = paramiko.Message(message.get_remainder())
        words.get_int()
        self.last_words = words.get_text()[:QUESTION_CHARS]
        super()._parse_disconnect(message)

    def run(self) -> None:
        with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
            super().run()
