"""after_checkpoint: once for each checkpoint, in order, whatever happens to the laptop or the journal in between."""

import types
from dataclasses import replace
from pathlib import Path

import pytest

from rdtops.contract.config import preset
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec, RunState
from rdtops.hookspecs import hookimpl
from rdtops.lab.site import Lab
from rdtops.ops import runs, watch
from rdtops.ops.records import RunRecords
from rdtops.ops.registry import Plugin, Registry
from rdtops.remote.connection import Connection
from rdtops.remote.inventory import load

pytestmark = pytest.mark.lab
RUN = "20260101-000000-watched-0001"


@pytest.fixture
def connection(lab: Lab, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path / "state"))
    lab.write_inventory(tmp_path / "hosts.toml", {})
    host = replace(load(tmp_path / "hosts.toml").host("lab2"), workspace=f"~/watch{tmp_path.name}")
    with Connection(host) as opened:
        yield opened


@pytest.fixture
def journal(lab: Lab, connection: Connection, tmp_path: Path) -> Journal:
    folder = Path(connection.workspace) / "runs" / RUN
    folder.mkdir(parents=True)
    spec = RunSpec(RUN, "lab2", "now", connection.workspace, "/r", "s", {"dataset": "/d"}, preset("tiny"))
    (folder / "config.json").write_text(spec.to_json())
    (folder / "process").write_text("1 1 not-this-boot\n")
    return Journal(folder / "journal.jsonl")


def checkpoint(journal: Journal, step: int) -> None:
    journal.append("checkpoint", step=step, name=f"step_{step:06d}", size_bytes=1, digest=f"digest-{step}")


def plugin(name: str, seen: list[tuple[str, int]], fails_at: int = 0) -> Plugin:
    module = types.ModuleType(name)

    @hookimpl
    def after_checkpoint(checkpoint, run):
        seen.append((name, checkpoint.step))
        assert run.run_id == RUN
        if checkpoint.step == fails_at:
            raise ValueError("no")
        return {"step": checkpoint.step}

    module.after_checkpoint = after_checkpoint
    return Plugin(name, "test", hooks=("after_checkpoint",), module=module)


def evaluated(journal: Journal, name: str, digest: str) -> None:
    journal.append("eval_started", name=name, checkpoint="step_000010", benchmark="libero_90", tasks=1, trials=4,
                   done_before=0)
    journal.append("eval_finished", name=name, report=f"eval/{name}/report.json", digest=digest,
                   checkpoint="step_000010", benchmark="libero_90", successes=3, trials=4, errors=1)


def catch_up(connection, *plugins):
    return watch.catch_up(connection, Registry(plugins), runs.find(connection, RUN))


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
    assert [(r.plugin, r.checkpoint, r.error) for r in said if r.error] == [("bad", "step_000010", "ValueError: no")]
    assert [r.value for r in RunRecords("lab2", RUN).hooks() if r.plugin == "good"] == [{"step": 10}, {"step": 20}]


def test_a_laptop_killed_before_it_moved_its_cursor_asks_nobody_twice(connection, journal):
    seen: list[tuple[str, int]] = []
    for step in (10, 20):
        checkpoint(journal, step)
    catch_up(connection, plugin("a", seen))
    RunRecords("lab2", RUN).advance(0)
    catch_up(connection, plugin("a", seen), plugin("new", seen))
    assert seen == [("a", 10), ("a", 20), ("new", 10), ("new", 20)]


def test_each_finished_evaluation_fires_once_and_in_its_place(connection, journal):
    module, seen = types.ModuleType("e"), []

    @hookimpl
    def after_eval(evaluation, run):
        seen.append((run.run_id, evaluation))
        return {"rate": evaluation.successes / evaluation.trials}

    module.after_eval = after_eval
    plugins = (plugin("c", seen), Plugin("e", "test", hooks=("after_eval",), module=module))
    checkpoint(journal, 10)
    evaluated(journal, "first", "digest-a")
    checkpoint(journal, 20)
    evaluated(journal, "first", "digest-a")  # started again, and nothing was left to do
    evaluated(journal, "second", "digest-b")
    catch_up(connection, *plugins)
    catch_up(connection, *plugins)
    assert [who for who, _ in seen] == ["c", RUN, "c", RUN]
    first = seen[1][1]
    assert (first.name, first.successes, first.trials, first.errors) == ("first", 3, 4, 1)
    assert first.report == f"{connection.workspace}/runs/{RUN}/eval/first/report.json"
    said = [(r.hook, r.checkpoint, r.value) for r in RunRecords("lab2", RUN).hooks() if r.plugin == "e"]
    assert said == [("after_eval", "first", {"rate": 0.75}), ("after_eval", "second", {"rate": 0.75})]


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
    run = runs.find(connection, RUN)
    assert (run.state, run.step, run.loss) == (RunState.LOST, 7, 0.5)
    events = [e.kind for e, _ in watch.follow(connection, Registry([]), RUN, from_start=True)]
    assert events == ["step"]
