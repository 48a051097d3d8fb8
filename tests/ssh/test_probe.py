"""Probes travel together, each with its own time limit; whatever a host prints is bounded and readable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from types import ModuleType
from typing import Any

import pytest

from rdtops.errors import ConnectionLost
from rdtops.on_host import prober, run_reporter
from rdtops.porter import porter
from rdtops.ssh import bundle
from rdtops.ssh.hosts import Host
from rdtops.ssh.probe import Probe, ask, program_probe, together


class Local:
    """A connection whose host is this machine: the real prober, started as a host starts it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.trips: list[set[str]] = []
        self.error = error

    def call(self, program: Any, request: dict[str, Any], *, timeout_s: float) -> Any:
        self.trips.append(set(request["probes"]))
        if self.error:
            raise self.error
        done = subprocess.run([sys.executable, *bundle.FLAGS, "-c", bundle.READER], capture_output=True, check=True,
                              input=bundle.packed_request(program, request), timeout=timeout_s)
        return json.loads(done.stdout)


def echo(name: str, word: str = "", **options: Any) -> Probe[str]:
    return Probe(name, f"echo {word or name}", lambda output: output.out.strip(), **options)


def asker(connection: Local, *rounds: list[Probe[str]]):
    return lambda: [{n: a.value for n, a in ask(connection, probes).items()} for probes in rounds]


def test_askers_that_know_nothing_of_each_other_share_a_trip():
    connection = Local()
    found = together(connection, [asker(connection, [echo("a")]), asker(connection, [echo("b"), echo("c")])])
    assert found == [[{"a": "a"}], [{"b": "b", "c": "c"}]]
    assert connection.trips == [{"a", "b", "c"}]


def test_who_asks_twice_makes_a_second_trip_and_nobody_else_waits_for_it():
    connection = Local()
    together(connection, [asker(connection, [echo("a")], [echo("d")]), asker(connection, [echo("b")])])
    assert connection.trips == [{"a", "b"}, {"d"}]


def test_probes_of_one_name_are_not_mixed_up():
    connection = Local()
    found = together(connection, [asker(connection, [echo("a", "mine")]), asker(connection, [echo("a", "yours")])])
    assert found == [[{"a": "mine"}], [{"a": "yours"}]]
    assert len(connection.trips) == 1


def test_nobody_waits_long_for_an_asker_that_thinks():
    connection, thought = Local(), threading.Event()

    def thinker() -> Any:
        thought.wait(20)
        return asker(connection, [echo("late")])()

    def other() -> Any:
        found = asker(connection, [echo("early")])()
        thought.set()
        return found

    together(connection, [thinker, other])
    assert connection.trips == [{"early"}, {"late"}]


def test_a_trip_that_fails_ends_all_askers_and_is_raised_once():
    connection = Local(ConnectionLost("the link is gone"))
    ended: list[str] = []

    def work() -> None:
        try:
            ask(connection, [echo("a")])
        except ConnectionLost:
            ended.append("told")
            raise

    with pytest.raises(ConnectionLost, match="the link is gone"):
        together(connection, [work, work])
    deadline_s = time.monotonic() + 5
    while len(ended) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert ended == ["told", "told"]


def test_what_a_work_raises_comes_through_when_the_others_are_done():
    connection = Local()
    seen: list[Any] = []

    def broken() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        together(connection, [broken, lambda: seen.append(asker(connection, [echo("a")])())])
    assert seen == [[{"a": "a"}]]


def test_no_work_needs_no_trip():
    connection = Local()
    assert together(connection, []) == []
    assert together(connection, [lambda: 3]) == [3]
    assert connection.trips == []


def test_a_probe_that_hangs_costs_only_its_own_answer_and_its_own_time():
    begun_s = time.monotonic()
    hangs = Probe("hangs", "echo begun; sleep 30 & sleep 30", lambda output: output.out, timeout_s=1)
    found = ask(Local(), [hangs, echo("good")])
    assert found["good"].value == "good"
    assert found["hangs"].problem == "no answer within 1 s"
    assert found["hangs"].output.out == "begun\n"  # what it said before
    assert time.monotonic() - begun_s < 8


def test_a_program_that_closed_its_output_is_still_bounded():
    found = ask(Local(), [Probe("quiet", "exec >&- 2>&-; sleep 30", lambda output: output.out, timeout_s=1)])
    assert found["quiet"].problem == "no answer within 1 s"


def test_an_endless_output_is_ended_and_its_head_kept():
    begun_s = time.monotonic()
    found = ask(Local(), [Probe("yes", "yes 失败", lambda output: int(output.out))])["yes"]
    assert time.monotonic() - begun_s < 15
    assert len(found.output.out) <= prober.LIMIT
    assert found.output.out.startswith("失败\n")
    assert "it printed more than 200000 bytes" in found.problem


def test_bytes_that_are_no_text_are_an_answer():
    found = ask(Local(), [Probe("bytes", r"printf '\377\376\000x'", lambda output: output.out)])
    assert found["bytes"].value == "\ufffd\ufffd\0x"


@pytest.mark.parametrize("error", [ValueError("no"), RecursionError(), OverflowError("big"), KeyError("k")])
def test_whatever_a_parser_stumbles_over_is_a_problem_that_quotes_the_host(error):
    def parse(_: object) -> None:
        raise error

    found = ask(Local(), [Probe("x", "echo 失败; exit 3", parse)])["x"]
    assert found.value is None
    assert "exit 3: 失败" in found.problem


def test_a_far_program_is_asked_as_a_probe(tmp_path):
    host = Host(name="h", address="x", python=sys.executable)
    (tmp_path / "runs" / "20261124-101530-x-3fa9").mkdir(parents=True)
    request = {"op": "list", "workspace": str(tmp_path)}
    probe = program_probe("runs", host, run_reporter, request, lambda output: json.loads(output.out)["runs"])
    (run,) = ask(Local(), [probe, echo("a")])["runs"].value
    assert run["run_id"] == "20261124-101530-x-3fa9"
    assert len(probe.stdin) < os.fpathconf(0, "PC_PIPE_BUF") * 16  # it fits into a pipe


def test_a_program_is_packed_once_however_many_threads_want_it(monkeypatch):
    """Python 3.11's parser breaks when several are in it: `AST constructor recursion depth mismatch` came of it."""
    packed: list[str] = []

    def slow_source(program: ModuleType) -> str:
        packed.append(program.__name__)
        time.sleep(0.05)
        return ""

    monkeypatch.setattr(bundle, "source", slow_source)
    bundle._packed.cache_clear()
    threads = [threading.Thread(target=bundle.packed, args=(porter,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bundle._packed.cache_clear()  # what the others pack is real
    assert packed == [porter.__name__]
