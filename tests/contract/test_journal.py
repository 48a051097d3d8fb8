import subprocess
import sys
import threading

from hypothesis import given
from hypothesis import strategies as st

from rdtops.contract.journal import Event, Journal, parse


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
    assert "it took only a part of a line" in done.stderr
    assert journal.read_bytes() == whole
