"""A host that sends what nobody asked for, or what makes no sense: one error that names it, and nothing outside of what
the plan says is written, read or told."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdtops.errors import ConnectionLost, TransferError
from rdtops.porter.entries import BLOCK, Entry, Message, Problem
from rdtops.porter.parts import ZEROS, part_name
from rdtops.porter.target_lock import Lock
from rdtops.porter.wire import Wire
from rdtops.transfer import porter_session, streams, transfer
from rdtops.transfer.ranges import Ranges
from rdtops.transfer.transfer import plan_download, plan_upload
from rdtops.transfer.transfer_plan import Item, Plan, digests_of, listed
from tests.transfer.peers import ALTERED, Peer, Tampering, honest

SECRET = b"nobody's business"
OLD_NS = 10 ** 18


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the laptop that no transfer has to do with."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "id_rsa").write_bytes(SECRET)
    return tmp_path / "precious"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def entry(path: str, content: bytes = b"content", **changes: Any) -> Entry:
    return Entry(path, "file", len(content), md5(content), OLD_NS, False)._replace(**changes)


def there(*entries: Entry) -> list[Message]:
    return [{"there": e._asdict()} for e in entries]


def saying(*said: Message | bytes) -> Peer:
    """A host that says the same whatever it is asked."""
    def play(wire: Wire, _: Message) -> None:
        for message in said:
            if isinstance(message, bytes):
                wire.give(message)
            else:
                wire.say(message)
    return Peer(play)


def planned(folder: Path, *entries: Entry, action: Any = "send") -> Plan:
    return Plan("/runs/1", str(folder), tuple(Item(e.path, e.size, e.md5, action, "missing here", e) for e in entries),
                "down")


def parts(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob(".rdtops-part-*"))


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.name.startswith(".rdtops-"))


# --- a download hears of planned files, and of nothing else ---

def hostile(folder: Path) -> list[Message]:
    """What a host may try instead of the next file; `folder` is one of the laptop's."""
    return [
        {"put": str(folder / ".rdtops-part-x.pth"), "at": 0, "size": 3},
        {"copy": entry("a", SECRET)._asdict(), "of": str(folder / "id_rsa")},
        {"link": entry("a", b"", kind="link", link=str(folder))._asdict()},
        {"begin": entry("a")._asdict()},
        {"kept": "a", "spans": [[0, 7]]},
        {"finish": "a", "md5": md5(b"content")},
        {"close": str(folder / "id_rsa")},
        {"flush": True},
        {"get": str(folder / "id_rsa"), "entry": entry("a", SECRET)._asdict(), "at": 0, "size": 3},
        {"read": str(folder / "id_rsa"), "size": 3},
        {"file": entry("b")._asdict(), "ask": False},
        {"file": entry(str(folder / "id_rsa"))._asdict(), "ask": False},
        {"file": entry("../../plugins/x.py")._asdict(), "ask": False},
        {"file": entry("a", b"longer content")._asdict(), "ask": False},
        {"file": entry("a", mtime_ns=1)._asdict(), "ask": False},
        {"file": entry("a")._asdict(), "ask": True},
        {"file": 7},
        {"end": True},
        {}]


@pytest.mark.parametrize("number", range(len(hostile(Path()))))
@pytest.mark.parametrize("before", [0, 1])
def test_what_was_not_planned_ends_a_download_before_it_is_begun(tmp_path: Path, precious: Path, before: int,
                                                                 number: int) -> None:
    target = tmp_path / "target"
    first = [{"file": entry("first")._asdict(), "ask": False}, {"from": 0}, b"content", {"sent": md5(b"content")}]
    peer = saying({"ready": True}, *(first if before else []), hostile(precious)[number], {"from": 0}, b"content",
                  {"sent": md5(b"content")}, {"end": True})
    plan = planned(target, *([entry("first")] if before else []), entry("a"))
    with pytest.raises(TransferError, match=r"a800: /runs/1: unexpected message: ") as error:
        transfer.download(peer, plan)
    assert "hosts.a800.python" in error.value.remedy
    assert names(target) == (["first"] if before else [])
    assert names(precious) == ["id_rsa"]
    assert (precious / "id_rsa").read_bytes() == SECRET
    assert md5(SECRET).encode() not in peer.heard
    assert parts(target) == 0


def test_a_file_comes_once(tmp_path: Path) -> None:
    file = [{"file": entry("a")._asdict(), "ask": False}, {"from": 0}, b"content", {"sent": md5(b"content")}]
    with pytest.raises(TransferError, match="unexpected message: 'file': 'a', which was not requested"):
        transfer.download(saying({"ready": True}, *file, *file, {"end": True}), planned(tmp_path / "t", entry("a")))
    two = planned(tmp_path / "t", entry("a"), entry("b"))
    with pytest.raises(TransferError, match="unexpected message: 'end', which was not requested"):
        transfer.download(saying({"ready": True}, *file, {"end": True}), two)


@pytest.mark.parametrize(("said", "reason"), [
    ([{"from": 1}], "unexpected message: 'from' is 1"),
    ([{"from": -1}], "unexpected message: 'from' is -1"),
    ([{"from": True}], "unexpected message: 'from' is True"),
    ([{"from": 0}, b"content and more"], "unexpected message: 'bytes' is 16"),
    ([{"from": 0}, b"content", b"!"], "unexpected message: expected 'sent', got 'bytes'"),
    ([{"from": 0}, b"cont", {"sent": md5(b"cont")}], "unexpected message: expected 'bytes', got 'sent'"),
    ([{"from": 0}, {"bytes": -1}], "unexpected message: 'bytes' is -1"),
    ([{"from": 0}, {"bytes": 1e300}], r"unexpected message: 'bytes' is 1e\+300"),
    ([{"from": 0}, {"zeros": 7}], "unexpected message: expected 'bytes', got 'zeros'"),
    ([{"from": 0}, b"content", {"sent": [[]]}], "unexpected message: 'sent' is a list"),
    ([{"from": 0}, b"content", {"put": "/etc/x"}], "unexpected message: expected 'sent', got 'put'"),
    ([{"from": 0}, b"CONTENT", {"sent": md5(b"CONTENT")}], "its MD5 is .* after the transfer, expected"),
    ([{"\x1b]52;c;": 0}], r"unexpected message: expected 'from', got '\\x1b\]52;c;'")])
def test_a_file_has_the_bytes_that_were_planned(tmp_path: Path, said: list[Any], reason: str) -> None:
    peer = saying({"ready": True}, {"file": entry("a")._asdict(), "ask": False}, *said)
    with pytest.raises(TransferError, match=f"a: {reason}"):
        transfer.download(peer, planned(tmp_path / "target", entry("a")))
    assert names(tmp_path / "target") == []
    assert parts(tmp_path / "target") <= 7


def test_no_message_brings_more_than_a_block(tmp_path: Path) -> None:
    large = entry("a", bytes(3 * BLOCK))
    peer = saying({"ready": True}, {"file": large._asdict(), "ask": False}, {"from": 0}, {"bytes": BLOCK + 1})
    with pytest.raises(TransferError, match=f"unexpected message: 'bytes' is {BLOCK + 1}"):
        transfer.download(peer, planned(tmp_path / "target", large))


def test_a_file_goes_on_where_its_part_ends_or_anew(tmp_path: Path) -> None:
    """The part may be longer than what was asked for, when it was begun for another plan."""
    for begun, offset, reason in ((b"con", 2, "it resumes at byte 2, but the part has 3 bytes"),
                                  (b"con", 4, "unexpected message: 'from' is 4"),
                                  (b"content, and more", 17, "unexpected message: 'from' is 17")):
        target = tmp_path / str(offset)
        target.mkdir()
        (target / part_name("a", 7, OLD_NS)).write_bytes(begun)
        peer = saying({"ready": True}, {"file": entry("a")._asdict(), "ask": True}, {"from": offset})
        with pytest.raises(TransferError, match=reason):
            transfer.download(peer, planned(target, entry("a"), action="resume"))
        assert parts(target) == len(begun)


def test_an_error_of_the_host_is_shown_and_no_more(tmp_path: Path) -> None:
    for said, reason in (({"error": "changed", "path": "../precious", "reason": ["\x1b"], "kind": 7}, "precious: $"),
                         ({"error": ["full"], "path": 7}, "/runs/1: $"),
                         ({"error": "full", "reason": "\x1b[2J", "missing_bytes": 5}, "5 bytes more are needed"),
                         ({"error": "full", "missing_bytes": "x", "filesystem": {}}, r"/runs/1: $")):
        with pytest.raises(TransferError, match=reason) as error:
            transfer.download(saying({"ready": True}, said), planned(tmp_path / "target", entry("a")))
        assert "\x1b" not in error.value.message


# --- a plan holds what was asked for ---

@pytest.mark.parametrize(("said", "asked", "reason"), [
    (there(entry("../../plugins/x.py")), None, "'../../plugins/x.py' is not a path below a folder"),
    (there(entry("/etc/passwd")), None, "'/etc/passwd' is not a path below a folder"),
    (there(entry(".rdtops-part-1-2")), None, "names that begin with .rdtops- are reserved"),
    (there(entry("d/.rdtops-lock-1/x")), None, "names that begin with .rdtops- are reserved"),
    (there(entry("a"), entry("b")), ["a"], "unexpected message: 'there': 'b', which was not requested"),
    (there(entry("ab")), ["a"], "unexpected message: 'there': 'ab'"),
    (there(entry("")), ["a"], "unexpected message: 'there': ''"),
    (there(entry("a"), entry("a")), None, "the host lists it twice"),
    (there(entry("a"), entry("a/b")), None, "the host lists it as a file and as a folder"),
    (there(entry("a/b/c"), entry("a")), None, "the host lists it as a file and as a folder"),
    (there(entry(""), entry("a")), None, "the host lists it as a file and as a folder"),
    (there(entry("a", b"", kind="link", link="b")), None, "lists a link, but files were requested"),
    (there(entry("a", b"", kind="folder")), None, "lists a folder, but files were requested"),
    (there(entry("a", size=1 << 62), entry("b", size=1 << 62)), None, "more than any disk has"),
    (there(entry("\udce4\udcb8\udcad")), None, "'path' is "),  # the same name as one that is text
    (there(entry("\ud800")), None, "'path' is "),
    ([{"here": 1}], None, "unexpected message: expected 'size'"),
    ([{"there": [1]}], None, "unexpected message: expected 'size'")])
def test_a_plan_has_files_that_were_asked_for(tmp_path: Path, said: list[Message], asked: list[str] | None,
                                              reason: str) -> None:
    with pytest.raises(TransferError, match="a800: .*" + reason):
        plan_download(saying(*said, {"end": True}), "/runs/1", tmp_path / "target", files=asked)
    assert not (tmp_path / "target").exists()


WORDS: list[Any] = ["", "x", "\x1b[2J", "../x", -1, 0, 1, 1 << 62, 1 << 80, 1.5, 1e300, True, False, None, [], [[]], {},
                    "\ud800", ".rdtops-x", "f" * 32]


@given(st.sampled_from(Entry._fields), st.sampled_from(WORDS), st.booleans())
def test_an_entry_is_of_the_form_that_everybody_relies_on_or_refused(field: str, value: Any, more: bool) -> None:
    said = {**entry("d/a")._asdict(), field: value, **({"x": 1} if more else {})}
    try:
        found = Entry.of(said)
    except Problem as problem:
        assert problem.kind in ("protocol", "name")  # noqa: PT017  # either it is refused so, or it is what it says
        return
    assert found._asdict() == said
    assert [type(part) for part in found] == [str, str, int, str, int, bool, str, int]
    os.fsencode(found.path)


def test_a_plan_is_not_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdtops.transfer.transfer_plan.MOST_FILES", 3)
    assert len(listed(there(*(entry(str(n)) for n in range(3))), None)) == 3
    with pytest.raises(Problem, match="the host lists more than 3 files"):
        listed(there(*(entry(str(n)) for n in range(4))), None)


def test_only_what_was_asked_for_is_digested() -> None:
    asked = [entry("a", md5=""), entry("b", md5="")]
    assert digests_of(there(entry("b")), asked) == {"b": md5(b"content")}
    for said in (there(entry("c")), there(entry("a", b"other")), there(entry("a"), entry("a"))):
        with pytest.raises(Problem, match="was not requested"):
            digests_of(said, asked)


def test_files_behind_a_link_that_leads_out_are_not_compared(tmp_path: Path, precious: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "d").symlink_to(precious)
    peer = saying(*there(entry("d/id_rsa", SECRET, md5="")), {"end": True})
    with pytest.raises(TransferError, match="a link that leads out"):
        plan_download(peer, "/runs/1", target)
    assert peer.heard.count(b'"do"') == 1  # it is not asked to digest its own, and learns nothing of ours


# --- an upload believes what it can have caused ---

def upload_plan(tmp_path: Path, *, large: bool = False) -> Plan:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(bytes(transfer.RANGED_FROM_BYTES) if large else b"content")
    return plan_upload(saying({"alike": []}, {"end": True}), source, "/data")


@pytest.mark.parametrize("said", [
    {"done": "b", "md5": md5(b"content")}, {"done": ["a"]}, {"done": "a", "md5": md5(b"other")}, {"refused": "a"},
    {"ready": True}, {"begun": "a", "part": "/etc/x", "there": []}, {"put": 0, "crc": 0}, {"part": 3, "md5": "x"},
    {"x": 1}])
def test_an_upload_is_confirmed_as_it_was_sent(tmp_path: Path, said: Message) -> None:
    with pytest.raises(TransferError, match=r"a800: /data: unexpected message: .*"):
        transfer.upload(saying({"ready": True}, said, {"flushed": True}), upload_plan(tmp_path))


@pytest.mark.parametrize("changes", [
    {"begun": "b"}, {"begun": 7}, {"part": "/etc/cron.d/.rdtops-part-x"}, {"part": 7}, {"there": [[0, 1 << 40]]},
    {"there": [[5, 3]]}, {"there": [[-1, 3]]}, {"there": [[0, 1, 2]]}, {"there": [[0.0, 1.0]]}, {"there": {}},
    {"there": [[False, True]]}])
def test_what_is_begun_is_ours_and_within_the_file(tmp_path: Path, changes: Message) -> None:
    plan = upload_plan(tmp_path, large=True)
    file = plan.items[0].entry
    begun = {"begun": "a", "part": "/data/" + part_name("a", file.size, file.mtime_ns), "there": [], **changes}
    with pytest.raises(TransferError, match=r"a800: /data: unexpected message: .*"):
        transfer.upload(saying({"ready": True}, begun), plan)


def test_what_a_survey_says_is_about_the_files_of_the_upload(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    for said in (*there(entry("b")), {"basis": entry("x")._asdict()}, {"part": 7, "folder": "", "size": 1},
                 {"there": 7}, {"part": "x", "folder": "", "size": -1}):
        with pytest.raises(TransferError, match="a800: "):
            plan_upload(saying({"alike": [7, "b"]}, said, {"end": True}), tmp_path / "a", "/data/a")


def test_the_free_space_of_a_host_is_a_number() -> None:
    with pytest.raises(TransferError, match="'free_bytes'"):
        transfer.free_bytes(saying({"free_bytes": "all"}), "/data")  # type: ignore[arg-type]


# --- large files ---

def test_a_file_of_any_size_is_cut_into_ranges_as_they_are_taken() -> None:
    ranges = Ranges()
    ranges.add(entry("a", size=1 << 62), "part", [])
    assert [(r.start, r.end) for r in (ranges.take(), ranges.take()) if r] == [(0, 1 << 22), (1 << 22, 1 << 23)]
    assert ranges.waiting_bytes == (1 << 62) - (1 << 23)


RANGED = entry("a", bytes(transfer.RANGED_FROM_BYTES), md5="")


@pytest.mark.parametrize(("said", "reason"), [
    ([{"get": 5}], r"the host answers for the range at \d+, but the next one is at \d+"),
    ([{"got": 0, "crc": 0}], "unexpected message: expected 'get', got 'got', 'crc'"),
    ([{"get": 0}, {"bytes": BLOCK + 1}], f"unexpected message: 'bytes' is {BLOCK + 1}"),
    ([{"get": 0}, {"zeros": BLOCK + 1}], f"unexpected message: 'zeros' is {BLOCK + 1}"),
    ([{"get": 0}, {"zeros": 0}], "unexpected message: 'zeros' is 0"),
    ([{"get": 0}, {"zeros": 1 << 18}, {"zeros": 1}], "unexpected message: expected 'got', got 'zeros'"),
    ([{"get": 0}, {"zeros": 1 << 18}, {"got": 7, "crc": 0}], r"the host answers for the range at \d+, but the next"),
    ([{"get": 0}, {"zeros": 1 << 18}, {"got": 0, "crc": []}], "unexpected message: 'crc' is a list"),
    ([{"digest_of": "/runs/1/a", "md5": md5(b"")}], r"unexpected message: .*'digest_of'"),
    ([{"put": "/etc/.rdtops-part-x", "at": 0, "size": 1}], "unexpected message: expected 'get', got 'put', 'at'")])
def test_a_range_is_the_one_that_was_asked_for(tmp_path: Path, said: list[Message], reason: str) -> None:
    def play(wire: Wire, request: Message) -> None:
        if request.get("do") == "send":
            wire.say({"ready": True})
            wire.say({"end": True})
        elif "get" in request:
            for message in said:  # whose ranges are counted from the one that was asked for
                wire.say({word: request["at"] + value if word in ("get", "got") else value
                          for word, value in message.items()})
        elif "do" in request:
            wire.say({"ready": True})

    with pytest.raises(TransferError, match=reason):
        transfer.download(Peer(play), planned(tmp_path / "target", RANGED))
    assert names(tmp_path / "target") == []
    assert bytes(BLOCK) == ZEROS  # it is what every hole is made of


# --- the lock of a target ---

def test_a_lock_is_not_opened_through_a_link_nor_are_its_words_believed(tmp_path: Path, precious: Path) -> None:
    lock = Lock(str(tmp_path / "target"))
    path = Path(os.fsdecode(lock._path))
    path.symlink_to(precious / "id_rsa")
    with pytest.raises(OSError, match="is a link of"), lock:
        pass
    assert (precious / "id_rsa").read_bytes() == SECRET
    path.unlink()
    with lock:
        path.write_bytes(b"\x1b[2J" * 1000)
        with pytest.raises(Problem, match=r"process unknown\)"), Lock(str(tmp_path / "target")):
            pass


# --- one message of an honest download, changed in any way ---

NAMED = ["small", "d", "resumed", "ranged"]
FILES = ["small", "d/same", "d/other", "resumed", "ranged"]
LARGE = 2 << 20


@pytest.fixture
def ground(tmp_path: Path, precious: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source with files of every way to travel."""
    monkeypatch.setattr(transfer, "RANGED_FROM_BYTES", LARGE)
    monkeypatch.setattr(transfer, "RANGED_FROM_FAR_BYTES", LARGE)
    monkeypatch.setattr(porter_session, "SILENCE_S", 5.0)
    monkeypatch.setattr(streams, "SILENCE_S", 5.0)
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for name, content in {"small": b"12345", "d/same": b"same", "d/other": b"other", "resumed": os.urandom(3 << 19),
                          "ranged": os.urandom(LARGE) + bytes(LARGE)}.items():
        (source / name).write_bytes(content)
        os.utime(source / name, ns=(OLD_NS, OLD_NS))
    return tmp_path


def laid_out(base: Path) -> Path:
    """A target as an earlier download left it, and a file of the laptop's own among them."""
    target = base / "results" / "run"
    shutil.rmtree(target.parent, ignore_errors=True)
    (target / "d").mkdir(parents=True)
    (target / "d" / "same").write_bytes(b"same")
    (target / "mine").write_bytes(SECRET)
    (target / part_name("resumed", 3 << 19, OLD_NS)).write_bytes((base / "source" / "resumed").read_bytes()[:BLOCK])
    return target


def fetched(peer: Peer, base: Path, target: Path) -> None:
    transfer.download(peer, plan_download(peer, str(base / "source"), target, files=NAMED))


def test_the_honest_download_that_is_tampered_with_succeeds(ground: Path) -> None:
    tampering = Tampering(-1, lambda message: [message])
    target = laid_out(ground)
    fetched(Peer(honest, tampering.wire), ground, target)
    assert {p: content(target, p) for p in FILES} == {p: content(ground / "source", p) for p in FILES}
    assert names(target) == ["d", "d/other", "d/same", "mine", "ranged", "resumed", "small"]
    said = {word for message in tampering.said for word in message}
    assert {"there", "ready", "file", "from", "bytes", "sent", "get", "zeros", "got", "digest_of", "end"} <= said
    assert MESSAGES[0] < len(tampering.said) < MESSAGES[1]


MESSAGES = (40, 80)  # of that download; how many exactly depends on how the streams share the ranges
PATHS = ["../precious/id_rsa", "mine", "../../evil", "/etc/passwd", "d", "d/same/x", "small", "", ".rdtops-part-0-0"]
VALUES = st.sampled_from([*WORDS, *PATHS, md5(b"a guess"), 5, -5, BLOCK, BLOCK + 1, [[0, 1 << 70]], {"path": "mine"}])
WORDS_SAID = ["file", "there", "from", "bytes", "sent", "get", "got", "zeros", "end", "digest_of", "ready", "error"]
RAW = [b"", b"welcome", b"\xff\xfe", b'{"file":', b"9" * 5000, b'{"from": ' + b"9" * 5000 + b"}", b"5", b"null",
       b'["end"]', b'"there"', b"[" * 100_000, b'{"from":' * 900 + b"0" + b"}" * 900]


def replaced(message: Message, field: int, value: Any) -> Message:
    """One of its words, or of what is within it, has another value."""
    message = copy.deepcopy(message)
    holders = [message, *(value for value in message.values() if isinstance(value, dict))]
    places = [(holder, name) for holder in holders for name in holder]
    holder, name = places[field % len(places)]
    holder[name] = value
    return message


REPLACED = st.builds(lambda field, value: lambda message: [replaced(message, field, value)], st.integers(0, 9), VALUES)
CHANGES: Any = st.one_of(
    st.just(lambda _: []),
    st.just(lambda message: [message, message]),
    st.just(lambda message: [{**message, "x": ALTERED.decode()}]),
    st.sampled_from(hostile(Path("/etc"))).map(lambda said: lambda message: [said, message]),
    REPLACED, REPLACED,
    st.sampled_from(WORDS_SAID).map(lambda word: lambda message: [{word: next(iter(message.values()))}]),
    st.sampled_from(RAW).map(lambda line: lambda _: [line]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, MESSAGES[0]), change=CHANGES)
def test_one_changed_message_harms_nothing_and_ends(ground: Path, precious: Path, at: int, change: Any) -> None:
    source, target = ground / "source", laid_out(ground)
    before = names(ground)
    tampering = Tampering(at, change)
    peer = Peer(honest, tampering.wire, patience_s=0.3)  # what waits for an answer that never comes waits no longer
    start_s = time.monotonic()
    try:
        fetched(peer, ground, target)
    except (TransferError, ConnectionLost):
        pass
    else:
        plan_was_honest = any("ready" in message for message in tampering.said[:at])
        assert not plan_was_honest or {p: content(target, p) for p in FILES} == {p: content(source, p) for p in FILES}
    assert time.monotonic() - start_s < 15
    new = [path for path in names(ground) if path not in before and not path.startswith("home/.cache")]
    assert set(new) <= {str(target.relative_to(ground) / path) for path in FILES}
    for path in {*names(target)} & {*FILES}:  # a listing that lies about the size of a file gets its beginning
        assert content(source, path).startswith(content(target, path))
    assert content(target, "mine") == content(precious, "id_rsa") == SECRET
    assert md5(SECRET).encode() not in peer.heard


def content(folder: Path, path: str) -> bytes:
    return (folder / path).read_bytes()
