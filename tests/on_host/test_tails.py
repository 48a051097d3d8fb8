"""Growing files read on from a cursor: nothing twice, nothing left out; and the last words of a long Journal."""

import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdtops.on_host import tails

LINES = st.lists(st.binary(max_size=90).map(lambda b: b.replace(b"\n", b" ")), max_size=40)


def test_a_file_that_grows_in_any_pieces_is_read_once(tmp_path_factory):
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(LINES, st.data())
    def holds(lines, data):
        path = tmp_path_factory.mktemp("tail") / "log"
        content, written, cursor, read = b"".join(line + b"\n" for line in lines), 0, [0, 0, ""], b""
        while written < len(content):
            size = data.draw(st.integers(1, 200))
            with path.open("ab") as file:
                file.write(content[written:written + size])
            written += size
            more = True
            while more:
                piece = tails.read_on(str(path), cursor, limit=data.draw(st.integers(100, 400)))
                assert tails.lines_of(tails.grown(tails.shrunk(tails.rows_of(piece["lines"])))) == piece["lines"]
                read += b"".join(line for _, line in piece["lines"])
                cursor, more = piece["cursor"], piece["more"]
        assert read == content
    holds()


@pytest.mark.parametrize("count", [0, 1, 3, 500, 9000])
def test_the_last_lines_begin_at_a_line_and_are_so_many(tmp_path, count):
    path = tmp_path / "log"
    path.write_text("".join(f"line {n} {'x' * (n % 50)}\n" for n in range(5000)))
    piece = tails.read_on(str(path), [0, 0, ""], last_lines=count)
    assert [line for _, line in piece["lines"]] == path.read_bytes().splitlines(True)[-count:] * bool(count)
    assert piece["cursor"][1] == path.stat().st_size


def test_lines_come_backwards_whatever_the_blocks_cut_and_a_torn_last_one_is_left_out(tmp_path):
    path = tmp_path / "journal"
    lines = [b"%d" % n * (n % 3000) for n in range(1, 400)]
    path.write_bytes(b"\n".join(lines) + b"\n" + b"torn")
    assert list(tails.backwards(str(path))) == lines[::-1]
    path.write_bytes(b"torn" * tails.BLOCK)
    assert list(tails.backwards(str(path))) == []


def test_the_last_words_of_a_journal_are_those_since_the_newest_start(tmp_path):
    path = tmp_path / "journal"
    told = [("launched", 1), ("started", 2), ("step", 3), ("checkpoint", 4), ("failed", 5), ("launched", 6),
            ("started", 7), ("trial", 8), ("step", 9), ("heldout", 10), ("step", 11), ("trial", 12)]
    path.write_text("".join(json.dumps({"kind": kind, "time_s": time_s}) + "\n" for kind, time_s in told) + "{nonsense")
    last = [json.loads(line) for line in tails.last_of_each_kind(str(path), (b'{"kind": "trial"',))]
    assert [(e["kind"], e["time_s"]) for e in last] == [
        ("checkpoint", 4), ("started", 7), ("heldout", 10), ("step", 11)]


def test_thinning_keeps_every_event_that_is_not_a_step_and_the_last_step(tmp_path):
    rows = [(n, json.dumps({"kind": "step" if n % 10 else "heldout", "step": n}).encode()) for n in range(1, 1000)]
    kept = tails.thinned(rows, 50)
    steps = [row for row in kept if row[1].startswith(tails.STEP)]
    assert 40 <= len(steps) <= 51
    assert steps[-1] == rows[-1]
    assert [r for r in kept if r not in steps] == [r for r in rows if not r[1].startswith(tails.STEP)]


def test_thinning_keeps_the_peaks_of_loss_and_gradient_norm_and_the_slowest_step(tmp_path):
    def line(step):
        told = {"loss": 9.5 if step == 777 else 1e-05, "grad_norm": 40 if step == 5001 else 0.3,
                "samples_per_s": 2.5 if step == 9001 else 148.2}
        return json.dumps({"kind": "step", "time_s": 1.7e9, "step": step, **told}).encode()

    rows = [(step, line(step)) for step in range(1, 20_000)]
    kept = tails.thinned(rows, 200)
    assert len(kept) <= 1.25 * 200
    assert {777, 5001, 9001, 19_999} <= {step for step, _ in kept}
    odd = [(step, b'{"kind": "step", "loss": 1-2-3, "grad_norm": NaN, "samples_per_s": null}') for step in range(99)]
    assert len(tails.thinned(odd, 10)) == 10


def test_an_unreadable_file_is_empty_and_keeps_the_cursor(tmp_path):
    piece = tails.read_on(str(tmp_path / "none"), [7, 12, "3:abc"])
    assert (piece["lines"], piece["cursor"], piece["more"]) == ([], [7, 12, "3:abc"], False)


def test_a_file_under_an_old_inode_number_is_not_taken_for_the_one_that_was_read(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    cursor = tails.read_on(str(path), [0, 0, ""])["cursor"]
    path.write_bytes(b"another, longer than before\n")  # the same inode
    assert path.stat().st_ino == cursor[0]
    assert [line for _, line in tails.read_on(str(path), cursor)["lines"]] == [b"another, longer than before\n"]


def test_a_line_without_measure_is_left_out_and_costs_no_time(tmp_path):
    """150 MB in one line behind everything that counts."""
    path = tmp_path / "journal"
    with path.open("w") as file:
        file.write('{"kind": "started", "time_s": 1}\n{"kind": "step", "time_s": 2}\n')
        for _ in range(150):
            file.write("x" * 1_000_000)
        file.write('\n{"kind": "heldout", "time_s": 3}\n')
    since_s = time.monotonic()
    assert list(tails.backwards(str(path))) == [b'{"kind": "heldout", "time_s": 3}']  # the others lie too far back
    assert time.monotonic() - since_s < 3
    lines = list(tails.backwards(str(path), 1 << 28))
    assert [json.loads(line)["time_s"] for line in lines] == [3, 2, 1]


def test_the_last_words_of_a_journal_are_few_however_many_kinds_there_are(tmp_path):
    path = tmp_path / "journal"
    path.write_text("".join(json.dumps({"kind": f"k{n}", "words": "x" * 1000}) + "\n" for n in range(5000)))
    assert sum(map(len, tails.last_of_each_kind(str(path), ()))) <= tails.TOLD_BYTES


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_fifo_or_folder_is_no_file_that_grows(tmp_path, make):
    make(tmp_path / "log")
    path = str(tmp_path / "log")
    assert tails.read_on(path, [0, 0, ""])["lines"] == []
    assert list(tails.backwards(path)) == []
    assert not tails.is_the_one(path, 0, 0, "")
