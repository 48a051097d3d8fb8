"""Menu bastion of the lab: `python -m rdtops.lab.menu_bastion server.json`, a jump host in the manner of JumpServer.

It takes no command and forwards nothing. Without a terminal it says "No PTY requested." and ends with success; at a
terminal it shows a menu of the hosts ("assets"). Who logs in as USER@ACCOUNT@ASSET goes straight to that account of an
asset, with commands, terminals and SFTP; the bastion logs in there by itself.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED

from rdtops.lab.asyncssh_server import begun, listen
from rdtops.lab.lab_files import LabFolder
from rdtops.lab.server import ADDRESS, Server

_Open = Callable[[asyncssh.SSHServerChannel, Callable[[], None], str | None], Awaitable[asyncssh.SSHClientChannel]]


_logger = logging.getLogger("bastion")


def main(config: str) -> None:
    server = begun(config)
    asyncio.run(listen(server, partial(_MenuPolicy, server), {}))


class _MenuPolicy(asyncssh.SSHServer):  # type: ignore[misc]  # mypy skips asyncssh
    """One login: its sessions show the menu, or go through to the asset that the login name says."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._assets: dict[tuple[str, str], asyncio.Task[asyncssh.SSHClientConnection]] = {}

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        for opening in self._assets.values():
            opening.add_done_callback(_close)

    def begin_auth(self, username: str) -> bool:
        self._user, *self._straight_to = username.split("@", 2)
        if self._user == self._server.environment["USER"] and len(self._straight_to) in (0, 2):
            self._connection.set_authorized_keys(str(self._server.authorized_keys))
        return True  # no key matches any other name

    def auth_completed(self) -> None:
        _logger.info("Accepted publickey for %s", "@".join((self._user, *self._straight_to)))

    def connection_requested(self, *_: object) -> bool:
        raise asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "port forwarding is disabled")

    def session_requested(self) -> asyncssh.SSHServerSession | tuple[asyncssh.SSHServerChannel, _Menu]:
        if self._straight_to:
            account, asset = self._straight_to
            return _Straight(partial(self._session_on, account, asset))
        assets = {name: partial(self._session_on, self._user, name) for name in self._server.targets}
        return self._connection.create_server_channel(encoding="utf-8", errors="replace"), _Menu(self._user, assets)

    async def _session_on(self, account: str, asset: str, channel: asyncssh.SSHServerChannel,
                          ended: Callable[[], None], encoding: str | None) -> asyncssh.SSHClientChannel:
        """Open on the asset what the client asked for in this channel, and hand its answers on. Raise OSError or
        asyncssh.Error."""
        if asset not in self._server.targets:
            raise OSError(f"No such asset: {asset}; assets: {', '.join(self._server.targets)}")
        opening = self._assets.get((account, asset))
        if opening is None or (opening.done() and (opening.exception() or opening.result().is_closed())):
            opening = self._assets[account, asset] = asyncio.ensure_future(self._log_in(account, asset))
        connection = await asyncio.shield(opening)
        size, modes = channel.get_terminal_size(), channel.get_terminal_modes()
        opened, _ = await connection.create_session(
            partial(_Answers, channel, ended), command=channel.get_command(), subsystem=channel.get_subsystem(),
            term_type=channel.get_terminal_type(), term_size=size, term_modes=modes, encoding=encoding,
            errors="replace" if encoding else "strict")
        return opened

    async def _log_in(self, account: str, asset: str) -> asyncssh.SSHClientConnection:
        lab = LabFolder(self._server.folder.parent)
        return await asyncssh.connect(ADDRESS, self._server.targets[asset], username=account, config=None,
                                      agent_path=None, client_keys=[str(lab.identity_file)],
                                      known_hosts=str(lab.known_hosts))


def _close(opening: asyncio.Task[asyncssh.SSHClientConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class _Answers(asyncssh.SSHClientSession):  # type: ignore[misc]
    """The asset's side: what it says goes to the client."""

    def __init__(self, client: asyncssh.SSHServerChannel, ended: Callable[[], None]) -> None:
        self._client = client
        self._ended = ended

    def connection_made(self, chan: asyncssh.SSHClientChannel) -> None:
        self._channel = chan

    def data_received(self, data: Any, datatype: int | None) -> None:
        if isinstance(data, str):  # of a terminal, to a menu that ends each line as a terminal does
            data = data.replace("\r\n", "\n")
        with suppress(BrokenPipeError):  # the client has left
            self._client.write(data, datatype)

    def eof_received(self) -> bool:
        return True  # its exit status follows

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self._client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._ended()


class _Passage(asyncssh.SSHServerSession):  # type: ignore[misc]
    """A session that can go on to an asset; what its client sends meanwhile is kept."""

    channel: asyncssh.SSHServerChannel
    asset: asyncssh.SSHClientChannel | None = None

    def __init__(self) -> None:
        self._opening: asyncio.Task[None] | None = None
        self._early: list[Callable[[], object]] = []

    def connection_made(self, chan: asyncssh.SSHServerChannel) -> None:
        self.channel = chan

    def pty_requested(self, *_: object) -> bool:
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:  # noqa: ARG002
        return True

    def go_to(self, open_: _Open, encoding: str | None) -> None:
        self._opening = asyncio.create_task(self._connect(open_, encoding))

    async def _connect(self, open_: _Open, encoding: str | None) -> None:
        try:
            self.asset = await open_(self.channel, self.asset_ended, encoding)
        except (OSError, asyncssh.Error) as error:
            text = f"{error}\r\n"
            self.channel.write(text if encoding else text.encode())
            self.asset_ended()
        self._opening = None
        early, self._early = self._early, []
        for event in early:
            event()

    def asset_ended(self) -> None:
        """Go on after the asset's program; without `asset` where it could not be reached."""
        raise NotImplementedError

    def data_received(self, data: Any, datatype: int | None) -> None:
        if self._opening:
            self._early.append(partial(self.data_received, data, datatype))
        elif self.asset:
            with suppress(BrokenPipeError):  # the asset's program has ended
                self.asset.write(data)
        else:
            self.typed(data)

    def typed(self, data: Any) -> None:
        """Handle what was sent to no asset."""

    def eof_received(self) -> bool:
        if self._opening:
            self._early.append(self.eof_received)
        elif self.asset:
            self.asset.write_eof()
        return True  # answers follow

    def signal_received(self, signal: str) -> None:
        if self.asset:
            self.asset.send_signal(signal)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self.asset:
            self.asset.change_terminal_size(width, height, pixwidth, pixheight)

    def pause_writing(self) -> None:
        if self.asset:
            self.asset.pause_reading()

    def resume_writing(self) -> None:
        if self.asset:
            self.asset.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.asset:
            self.asset.close()


class _Straight(_Passage):
    """A session of USER@ACCOUNT@ASSET."""

    def __init__(self, open_: _Open) -> None:
        super().__init__()
        self._open = open_

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        self.go_to(self._open, None)

    def asset_ended(self) -> None:
        """End as the asset's program ended; without a word where the asset was lost."""
        signal, status = (self.asset.get_exit_signal(), self.asset.get_exit_status()) if self.asset else (None, 1)
        if signal:
            self.channel.exit_with_signal(*signal)
        elif status is not None and status >= 0:
            self.channel.exit(status)
        else:
            self.channel.close()


class _Menu(_Passage):
    """A session of the menu: lines of text, until an asset is chosen."""

    def __init__(self, user: str, assets: Mapping[str, _Open]) -> None:
        super().__init__()
        self._user = user
        self._assets = assets

    def session_started(self) -> None:
        if self.channel.get_terminal_type() is None:
            self.channel.write("No PTY requested.\n")
            self.channel.exit(0)
        else:
            self.channel.write(f"\n  {self._user}, welcome to the bastion of the rdtops lab.\n\n")
            self._show()

    def break_received(self, msec: int) -> bool:  # noqa: ARG002  # Ctrl-C at the menu
        self.channel.exit(0)
        return True

    def asset_ended(self) -> None:
        self.asset = None
        self.channel.set_line_mode(True)
        self.channel.write("Opt> ")

    def typed(self, data: Any) -> None:
        choice, names = str(data).strip(), [*self._assets]
        name = names[int(choice) - 1] if choice.isdigit() and 0 < int(choice) <= len(names) else choice
        if name in names:
            self.channel.write(f"Connecting to {self._user}@{name}\n")
            self.channel.set_line_mode(False)
            self.go_to(self._assets[name], "utf-8")
        elif choice == "q":
            self.channel.exit(0)
        elif choice == "p":
            self._show()
        else:
            self.channel.write((f"No such asset: {choice}\n" if choice else "") + "Opt> ")

    def _show(self) -> None:
        rows = "".join(f"  {number}) {name}\n" for number, name in enumerate(self._assets, 1))
        self.channel.write(f"{rows}  The number or name of an asset, p to see them again, q to leave.\nOpt> ")


if __name__ == "__main__":
    main(sys.argv[1])
