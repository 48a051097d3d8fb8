"""A gateway that gives a session and refuses every command in it: named, and no lost connection. A real SSH server."""

from __future__ import annotations

import asyncio
import getpass
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from rdtops.errors import LoginShellError, SessionRefused
from rdtops.lab import keys
from rdtops.ssh.channels import max_sessions
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host


class Menu(asyncssh.SSHServerSession):
    """It shows its menu, and refuses to execute."""

    def connection_made(self, chan):
        self.channel = chan

    def exec_requested(self, command):
        self.channel.write("Choose an asset: \x1b[1m1) gpu-1\n")
        return False


class Gateway(asyncssh.SSHServer):
    session = Menu

    def begin_auth(self, username):
        return True

    def public_key_auth_supported(self):
        return True

    def validate_public_key(self, username, key):
        return True

    def session_requested(self):
        return self.session() if self.session else False


@pytest.fixture
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    for name in ("host_key", "id"):
        keys.make(tmp_path / name)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    factory = type("Here", (Gateway,), {"session": getattr(request, "param", Menu)})

    async def listen():
        return await asyncssh.listen("127.0.0.1", 0, server_factory=factory, encoding="utf-8",
                                     server_host_keys=[str(tmp_path / "host_key")])

    listener = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    port = listener.get_port()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host_key.pub').read_text()}")
    yield Host(name="gateway", address="127.0.0.1", port=port, user=getpass.getuser(), connect_timeout_s=10,
               identity_file=str(tmp_path / "id"), known_hosts=str(tmp_path / "known_hosts"))

    async def end():
        listener.close()
        await listener.wait_closed()
        while len(asyncio.all_tasks()) > 1:  # of connections that their client has closed
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)

    asyncio.run_coroutine_threadsafe(end(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_a_gateway_that_executes_nothing_is_named_with_its_words(host):
    with Connection(host) as connection:
        with pytest.raises(LoginShellError, match=r"gateway: .*it refuses commands") as raised:
            connection.run(Command("true"))
        assert connection.alive
    assert r"Choose an asset: \x1b[1m1) gpu-1" in raised.value.message
    assert "menu" in raised.value.remedy


@pytest.mark.parametrize("host", [None], indirect=True)
def test_a_gateway_that_opens_no_session_is_named_soon(host, monkeypatch):
    monkeypatch.setattr(max_sessions, "OWN_WAIT_S", 0.3)
    with Connection(host) as connection:
        begun_s = time.monotonic()
        with pytest.raises(SessionRefused, match="gateway: its sshd opens no session"):
            connection.run(Command("true"))
        assert time.monotonic() - begun_s < 5
        assert connection.alive
