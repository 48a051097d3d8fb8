"""Each answer of a host has a size, each wait a progress; honest hosts keep within both, however slow they are."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from rdtops.errors import CommandFailed, HostError
from rdtops.lab import keys
from rdtops.on_host import run_reporter, tails
from rdtops.porter import porter, wire
from rdtops.porter.entries import Entry, Problem
from rdtops.porter.file_digests import Digests, md5_of
from rdtops.porter.wire import LINE_BYTES, WORK, Heartbeat, Stalled, Wire
from rdtops.ssh import transport
from rdtops.ssh.connection import ANSWER_BYTES, CallAnswer, Connection
from rdtops.ssh.hosts import Host
from rdtops.transfer import scheduler
from rdtops.transfer.streams import StreamPool
from rdtops.transfer.transfer import _Tally
from rdtops.transfer.transfer_plan import Plan
from rdtops.workflows.watching import LONGEST_LOG


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PROGRESS_S", 0.3)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def saying(far: socket.socket, says: Callable[[int], dict[str, Any]], count: int = 200) -> threading.Thread:
    """A host that says something every 50 ms."""
    def run() -> None:
        with contextlib.suppress(OSError):
            for n in range(count):
                far.sendall(json.dumps(says(n)).encode() + b"\n")
                time.sleep(0.05)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


# --- progress ---

def test_a_host_whose_work_grows_has_all_the_time_it_needs(ends):
    near, far = ends
    saying(far, lambda n: {"alive": n} if n < 20 else {"end": True})
    assert Wire(near.recv, near.sendall).hear() == {"end": True}


@pytest.mark.parametrize("alive", [True, 7, -1, "7", 1e300, [], None])
def test_a_host_that_lives_and_does_not_go_on_is_given_up(ends, alive):
    near, far = ends
    saying(far, lambda _: {"alive": alive})
    with pytest.raises(Stalled, match="alive but made no progress"):
        Wire(near.recv, near.sendall).hear()


def test_bytes_of_a_line_without_an_end_are_no_progress_and_those_of_a_piece_are(ends):
    near, far = ends
    heard = Wire(near.recv, near.sendall)

    def drip() -> None:
        with contextlib.suppress(OSError):
            far.sendall(b'{"bytes":15}\n')
            for _ in range(99):
                far.sendall(b"x")
                time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    assert b"".join(heard.pieces(heard.hear()["bytes"])) == 15 * b"x"
    with pytest.raises(Stalled):
        heard.hear()


def test_a_long_message_has_the_time_that_a_slow_line_needs(ends):
    near, far = ends

    def send() -> None:
        with contextlib.suppress(OSError):
            far.sendall(b'{"alike":"')
            for _ in range(10):
                far.sendall(2000 * b"x")
                time.sleep(0.08)
            far.sendall(b'"}\n')

    threading.Thread(target=send, daemon=True).start()
    assert len(Wire(near.recv, near.sendall).hear()["alike"]) == 20_000


def test_what_we_do_between_two_questions_is_no_waiting(ends):
    near, far = ends
    heard = Wire(near.recv, near.sendall)
    for _ in range(2):
        time.sleep(0.4)
        far.sendall(b'{"alive":true}\n{"end":true}\n')
        heard.hear()


def test_a_host_waits_for_its_laptop_as_long_as_that_lives(ends):
    near, far = ends
    saying(far, lambda n: {"alive": True} if n < 12 else {"end": True})
    assert Wire(near.recv, near.sendall, trusting=True).hear() == {"end": True}


def test_progress_elsewhere_counts_while_we_look_now_and_then(ends):
    near, _ = ends
    looked = Wire(near.recv, near.sendall)

    def look(elsewhere_s: Callable[[], float]) -> None:
        for _ in range(8):
            with looked.polled(elsewhere_s()):
                time.sleep(0.05)

    look(time.monotonic)
    with pytest.raises(Stalled):
        look(lambda: 0.0)


def test_an_upload_whose_receiver_begins_nothing_is_given_up(ends, tmp_path):
    near, far = ends
    saying(far, lambda _: {"alive": 1})
    (tmp_path / "f").write_bytes(b"12")

    def refuse() -> Any:
        raise CommandFailed("no stream")

    streams = StreamPool(refuse, rtt_s=lambda: 0.0, first=lambda _: 0)
    readable = Wire(near.recv, near.sendall, lambda: bool(ready(near)))
    entries = [Entry("f", "file", 2, "md5", 1, False)]
    tally = _Tally(Plan(str(tmp_path), "/there", (), "up"), None)
    upload = scheduler.Upload(readable, (str(tmp_path), "/there"), entries, Digests(), streams, tally, carries=False)
    with pytest.raises(Stalled):
        upload.run()


def ready(near: socket.socket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return near.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return b""


def test_a_stream_that_does_not_go_on_is_lost_and_does_not_end_the_transfer(ends):
    near, far = ends
    cut = threading.Event()
    saying(far, lambda n: {"alive": 1} if n else {"alive": True})
    streams = StreamPool(lambda: (Wire(near.recv, near.sendall), cut.set), rtt_s=lambda: 0.0, first=lambda _: 1)
    streams.start()
    assert cut.wait(5)
    deadline_s = time.monotonic() + 5
    while streams.error is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    streams.close()
    assert isinstance(streams.error, Stalled)
    assert streams.ranges.failure is None


# --- the host's side of it ---

def beats(of: Callable[[], object]) -> tuple[int, int]:
    """The number of a beat before and after."""
    said: list[bytes] = []
    beating = Wire(lambda _: b"", lambda piece: said.append(bytes(piece)))
    beating.beat()
    time.sleep(0.005)
    of()
    beating.beat()
    before, after = (json.loads(beat)["alive"] for beat in said)
    return before, after


def test_a_block_that_was_read_shows_in_the_next_beat_and_what_is_only_said_does_not(tmp_path):
    (tmp_path / "f").write_bytes(b"12")
    with (tmp_path / "f").open("rb") as file, (tmp_path / "out").open("wb", buffering=0) as out:
        before, after = beats(lambda: md5_of(file, 2))
        assert after > before
        before, after = beats(lambda: porter._say(out, memoryview(b"alive")))
        assert after == before
        assert out.tell() == 5


def test_a_long_fsync_shows_as_work_in_bounded_time(monkeypatch):
    monkeypatch.setattr(wire, "SLOWEST_BYTES_PER_S", 100)

    def flush(size: int) -> tuple[int, int]:
        with WORK.flushing(size):
            return beats(lambda: time.sleep(0.05))

    before, after = flush(1000)
    assert after >= before + 50
    before, after = flush(0)
    assert after == before


def test_who_is_stuck_beats_no_more_and_who_waits_for_the_other_side_does(monkeypatch):
    monkeypatch.setattr(wire, "BEAT_S", 0.02)
    monkeypatch.setattr(wire, "STUCK_S", 0.1)
    said: list[bytes] = []
    beating = Wire(lambda _: b"", lambda piece: said.append(bytes(piece)))
    with Heartbeat(beating, lambda: None, idle_s=60):
        time.sleep(0.4)
        assert said
        said.clear()
        time.sleep(0.1)
        assert not said
        with beating.polled():
            time.sleep(0.2)
        assert said


# --- sizes ---

def test_a_line_of_a_laptop_may_be_longer_than_one_of_a_host():
    line = b'{"wanted":"' + LINE_BYTES * b"x" + b'"}\n'
    pieces = [line]
    assert len(Wire(lambda _: pieces.pop(), len, trusting=True).hear()["wanted"]) == LINE_BYTES
    pieces = [line]
    with pytest.raises(Problem, match=f"a line of more than {LINE_BYTES} bytes"):
        Wire(lambda _: pieces.pop(), len).hear()


@pytest.mark.parametrize("size", [0, -1, 1 << 40, True, "7", None, 1.5, [1]])
def test_a_piece_of_no_possible_size_is_refused(size):
    with pytest.raises(Problem, match="the size of a piece must be"):
        list(Wire(lambda _: b"x", len).pieces(size))


@pytest.mark.parametrize("line", [b"5", b"[]", b'"x"', b"null", b"\xff\xfe", 100_000 * b"[", b"9" * 5000, b"{"])
def test_what_is_no_object_is_no_message(line):
    pieces = [line + b"\n"]
    with pytest.raises(Problem, match="not a message of rdtops"):
        Wire(lambda _: pieces.pop(), len).hear()


@pytest.mark.parametrize("error", [[], 5, {"kind": "full"}, None])
def test_an_error_of_any_form_is_a_problem(error):
    said = {"error": error, "path": error, "reason": error, "free_bytes": "x", "self": 1}
    pieces = [json.dumps(said).encode() + b"\n"]
    with pytest.raises(Problem) as raised:
        Wire(lambda _: pieces.pop(), len).hear()
    assert (raised.value.path, raised.value.numbers.get("free_bytes")) == ("", None)


def test_a_word_that_an_answer_lacks_is_an_error_that_names_the_host():
    with pytest.raises(CommandFailed, match="h: the answer of x has no 'runs'"):
        CallAnswer.of("h: the answer of x", {"run": 1})["runs"]


@pytest.mark.parametrize("text", [None, 5, [], "\x00", "0", base64.b85encode(b"no zlib").decode(),
                                  base64.b85encode(zlib.compress(b"[1, 2]")[:-3]).decode(), tails.shrunk("x")[:-5]])
def test_what_was_not_shrunk_does_not_grow(text):
    with pytest.raises(ValueError):  # noqa: PT011  # whatever it says
        tails.grown(text)


def test_what_grows_without_end_is_cut():
    bomb = base64.b85encode(zlib.compress(b"[" + bytes(tails.GROWN_BYTES), 1)).decode()
    with pytest.raises(ValueError, match=f"more than {tails.GROWN_BYTES} bytes"):
        tails.grown(bomb)


@pytest.mark.parametrize("line", [b"step 100  loss 0.1234  lr 1e-4  0.51 s\n",
                                  "第 100 步 损失 0.1234 学习率 1e-4\n".encode()])
def test_the_longest_log_that_is_shown_fits(line):
    content = line * (LONGEST_LOG // len(line))
    rows = tails.rows_of(tails.split(content, 0))
    shrunk = tails.shrunk({"lines": rows})
    assert len(shrunk) < LINE_BYTES
    assert tails.grown(shrunk)["lines"][-1] == rows[-1]


def test_a_thousand_runs_fit_into_one_answer(tmp_path):
    run = tmp_path / "20261124-101530-x-3fa9"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"train": 4000 * "x"}))
    (run / "exit").write_text("1\n")
    (run / "train.log").write_text(5000 * "失")
    (run / "journal.jsonl").write_text("".join(
        json.dumps({"kind": f"kind_{n}", "said": 300 * "x"}) + "\n" for n in range(12)))
    assert 1000 * len(json.dumps(run_reporter.facts(str(tmp_path), run.name))) < ANSWER_BYTES


# --- hops ---

class Hop(paramiko.ServerInterface):
    """Takes any key for the first half of a login, and asks."""

    def __init__(self, questions: list[tuple[str, bool]]) -> None:
        self.questions = questions

    def get_allowed_auths(self, _: str) -> str:
        return "publickey,keyboard-interactive"

    def check_auth_publickey(self, *_: object) -> int:
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL

    def check_auth_interactive(self, *_: object) -> Any:
        return paramiko.InteractiveQuery("", "", *self.questions)

    check_auth_interactive_response = check_auth_interactive


@pytest.fixture
def hop(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], Host]]:
    """A host at a port where `serves` gets each connection."""
    key = paramiko.ECDSAKey.generate()
    keys.make(tmp_path / "id")
    with socket.create_server(("127.0.0.1", 0)) as door, contextlib.ExitStack() as clients:
        port = door.getsockname()[1]
        (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")

        def make(serves: Callable[[socket.socket], None]) -> Host:
            def run() -> None:
                with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                    while True:
                        serves(clients.enter_context(door.accept()[0]))

            threading.Thread(target=run, daemon=True).start()
            return Host(name="h", address="127.0.0.1", port=port, user="u", identity_file=str(tmp_path / "id"),
                        known_hosts=str(tmp_path / "known"), connect_timeout_s=10)

        make.key = key  # type: ignore[attr-defined]
        yield make


def test_a_hop_that_asks_for_ever_is_refused(hop):
    asked: list[str] = []

    def serve(client: socket.socket) -> None:
        server = paramiko.Transport(client)
        server.add_server_key(hop.key)
        server.start_server(server=Hop([("x" * 5000, True)]))

    host = hop(serve)

    def answer(question: str, _: bool) -> str:
        asked.append(question)
        return "no"

    with pytest.raises(HostError, match=rf"h .* asks more than {transport.QUESTIONS} questions"):
        Connection(host, answer).open()
    assert len(asked) == transport.QUESTIONS
    assert max(map(len, asked)) < transport.QUESTION_CHARS + 100


def test_a_number_of_questions_alone_takes_no_memory(ends):
    asks = paramiko.Message()
    for word in ("", "", ""):
        asks.add_string(word)
    asks.add_int((1 << 32) - 1)
    near, _ = ends
    handler = transport._AuthHandler(paramiko.Transport(near))
    with pytest.raises(paramiko.SSHException, match="questions"):
        handler._parse_userauth_info_request(paramiko.Message(asks.asbytes()))


def test_a_packet_of_gigabytes_is_refused_when_it_is_announced(hop):
    def serve(client: socket.socket) -> None:
        client.sendall(b"SSH-2.0-x\r\n" + (0x7FFFFFF4).to_bytes(4, "big") + bytes(100))
        time.sleep(9)

    begun_s = time.monotonic()
    with pytest.raises(HostError, match=r"h .*a packet of 214748"):
        Connection(hop(serve)).open()
    assert time.monotonic() - begun_s < 5


def test_what_comes_beyond_the_window_and_is_not_read_ends_the_link(monkeypatch):
    monkeypatch.setattr(transport, "BACKLOG_BYTES", 1000)
    for code, feed in ((None, transport._feed), (1, transport._feed_extended)):
        channel = paramiko.Channel(0)

        def fed(code: int | None = code, feed: Any = feed, channel: Any = channel) -> None:
            message = paramiko.Message()
            if code is not None:
                message.add_int(code)
            message.add_string(b"x" * 600)
            feed(channel, paramiko.Message(message.asbytes()))

        fed()
        fed()
        with pytest.raises(paramiko.SSHException, match="more than 1000 bytes"):
            fed()
    table = transport._Transport._channel_handler_table
    assert {f for f in table.values() if f in (transport._feed, transport._feed_extended)} \
        == {transport._feed, transport._feed_extended}
