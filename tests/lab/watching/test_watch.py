"""after_checkpoint: once for each checkpoint, in order, whatever happens to the laptop or the journal in between."""

import json
import re
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rdtops.contract.config import preset
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunState
from rdtops.hookspecs import hookimpl
from rdtops.plugging.registry import Plugin, Registry
from rdtops.runs import overview, watch
from rdtops.runs.poller import Cursor
from rdtops.runs.records import RunRecords
from rdtops.testing import load
from tests.lab.watched import RUN, catch_up, checkpoint, plugin

pytestmark = pytest.mark.lab

FIRST, SECOND = (f"step_000010-libero_90-0000000{number}" for number in (1, 2))


def evaluated(journal: Journal, name: str, digest: str) -> None:
    journal.append("eval_started", name=name, checkpoint="step_000010", benchmark="libero_90", tasks=1, trials=4,
                   done_before=0)
    journal.append("eval_finished", name=name, report=f"eval/{name}/report.json", digest=digest,
                   checkpoint="step_000010", benchmark="libero_90", successes=3, trials=4, errors=1)


def test_each_checkpoint_fires_once_and_in_order(connection, journal):
    seen: list[tuple[str, int]] = []
    for step in (10, 20):
        checkpoint(journal, step)
        journal.append("step", step=step, loss=0.1)
    catch_up(connection, plugin("a", seen))
    checkpoint(journal, 30)
    catch_up(connection, plugin("a", seen))
    catch_up(connection, plugin("a", seen))
    assert seen == [("a", 10), ("a", 20), ("a", 30)]


def test_a_torn_last_line_waits_until_it_is_whole(connection, journal):
    seen: list[tuple[str, int]] = []
    checkpoint(journal, 10)
    line = journal.path.read_text().replace("10", "20")
    with journal.path.open("a") as file:
        file.write(line[:25])
        file.flush()
        catch_up(connection, plugin("a", seen))
        assert seen == [("a", 10)]
        file.write(line[25:])
    catch_up(connection, plugin("a", seen))
    assert [step for _, step in seen] == [10, 20]


def test_a_plugin_that_fails_is_recorded_and_takes_no_other_down(connection, journal):
    seen: list[tuple[str, int]] = []
    for step in (10, 20):
        checkpoint(journal, step)
    said = catch_up(connection, plugin("bad", seen, fails_at=10), plugin("good", seen))
    assert seen == [("bad", 10), ("good", 10), ("bad", 20), ("good", 20)]
    assert [(r.plugin, r.checkpoint, r.error.partition(" (")[0]) for r in said if r.error] == [
        ("bad", "step_000010", "ValueError: no")]
    assert re.search(r" \(\S+/watched\.py:\d+\)$", next(r.error for r in said if r.error))
    assert [r.value for r in RunRecords("lab2", RUN).hooks() if r.plugin == "good"] == [{"step": 10}, {"step": 20}]


def test_a_laptop_killed_before_it_moved_its_cursor_asks_nobody_twice(connection, journal):
    seen: list[tuple[str, int]] = []
    for step in (10, 20):
        checkpoint(journal, step)
    catch_up(connection, plugin("a", seen))
    RunRecords("lab2", RUN).advance(Cursor())
    catch_up(connection, plugin("a", seen), plugin("new", seen))
    assert seen == [("a", 10), ("a", 20), ("new", 10), ("new", 20)]


def test_each_finished_evaluation_fires_once_and_in_its_place(connection, journal):
    module, seen = types.ModuleType("e"), []

    @hookimpl
    def after_eval(evaluation, run):
        seen.append((run.run_id, evaluation))
        return {"rate": evaluation.successes / evaluation.trials}

    module.after_eval = after_eval
    plugins = (plugin("c", seen), load(module))
    checkpoint(journal, 10)
    evaluated(journal, FIRST, "digest-a")
    checkpoint(journal, 20)
    evaluated(journal, FIRST, "digest-a")  # started again, and nothing was left to do
    evaluated(journal, SECOND, "digest-b")
    catch_up(connection, *plugins)
    catch_up(connection, *plugins)
    assert [who for who, _ in seen] == ["c", RUN, "c", RUN]
    first = seen[1][1]
    assert (first.name, first.successes, first.trials, first.errors) == (FIRST, 3, 4, 1)
    assert first.report == f"{connection.workspace}/runs/{RUN}/eval/{FIRST}/report.json"
    said = [(r.hook, r.checkpoint, r.value) for r in RunRecords("lab2", RUN).hooks() if r.plugin == "e"]
    assert said == [("after_eval", FIRST, {"rate": 0.75}), ("after_eval", SECOND, {"rate": 0.75})]


def test_a_journal_that_became_shorter_is_read_from_its_start(connection, journal):
    seen: list[tuple[str, int]] = []
    for step in (10, 20):
        checkpoint(journal, step)
    catch_up(connection, plugin("a", seen))
    journal.path.unlink()
    checkpoint(journal, 30)
    catch_up(connection, plugin("a", seen))
    assert [step for _, step in seen] == [10, 20, 30]


def test_a_long_journal_is_read_piece_by_piece(connection, journal):
    seen: list[tuple[str, int]] = []
    with journal.path.open("a") as file:
        for step in range(30_000):
            file.write(f'{{"kind": "step", "time_s": 1.0, "step": {step}, "loss": 0.123456789}}\n')
    checkpoint(journal, 30_000)
    assert journal.path.stat().st_size > 1 << 20
    catch_up(connection, plugin("a", seen))
    assert seen == [("a", 30_000)]


def test_a_run_without_exit_code_and_process_is_lost_and_its_watch_ends(connection, journal):
    journal.append("step", step=7, loss=0.5)
    run = overview.find(connection, RUN)
    assert (run.state, run.step, run.loss) == (RunState.LOST, 7, 0.5)
    events = [e.kind for e, _ in watch.follow(connection, Registry([]), RUN, from_start=True)]
    assert events == ["step"]


# --- after_run ---

def told_of_ends(name: str, seen: list[tuple[str, int]], fails: bool = False) -> Plugin:
    module = types.ModuleType(name)

    @hookimpl
    def after_run(end, run):
        assert run.run_id == RUN
        seen.append((end.state.value, end.step))
        if fails:
            raise ValueError("no")
        return {"told": end.error}

    module.after_run = after_run
    return load(module)


def ends(journal: Journal, code: int) -> None:
    (journal.path.parent / "exit").write_text(f"{code}\n")


def test_an_end_is_told_once_after_the_last_checkpoint(connection, journal):
    ended: list[tuple[str, int]] = []
    seen: list[tuple[str, int]] = []
    journal.append("started", world_size=1)
    checkpoint(journal, 10)
    ends(journal, 0)
    said = catch_up(connection, told_of_ends("notes", ended), plugin("a", seen))
    assert [(r.hook, r.plugin, r.checkpoint) for r in said] == [
        ("after_checkpoint", "a", "step_000010"), ("after_run", "notes", "finished")]
    assert ended == [("finished", 10)]
    catch_up(connection, told_of_ends("notes", ended))
    assert [e.kind for e, _ in watch.follow(connection, Registry([told_of_ends("notes", ended)]), RUN)] == []
    assert len(ended) == 1


def test_a_run_that_goes_on_and_ends_again_is_told_again(connection, journal):
    ended: list[tuple[str, int]] = []
    journal.append("launched", launcher="tmux")
    journal.append("failed", step=3, error="out of memory")
    ends(journal, 1)
    assert [r.value for r in catch_up(connection, told_of_ends("notes", ended))] == [{"told": "out of memory"}]
    time.sleep(0.002)  # one start is told from the next by its time
    journal.append("launched", launcher="tmux")
    journal.append("step", step=7, loss=0.1)
    ends(journal, 0)
    catch_up(connection, told_of_ends("notes", ended))
    catch_up(connection, told_of_ends("notes", ended))
    assert [state for state, _ in ended] == ["failed", "finished"]


def test_a_lost_run_that_writes_its_exit_code_later_has_ended_once(connection, journal):
    ended: list[tuple[str, int]] = []
    journal.append("launched", launcher="tmux")
    journal.append("step", step=7, loss=0.1)
    catch_up(connection, told_of_ends("notes", ended))
    ends(journal, 0)
    catch_up(connection, told_of_ends("notes", ended))
    assert ended == [("lost", 7)]


def test_watch_shows_what_was_said_of_the_end_and_a_failure_of_it_stops_nothing(connection, journal):
    ended: list[tuple[str, int]] = []
    journal.append("step", step=7, loss=0.5)  # no exit file, no process: lost
    registry = Registry([told_of_ends("bad", ended, fails=True), told_of_ends("notes", ended)])
    *_, (event, said) = watch.follow(connection, registry, RUN)
    assert (event.kind, event.data) == ("ended", {"state": "lost"})
    assert [(r.plugin, r.error.partition(" (")[0]) for r in said] == [("bad", "ValueError: no"), ("notes", "")]
    assert ended == [("lost", 7)] * 2


def test_a_plugin_that_answers_nonsense_of_a_checkpoint_is_named(connection, journal):
    module = types.ModuleType("odd")

    @hookimpl
    def after_checkpoint():
        return 42

    module.after_checkpoint = after_checkpoint
    checkpoint(journal, 10)
    (said,) = catch_up(connection, load(module))
    assert said.error == "returned 42, not a mapping"


def test_a_webhook_hears_of_a_checkpoint_and_of_a_failure_once_and_its_address_stays_unseen(
        connection, journal, monkeypatch, tmp_path):
    heard: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200 if "step_" in heard[-1] else 403)
            self.end_headers()

        def log_message(self, *_):
            pass

    journal.append("launched", launcher="tmux")
    checkpoint(journal, 10)
    journal.append("failed", step=12, error="out of memory")
    ends(journal, 1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        monkeypatch.setenv("RDTOPS_NOTIFY_URL", f"http://127.0.0.1:{server.server_port}/hook/T0KEN9f3a7")
        first, last = catch_up(connection, load("notify"))
        assert catch_up(connection, load("notify")) == []
        server.shutdown()
    assert [text.partition("rdtops lab2: " + RUN)[2][:32] for text in heard] == [
        f" step_000010 of {preset('tiny').max_steps} steps, 0.00 ", " failed at step 12 of 150: out o"]
    assert (first.value, last.error.partition(" (")[0]) == (
        {"told": "127.0.0.1"}, "RdtopsError: the webhook at 127.0.0.1 failed: it answered 403")
    kept = "".join(f.read_text() for f in (tmp_path / "state").rglob("*") if f.is_file())
    assert "403" in kept
    assert "T0KEN" not in kept
