"""after_checkpoint and the log, once and in order: a cut link, a sleeping laptop, two machines, a Journal that is moved
or cut."""

import os
import shutil
import signal
import threading
import time
import types

import pytest

from rdtops.hookspecs import hookimpl
from rdtops.plugging.registry import Plugin, Registry
from rdtops.runs import overview, watch
from rdtops.runs.records import HookRecord, RunRecords
from rdtops.ssh.connection import Connection
from rdtops.testing import load
from tests.lab.commandline import CommandLine
from tests.lab.watched import RUN, Alive, catch_up, checkpoint, plugin, wait_until

pytestmark = pytest.mark.lab


def steps(seen):
    return [step for _, step in seen]


# --- the Journal ---

def test_a_journal_cut_in_place_that_grew_beyond_the_cursor_is_read_from_its_start(connection, journal):
    seen: list[tuple[str, int]] = []
    checkpoint(journal, 10)
    catch_up(connection, plugin("a", seen))
    os.truncate(journal.path, 0)
    for step in range(20, 50, 10):
        checkpoint(journal, step)
    assert journal.path.stat().st_size > RunRecords("lab2", RUN).cursor.offset
    catch_up(connection, plugin("a", seen))
    assert steps(seen) == [10, 20, 30, 40]


@pytest.mark.parametrize("copies", [False, True], ids=["moved away", "copied and cut"])
def test_the_rest_of_a_rotated_journal_is_read_before_the_new_one(connection, journal, copies):
    seen: list[tuple[str, int]] = []
    checkpoint(journal, 10)
    catch_up(connection, plugin("a", seen))
    checkpoint(journal, 20)
    with journal.path.open("a") as file:
        file.write('{"kind": "checkpoint", "st')  # torn by whatever rotated it
    if copies:
        shutil.copy(journal.path, f"{journal.path}.1")
        os.truncate(journal.path, 0)
    else:
        journal.path.rename(f"{journal.path}.1")
        catch_up(connection, plugin("a", seen))
        assert steps(seen) == [10, 20]
    for step in (30, 40):
        checkpoint(journal, step)
    catch_up(connection, plugin("a", seen))
    catch_up(connection, plugin("a", seen))
    assert steps(seen) == [10, 20, 30, 40]


def test_a_line_that_is_no_event_of_the_trainer_is_named_and_stops_nothing(connection, journal):
    seen: list[tuple[str, int]] = []
    with journal.path.open("ab") as file:
        file.write(b'{"kind": "checkpoint", "time_s": 1.0, "name": null}\n' + bytes(100) + b"\n[1, 2]\n\xff\xfe\n")
    checkpoint(journal, 10)
    said = catch_up(connection, plugin("a", seen))
    assert [r.error.partition(":")[0] for r in said] == ["unreadable checkpoint event", ""]
    assert steps(seen) == [10]


# --- the laptop's memory ---

def test_each_control_machine_has_its_own_cursor(connection, journal, tmp_path, monkeypatch):
    seen: list[tuple[str, int]] = []
    checkpoint(journal, 10)
    catch_up(connection, plugin("here", seen))
    checkpoint(journal, 20)
    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path / "the other laptop"))
    catch_up(connection, plugin("there", seen))
    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path / "state"))
    catch_up(connection, plugin("here", seen))
    assert seen == [("here", 10), ("there", 10), ("there", 20), ("here", 20)]


def slow(seen: list[int]) -> Plugin:
    module = types.ModuleType("slow")

    @hookimpl
    def after_checkpoint(checkpoint):
        time.sleep(0.3)
        seen.append(checkpoint.step)

    module.after_checkpoint = after_checkpoint
    return load(module)


def test_two_commands_on_one_laptop_do_not_act_upon_the_same_checkpoint(connection, journal):
    seen: list[int] = []
    for step in (10, 20, 30):
        checkpoint(journal, step)
    run = overview.find(connection, RUN)

    def one_more_command() -> None:
        with Connection(connection.host) as other:
            watch.catch_up(other, Registry([slow(seen)]), run)

    threads = [threading.Thread(target=one_more_command) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [10, 20, 30]


def test_a_memory_that_a_power_cut_tore_is_read_and_goes_on(connection, journal):
    seen: list[tuple[str, int]] = []
    checkpoint(journal, 10)
    catch_up(connection, plugin("a", seen))
    records = RunRecords("lab2", RUN)
    with (records.folder / "hooks.jsonl").open("a") as file:
        file.write('{"hook": "after_check')
    (records.folder / "cursor").write_text("")
    checkpoint(journal, 20)
    catch_up(connection, plugin("a", seen))
    assert steps(seen) == [10, 20]
    assert [r.checkpoint for r in records.hooks()] == ["step_000010", "step_000020"]


def test_a_memory_of_an_older_version_is_understood(connection, journal):
    seen: list[tuple[str, int]] = []
    checkpoint(journal, 10)
    records = RunRecords("lab2", RUN)
    records.add(HookRecord("after_checkpoint", "a", "step_000010", "digest-10", 0.1))
    (records.folder / "cursor").write_text(str(journal.path.stat().st_size))
    checkpoint(journal, 20)
    catch_up(connection, plugin("a", seen), plugin("new", seen))
    assert seen == [("a", 20), ("new", 20)]


# --- the link, and a laptop that sleeps ---

NOTES = """
from rdtops.api import hookimpl
import os

@hookimpl
def after_checkpoint(checkpoint):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{checkpoint.step}\\n")
"""


@pytest.fixture
def inv(lab, lab_hosts, tmp_path):
    laptop = CommandLine(tmp_path, lab_hosts)
    plugins = tmp_path / "config" / "rdtops" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "notes.py").write_text(NOTES)
    laptop.env["NOTES"] = str(tmp_path / "notes")
    return laptop


@pytest.fixture
def alive(lab, tmp_path):
    with Alive(lab, "lab", f"20991231-235959-{tmp_path.name[:24].lower().replace('_', '-')}-0001") as run:
        yield run


def test_a_log_is_followed_through_cut_links_without_losing_or_doubling_a_line(lab, inv, alive):
    log = alive.folder / "train.log"
    lines = [f"line {number}" + (" wider than a screen" * 20 if number % 100 == 7 else "") for number in range(1000)]
    log.write_text("".join(f"{line}\n" for line in lines[:50]))
    following = inv.started(f"logs --follow --lines 9999 --host lab --run {alive.run_id}")
    try:
        first = following.stdout.readline()  # it is connected
        file = log.open("ab", buffering=0)
        for number in range(50, 1000):
            text = f"{lines[number]}\n".encode()
            file.write(text[:4])  # a reader sees many a line in two parts
            file.write(text[4:])
            if number in (400, 700):
                lab.stop_server("lab-jump")
            if number in (500, 800):
                lab.start_server("lab-jump")
            if number == 850:  # rotated, and the writer goes on in a new one
                file.close()
                log.rename(f"{log}.1")
                file = log.open("ab", buffering=0)
            time.sleep(0.005)
        file.write(b"no newline at the end")
        file.close()
        alive.ends()
        out, err = first + following.stdout.read(), following.stderr.read()
    finally:
        following.kill()
        following.communicate()
    assert out.splitlines() == [*lines, "no newline at the end"]
    assert "trying again in" in err
    assert "Reconnected after" in err


def test_a_laptop_that_slept_catches_up_and_every_checkpoint_is_told_once(lab, inv, alive, tmp_path):
    journal, notes = alive.journal, tmp_path / "notes"
    told = lambda: notes.read_text().split() if notes.exists() else []  # noqa: E731
    checkpoint(journal, 10)
    following = inv.started(f"watch --host lab --run {alive.run_id}")
    try:
        wait_until(lambda: told() == ["10"])
        following.send_signal(signal.SIGSTOP)
        for step in (20, 30):
            checkpoint(journal, step)
        lab.stop_server("lab-jump")  # what the network does to a sleeper
        lab.start_server("lab-jump")
        following.send_signal(signal.SIGCONT)
        wait_until(lambda: told() == ["10", "20", "30"])
        checkpoint(journal, 40)
        alive.ends()
        out, err = following.communicate(timeout=60)
    finally:
        following.kill()
    assert told() == ["10", "20", "30", "40"]
    assert [out.count(f"checkpoint step_0000{step}") for step in told()] == [1, 1, 1, 1]
    assert following.returncode == 0, err
