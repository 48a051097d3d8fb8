"""What the transfer program says on its way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from rdtops.transfer.transfer import TransferProgress
from rdtops.transfer.transfer_command import Display, LineDisplay

MB = 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def progress(done: int, total: int = 100 * MB) -> TransferProgress:
    return TransferProgress("models/big\n.bin", done, total, 0, 1)


def test_a_terminal_shows_bytes_rate_time_to_go_and_file(clock: Callable[[float], None],
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    display(progress(20 * MB))  # was there before: it says nothing about the rate
    clock(2)
    display(progress(60 * MB))
    clock(0.1)
    display(progress(61 * MB))  # too soon to be read
    clock(2)
    display(progress(100 * MB))
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert shown == ["", "60 of 100 MB, 20 MB/s, 2 s left, models/big\\n.bin",
                     "100 of 100 MB, 19.5 MB/s, 0 s left, models/big\\n.bin\n"]


def test_without_a_terminal_a_line_now_and_then_and_none_for_what_is_quick(
        clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    lines = LineDisplay()
    lines(progress(0))
    for done in range(10, 100, 10):
        clock(4)
        lines(progress(done * MB))
    lines(progress(100 * MB))
    said = capsys.readouterr().err
    assert said.splitlines() == ["30 of 100 MB, 2.5 MB/s, 28 s left, models/big\\n.bin",
                                 "60 of 100 MB, 2.5 MB/s, 16 s left, models/big\\n.bin",
                                 "90 of 100 MB, 2.5 MB/s, 4 s left, models/big\\n.bin"]
    assert "\r" not in said
    quick = LineDisplay()
    quick(progress(50 * MB))
    quick(progress(100 * MB))
    assert capsys.readouterr().err == ""


def test_an_option_that_names_no_host_is_a_usage_error(monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    from rdtops.transfer import transfer_command

    monkeypatch.setattr(sys, "argv", ["transfer"])
    assert transfer_command.main(["here", "there"]) == 2
    assert "one of 'here' and 'there' must be HOST:PATH" in capsys.readouterr().err
