"""Transfer command: `python -m rdtops.transfer`, which needs only an ssh_config."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rdtops.errors import AuthenticationFailed, RdtopsError, UsageError
from rdtops.porter.entries import Problem
from rdtops.porter.listing import scan
from rdtops.ssh import openssh_client
from rdtops.ssh.display import of_words, printable, shown, size_words
from rdtops.ssh.hosts import Host
from rdtops.ssh.login import ssh_config
from rdtops.ssh.openssh_client import SshClient
from rdtops.transfer.porter_session import OpenPorter
from rdtops.transfer.streams import StreamPool
from rdtops.transfer.transfer import (
    Outcome,
    TransferProgress,
    download,
    plan_download,
    plan_upload,
    ranged_from,
    streams_over,
    upload,
)
from rdtops.transfer.transfer_plan import Plan

LINE_EVERY_S = 10.0  # without a terminal


def main(argv: Sequence[str] | None = None) -> int:
    """python -m rdtops.transfer [--ssh-config FILE | --hosts FILE] SRC HOST:DST, or HOST:SRC DST"""
    parser = argparse.ArgumentParser(prog="python -m rdtops.transfer", description=main.__doc__)
    parser.add_argument("--ssh-config", help="HOST is a Host of this file, with ProxyJump")
    parser.add_argument("--hosts", help="HOST is of this inventory; default hosts.toml")
    parser.add_argument("--verify", choices=["cached", "full"], default="cached")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and why")
    parser.add_argument("source")
    parser.add_argument("target")
    options = parser.parse_args(argv)
    try:
        plan, outcome = _run(options)
    except RdtopsError as error:
        sys.stderr.write(printable(f"{error.message}\n" + (f"try: {error.remedy}\n" if error.remedy else "")))
        return error.exit_code
    _print(plan, outcome)
    return 0


def _run(options: argparse.Namespace) -> tuple[Plan, Outcome | None]:
    host, upwards = _sides(options)
    if openssh_client.present():
        try:
            with SshClient(host) as client:
                return _moved(options, client, upwards)
        except AuthenticationFailed as error:
            if not sys.stdin.isatty() or not re.search("keyboard-interactive|password", error.message):
                raise
    from rdtops.ssh.connection import Connection  # here, because Fabric is slow to import and seldom needed

    with Connection(host, _ask if sys.stdin.isatty() else None) as connection:
        return _moved(options, connection, upwards)


def _ask(question: str, echo: bool) -> str:
    """Ask the person for a code that a hop requires beside the key."""
    return (input if echo else getpass.getpass)(f"{printable(question)} ")


def _moved(options: argparse.Namespace, way: OpenPorter, upwards: bool) -> tuple[Plan, Outcome | None]:
    watch = Display() if sys.stderr.isatty() else LineDisplay()
    with contextlib.ExitStack() as stack:
        if upwards:
            local, remote = Path(options.source), _into(options.target.partition(":")[2], options.source)
            streams = None if options.dry_run else _early(way, local, stack)
            plan = plan_upload(way, local, remote, verify=options.verify)
            return plan, None if options.dry_run else upload(way, plan, watch, streams=streams)
        remote = options.source.partition(":")[2]
        plan = plan_download(way, remote, Path(_into(options.target, remote)), verify=options.verify)
        return plan, None if options.dry_run else download(way, plan, watch)


def _early(way: OpenPorter, local: Path, stack: contextlib.ExitStack) -> StreamPool | None:
    """Return streams that log in while the plan is being made."""
    if not isinstance(way, SshClient):
        return None
    with contextlib.suppress(Problem, OSError):  # the plan reports it
        largest = max((e.size for e in scan(str(local.expanduser().absolute()))), default=0)
        streams = streams_over(way, stack)
        stack.callback(streams.close)
        streams.start(lambda rtt_s: largest >= ranged_from(rtt_s))
        return streams
    return None


def _print(plan: Plan, outcome: Outcome | None) -> None:
    for item in plan.items if outcome is None else plan.to_do:
        size = "" if outcome else f"{size_words(item.size_bytes)}, "
        md5 = f", MD5 {outcome.md5s[item.path]}" if outcome and item.entry.kind == "file" else ""
        sys.stdout.write(f"{item.action:6} {shown(item.path)}: {size}{shown(item.reason)}{md5}\n")
    if outcome is None:
        sys.stdout.write(f"{len(plan.to_do)} of {len(plan.items)} files, {size_words(plan.bytes_to_send)} to send\n")
    else:
        sys.stdout.write(f"{outcome.sent_files} files sent ({size_words(outcome.sent_bytes)}), {outcome.skipped_files} "
                         f"were the same, {outcome.seconds:.1f} s; every MD5 verified\n")


class Display:
    """Progress on one line of a terminal."""

    every_s, start, end = 0.2, "\r\x1b[K", ""

    def __init__(self) -> None:
        self._start_s = self._shown_s = time.monotonic()
        self._first_bytes: int | None = None

    def __call__(self, progress: TransferProgress) -> None:
        now_s = time.monotonic()
        if self._first_bytes is None:
            self._first_bytes = progress.bytes_done
        done = progress.bytes_done >= progress.bytes_total
        if now_s - self._shown_s < self.every_s and not done:
            return
        self._shown_s = now_s
        sys.stderr.write(self.start + self._words(progress, self._first_bytes, now_s) + ("\n" if done else self.end))
        sys.stderr.flush()

    def _words(self, progress: TransferProgress, first_bytes: int, now_s: float) -> str:
        rate = (progress.bytes_done - first_bytes) / max(now_s - self._start_s, 0.1)
        left_s = (progress.bytes_total - progress.bytes_done) / rate if rate else 0
        done = of_words(progress.bytes_done, progress.bytes_total)
        return f"{done}, {size_words(int(rate))}/s, {left_s:.0f} s left, {shown(progress.path)[-40:]}"


class LineDisplay(Display):
    """Progress without a terminal: a line now and then, and none for a transfer that ends at once."""

    every_s, start, end = LINE_EVERY_S, "", "\n"

    def __call__(self, progress: TransferProgress) -> None:
        if progress.bytes_done < progress.bytes_total:
            super().__call__(progress)


def _sides(options: argparse.Namespace) -> tuple[Host, bool]:
    """Return the host, and whether it is the target."""
    def named(side: str) -> str:
        name, colon, _ = side.partition(":")
        return name if colon and "/" not in name else ""

    source, target = named(options.source), named(options.target)
    if bool(source) == bool(target):
        raise UsageError(f"one of {options.source!r} and {options.target!r} must be HOST:PATH")
    return _host(options, source or target), bool(target)


def _host(options: argparse.Namespace, name: str) -> Host:
    if options.ssh_config:
        return ssh_config.host(name, {}, Path(options.ssh_config).expanduser().absolute())
    from rdtops.ssh import inventory  # here, because what checks hosts.toml is slow to import

    return inventory.load(options.hosts).host(name)


def _into(target: str, source: str) -> str:
    """Return the target, as cp does: a target that ends in / gets the source's name."""
    return target + Path(source).name if target.endswith("/") else target
