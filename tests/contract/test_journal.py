import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtops.contract.journal import LATEST_S, LINE_BYTES, Event, Journal, parse


def test_what_is_appended_is_read_back_in_order(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("started", world_size=2, device="cpu")
    journal.append("step", step=1, loss=0.5)
    assert [(e.kind, e.data.get("loss")) for e in journal.read()] == [("started", None), ("step", 0.5)]


def test_a_torn_last_line_is_unfinished_not_wrong():
    whole = Event("step", 1.0, {"step": 1}).to_line().encode() + b"\n"
    events, end = parse(whole + whole[:10])
    assert [e.kind for e in events] == ["step"]
    assert end == len(whole)


def test_a_damaged_line_in_the_middle_is_said():
    whole = Event("step", 1.0, {"step": 1}).to_line().encode() + b"\n"
    events, _ = parse(whole + b"\x00\x00garbage\n" + whole)
    assert [e.kind for e in events] == ["step", "warning", "step"]
    assert "garbage" in events[1].data["message"]


@given(st.binary(max_size=300))
def test_no_bytes_whatever_they_are_break_the_reader(content):
    _, end = parse(content)
    assert 0 <= end <= len(content)


def test_lines_of_many_writers_arrive_whole(tmp_path):
    def write(number):
        for step in range(200):
            Journal(tmp_path / "j").append("step", step=step, loss=0.1, writer=number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = Journal(tmp_path / "j").read()
    assert len(events) == 800
    assert all(e.kind == "step" for e in events)


def test_an_event_after_a_torn_line_stands_on_its_own(tmp_path):
    (tmp_path / "j").write_text('{"kind": "step", "ti')
    Journal(tmp_path / "j").append("finished", step=1, loss=0.1)
    assert [e.kind for e in Journal(tmp_path / "j").read()] == ["warning", "finished"]


def test_a_line_that_found_no_room_leaves_no_piece_of_itself(tmp_path):
    """In a process of its own: the limit on the size of files is one of the process."""
    journal = tmp_path / "j"
    Journal(journal).append("step", step=1, loss=0.1)
    whole = journal.read_bytes()
    limited = (f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole) + 20}, -1))\n"
               "from rdtops.contract.journal import Journal\n"
               f"Journal({str(journal)!r}).append('step', step=2, loss=0.1)")
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False)
    assert "only a part of the line was written" in done.stderr
    assert journal.read_bytes() == whole


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
NAMES = st.sampled_from(["kind", "time_s", "step", "loss", "attempt", "ranks", "evidence", "size_bytes", "eta_s"])


@given(st.dictionaries(NAMES, JSON))
def test_whatever_a_line_says_its_event_has_numbers_where_numbers_belong_or_it_is_said(fields):
    fields["kind"] = "step"
    (event,) = parse(json.dumps(fields).encode() + b"\n")[0]
    assert 0 <= event.time_s <= LATEST_S
    time.localtime(event.time_s)
    for name, kind in (("step", int), ("loss", (int, float)), ("attempt", int), ("size_bytes", int), ("ranks", list)):
        assert event.data.get(name) is None or isinstance(event.data[name], kind)
    assert event.kind == "step" or event.data["message"].startswith("unreadable journal line: ")


@pytest.mark.parametrize("line", [
    b'{"kind": "step", "step": "x", "loss": 1.0}', b'{"kind": "step", "step": 1, "loss": [1]}',
    b'{"kind": "step", "time_s": 1e400}', b'{"kind": "step", "time_s": 1e12}', b'{"kind": ["step"]}',
    b'{"kind": "step", "step": ' + b"9" * 5000 + b"}", b"[" * 200_000, b"5", b"\xff\xfe",
    b'{"kind": "stuck", "ranks": 5}'])
def test_a_line_that_is_no_event_is_one_warning(line):
    events, read = parse(line + b"\n")
    assert [event.kind for event in events] == ["warning"]
    assert read == len(line) + 1
    assert len(events[0].data["message"]) < 500


def test_a_number_that_is_not_finite_is_not_known():
    (event,) = parse(b'{"kind": "step", "step": 1, "loss": NaN, "grad_norm": Infinity}\n')[0]
    assert (event.kind, event.data) == ("step", {"step": 1, "loss": None, "grad_norm": None})


def test_a_journal_is_read_in_bounded_memory_whatever_its_lines_are(tmp_path):
    """150 MB in one line, and 100,000 steps."""
    path = tmp_path / "j"
    steps = "".join(Event("step", 1.0, {"step": n, "loss": 0.5}).to_line() + "\n" for n in range(1, 100_001))
    with path.open("w") as file:
        file.write(Event("started", 1.0, {"resumed_from_step": 0}).to_line() + "\n")
        for _ in range(150):
            file.write("x" * 1_000_000)
        file.write("\n" + steps)
    tracemalloc.start()
    kinds = Counter(event.kind for event in Journal(path).events(steps=1000))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 * LINE_BYTES
    assert kinds == {"started": 1, "warning": 1, "step": 1000}
    last = list(Journal(path).events(steps=1000))[-1]
    assert last.data["step"] == 100_000


def test_a_fifo_is_neither_read_nor_written(tmp_path):
    os.mkfifo(tmp_path / "j")
    assert Journal(tmp_path / "j").read() == []
    with pytest.raises(OSError, match=r"not a regular file|No such device"):
        Journal(tmp_path / "j").append("warning", message="x")


def test_words_that_are_no_unicode_are_written_and_read_back(tmp_path):
    Journal(tmp_path / "j").append("warning", message="a file called \udcff")
    assert Journal(tmp_path / "j").read()[0].data["message"] == "a file called \udcff"
