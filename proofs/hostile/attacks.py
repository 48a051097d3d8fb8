"""Attacks of a hostile host. An attack is a play of its host programs, a forged output of a program of its shell, or a
file that honest programs send; `row` is its number in the list of tested faults."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proofs.hostile.attacker import HostileHost
from proofs.hostile.plays import PWNED, SCREEN
from proofs.staging.observed_home import Home, TypedCommand
from proofs.staging.recorded_run import OLD, RUN, record
from rdtops.contract.journal import Journal
from rdtops.hostlib.manifest import FileDigest, Manifest, md5_of
from rdtops.hostlib.names import RelativePath

STATUS, STATUS_JSON, LOGS, WHY, GPU = "status --all", "status --all --json", "logs", "why", "gpu"
CHECKPOINTS, VERIFY, WATCH = "checkpoints", "checkpoints --verify", "watch --plain"
FETCH, REPORT, EVAL, STOP = "fetch-results --checkpoint all", "report", "eval --dry-run", "stop"
DEPLOY, CHECK, TRAIN = "deploy --from-scratch", "check --from-scratch", "train --from-scratch"
EVERY = (STATUS, STATUS_JSON, LOGS, WHY, GPU, CHECKPOINTS, VERIFY, WATCH, FETCH, REPORT, EVAL, STOP, DEPLOY, CHECK,
         TRAIN)
HOST = "lab"


@dataclass(frozen=True)
class Field:
    """The place of an attack."""

    home: Home
    hostile: HostileHost
    workspace: Path

    def run(self, run_id: str = RUN) -> Path:
        return self.workspace / "runs" / run_id


Judge = Callable[[Field, TypedCommand], list[str]]


def _nothing_besides(_: Field, __: TypedCommand) -> list[str]:
    return []


@dataclass(frozen=True)
class Attack:
    name: str
    row: str
    lines: tuple[str, ...]  # the commands at which it is aimed; `inv drill` types all others as well
    play: str = "honest"
    plant: Callable[[Field], object] = lambda _: None
    lies: Mapping[str, str] = field(default_factory=dict)  # program of the host's shell -> script
    judge: Judge = _nothing_besides
    limit_s: float = 30.0
    is_slow: bool = False
    only_these: bool = False  # the other commands are not affected
    is_short: bool | None = None  # True: of the short form alone, False: not of it

    @property
    def is_play(self) -> bool:
        """Whether it needs only the host's answers: several such attacks may follow each other."""
        return self.play != "honest" and self.judge is _nothing_besides and not self.is_slow


def attacks() -> tuple[Attack, ...]:
    return (*_outside(), *_senders(), *_shown(), *_broken(), *_endless())


# --- names that lead outside ---

def _outside() -> tuple[Attack, ...]:
    return (
        Attack("a run called ../../plugins", "A1", (FETCH, CHECKPOINTS, LOGS), "run_id_outside", _host_plugins),
        Attack("an evaluation ../../../../plugins with a video pwned.py", "A2", (CHECKPOINTS, FETCH),
               plant=_journal_names, only_these=True),
        Attack("a report above the run", "A2", (CHECKPOINTS,), plant=_report_above, only_these=True),
        Attack("an evaluation's video is a file of the laptop", "A2", (FETCH, CHECKPOINTS), plant=_video_above,
               only_these=True),
        Attack("a listed evaluation ../../../../plugins", "A2", (STATUS, "logs --eval", EVAL), "evaluation_outside"),
        Attack("a checkpoint ../../../../../pwned", "A5", (FETCH, CHECKPOINTS, EVAL), "checkpoint_outside"),
        Attack("a launch that runs as ../../plugins already", "A1", (TRAIN,), "twin_outside", only_these=True),
        Attack("a listing of files elsewhere", "A4", (FETCH,), "files_outside"),
        Attack("find names a file elsewhere", "A4", (FETCH,), only_these=True, lies={
            "find": "#!/bin/sh\necho eval/../../../../plugins/pwned.py\necho eval/../../../../../.bashrc\n"}),
        Attack("ls names a file elsewhere", "A4", (FETCH,), only_these=True, lies={
            "ls": "#!/bin/sh\necho ../../../plugins/pwned.py journal.jsonl /etc/hostname\n"}),
        Attack("a manifest of a file elsewhere", "C5", (f"{VERIFY} --json", FETCH), plant=_manifest_above,
               judge=_not_verified, only_these=True),
    )


def _senders() -> tuple[Attack, ...]:
    return (
        Attack("a sender says put", "A3", (FETCH,), "put_outside", judge=_nothing_unasked),
        Attack("a sender says begin and finish", "A3", (FETCH,), "begin_outside", judge=_nothing_unasked),
        Attack("a chain of links", "A4", (FETCH, REPORT), "links_in_a_chain"),
        Attack("a link that nobody asked for", "A4", (FETCH,), "unasked_link"),
        Attack("a copy of a local file", "A6", (FETCH,), "copy_of_a_local_file", judge=_tells_nothing),
        Attack("a file that nobody asked for", "A6", (FETCH,), "unasked_file", judge=_nothing_unasked),
    )


def _shown() -> tuple[Attack, ...]:
    return (
        Attack("codes of the terminal in files", "B1", (STATUS, LOGS, WHY, WATCH, CHECKPOINTS, FETCH), plant=_codes),
        Attack("folders among the runs that are none", "B3", (STATUS, FETCH, LOGS, CHECKPOINTS), plant=_strange_folders,
               judge=_others_go_on, only_these=True),
        Attack("codes of the terminal in JSON", "B1", (STATUS_JSON, "why --json", "checkpoints --json"), plant=_codes,
               only_these=True),
        Attack("codes of the terminal in answers", "B1", (STATUS, WATCH, CHECK, TRAIN), "screen_codes"),
        Attack("codes of the terminal in names", "B1", (STATUS, CHECKPOINTS, "rollback"), "screen_codes_in_names"),
        Attack("codes of the terminal in errors of a transfer", "B1", (FETCH, DEPLOY), "screen_codes_in_errors"),
        Attack("codes of the terminal in a full disk", "B1", (DEPLOY,), "screen_codes_in_a_full_disk"),
        Attack("codes of the terminal on stderr", "B1", (STATUS, FETCH), "screen_codes_on_stderr"),
        Attack("no message but a welcome", "B1", (STATUS, FETCH), "no_message"),
        Attack("codes of the terminal from nvidia-smi", "B1", (GPU, WHY, STATUS), lies={
            "nvidia-smi": f"#!/bin/sh\nprintf '%s' '{SCREEN}, x, 1, 2, 3, 4'\necho '{SCREEN}' >&2\n"}),
        Attack("a script in report.json and checks.json", "B2", (FETCH, CHECKPOINTS), plant=_scripts,
               judge=_no_script, only_these=True),
    )


def _broken() -> tuple[Attack, ...]:
    """Break one old run; every other command must work."""
    others, itself = (STATUS, FETCH, LOGS, CHECKPOINTS), (f"status --run {OLD}", f"fetch-results --run {OLD}")
    return (
        Attack("an old run is broken, another one, and so on", "B3", (*others, CHECK, TRAIN), plant=_every_old_run,
               judge=_others_go_on, only_these=True),
        *(Attack(name, "B3", (*others, *itself), plant=_on_the_old_run(how),
                 judge=_others_go_on, only_these=True, is_short=False) for name, how in BREAKS.items()),
        Attack("answers nested 200,000 times", "B3", (STATUS, FETCH, WHY), "deep_nesting"),
        Attack("an answer's exit code of 5,000 digits", "B3", (STATUS, FETCH), "endless_number"),
        Attack("a list instead of an object", "B3", (STATUS, FETCH, WHY), "another_kind"),
        Attack("no answer", "B3", (STATUS, FETCH, WHY), "nothing"))


def _endless() -> tuple[Attack, ...]:
    return (
        Attack("news that grow to 4 GB", "B4", (CHECKPOINTS,), "news_bomb"),
        Attack("an endless line", "B4", (STATUS,), "endless_line"),
        Attack("an endless line of a transfer", "B4", (DEPLOY,), "endless_line"),
        Attack("endless answers", "B4", (STATUS,), "endless_output"),
        Attack("endless words on stderr", "B4", (STATUS,), "endless_words_on_stderr"),
        Attack("an endless listing", "B4", (FETCH,), "endless_listing", limit_s=90.0, is_slow=True),
        Attack("news without end", "B4", (CHECKPOINTS,), "endless_news", limit_s=90.0, is_slow=True),
        Attack("alive and nothing else", "B5", (DEPLOY, FETCH, STATUS), "alive_for_ever", limit_s=900.0, is_slow=True),
        Attack("one byte a second", "B5", (STATUS, FETCH), "one_byte_a_second", limit_s=900.0, is_slow=True),
        Attack("a journal line of 150 MB", "C7", (STATUS, CHECKPOINTS, FETCH), plant=_endless_journal_line,
               limit_s=120.0, is_slow=True, only_these=True),
    )


# --- planted files ---

def _host_plugins(field: Field) -> None:
    """Create `runs/../../plugins` on the host: a whole run, with a plugin in it."""
    folder = record(field.workspace, "../../plugins")
    (folder / "launch.sh").write_bytes(PWNED)


def _journal_names(field: Field) -> None:
    field.run().joinpath("eval", "pwned").mkdir()
    _evaluation_says(field, "../../../../plugins", "eval/pwned/report.json")
    report = json.loads((_evaluated(field) / "report.json").read_text())
    (field.run() / "eval" / "pwned" / "report.json").write_text(
        json.dumps({**report, "trials": [{**report["trials"][0], "video": "pwned.py"}]}))
    (field.run() / "eval" / "pwned" / "pwned.py").write_bytes(PWNED)


def _report_above(field: Field) -> None:
    _evaluation_says(field, "step_000002-libero_90-00000000", "../../../../../etc/hostname")


def _video_above(field: Field) -> None:
    report = json.loads((_evaluated(field) / "report.json").read_text())
    for trial, video in zip(report["trials"], ("../../../../../../plugins/pwned.py", "/etc/hostname"), strict=True):
        trial["video"] = video
    (_evaluated(field) / "report.json").write_text(json.dumps(report))


def _evaluation_says(field: Field, name: str, report: str) -> None:
    Journal(field.run() / "journal.jsonl").append(
        "eval_finished", name=name, report=report, digest="0" * 32, checkpoint="step_000002", benchmark="libero_90",
        successes=1, trials=2, errors=0)


def _manifest_above(field: Field) -> None:
    checkpoint = field.run() / "checkpoints" / "step_000002"
    there = Path("/etc/hostname")
    rows = [*Manifest.from_json((checkpoint / "manifest.json").read_text()).files,
            FileDigest(RelativePath(os.path.relpath(there, checkpoint)), there.stat().st_size, md5_of(there))]
    (checkpoint / "manifest.json").write_text(Manifest(tuple(rows)).to_json())


def _codes(field: Field) -> None:
    run, journal = field.run(), Journal(field.run() / "journal.jsonl")
    with (run / "train.log").open("ab") as log:
        log.write(f"Error: {SCREEN}\n".encode() + b"\xff\x9b2J\x1b[31mred\x1b[0m\n")
    journal.append("warning", message=SCREEN)
    journal.append("trial", name=SCREEN, task=SCREEN, trial=1, outcome=SCREEN, steps=1, error=SCREEN)
    journal.append("checkpoint_failed", step=2, error=SCREEN, remedy=SCREEN)
    journal.append("failed", step=2, error=SCREEN, remedy=SCREEN, type="ValueError", rank=0, training=True)
    (run / "exit").write_text("1\n")
    (run / "checkpoints" / f"step_000003{SCREEN}").mkdir()
    (run / "eval" / f"{SCREEN}-libero_90-00000000").mkdir()
    config = json.loads((run / "config.json").read_text())
    config["snapshot"] = SCREEN
    config["train"]["dataset"] = SCREEN
    (run / "config.json").write_text(json.dumps(config))
    (run / "checks.json").write_text((run / "checks.json").read_text().replace("45 GB free", json.dumps(SCREEN)[1:-1]))


def _strange_folders(field: Field) -> None:
    for name in ("backup", "20270101-000000-x", "a b\nc", f"20270101-120000-{SCREEN}-0003", "-rf"):
        (field.workspace / "runs" / name).mkdir()
    Path(os.fsdecode(os.fsencode(field.workspace / "runs") + b"/20270101-\xff\n\x1b[2J")).mkdir()
    shutil.copytree(field.run(), field.workspace / "runs" / "copy of a run")


def _scripts(field: Field) -> None:
    script = "<script>alert(1)</script>"
    spoilt = _spoilt(json.loads((_evaluated(field) / "report.json").read_text()), script)
    (_evaluated(field) / "report.json").write_text(json.dumps({**spoilt, "planned_trials": 2}))
    Journal(field.run() / "journal.jsonl").append(  # its digest has changed
        "eval_finished", name=_evaluated(field).name, report=f"eval/{_evaluated(field).name}/report.json",
        digest=md5_of(_evaluated(field) / "report.json"), checkpoint="step_000002", benchmark="libero_90",
        successes=1, trials=2, errors=0)
    for name in ("checks.json", "statistics.json"):
        (field.run() / name).write_text(json.dumps(_spoilt(json.loads((field.run() / name).read_text()), script)))
    config = json.loads((field.run() / "config.json").read_text())
    (field.run() / "config.json").write_text(json.dumps({**config, "created_at": script, "snapshot": script}))


def _spoilt(value: Any, script: str, key: str = "") -> Any:
    """Replace every number and text by a script, except what the page needs to be made at all."""
    if isinstance(value, dict):
        return {k: _spoilt(v, script, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_spoilt(v, script, key) for v in value]
    return value if key in ("success_rate", "wilson_95", "mean_steps_to_success", "video", "task") else script


def _on_the_old_run(how: Callable[[Field, Path], object]) -> Callable[[Field], object]:
    return lambda field: how(field, field.run(OLD))


def _every_old_run(field: Field) -> None:
    for number, how in enumerate(BREAKS.values()):
        how(field, record(field.workspace, f"20260101-0000{number:02}-old-00{number:02}"))


def _appended(line: str) -> Callable[[Field, Path], object]:
    def append(_: Field, run: Path) -> None:
        with (run / "journal.jsonl").open("a") as file:
            file.write(line + "\n")

    return append


def _written(name: str, text: str) -> Callable[[Field, Path], object]:
    return lambda _, run: next(run.glob(name)).write_text(text)


def _wrong_config(_: Field, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "assets": 5, "workspace": [], "run_id": None}))


BREAKS: Mapping[str, Callable[[Field, Path], object]] = {
    'a step "x"': _appended('{"kind": "step", "step": "x", "loss": 1.0}'),
    "a loss of text, a time of text": _appended(
        '{"kind": "step", "step": 3, "loss": "NaN", "time_s": "yesterday", "eta_s": []}'),
    "a loss of two kinds": _appended('{"kind": "step", "step": 3, "time_s": 1.0, "loss": [], "samples_per_s": "x"}'),
    "a checkpoint event of wrong kinds": _appended(
        '{"kind": "checkpoint", "time_s": 1.0, "step": [], "name": {}, "size_bytes": "many", "digest": 5}'),
    "an exit of 5,000 digits": _written("exit", "9" * 5000),
    "an exit of other digits": _written("exit", "²"),
    "a config.json nested 200,000 times": _written("config.json", "[" * 200_000),
    "a config.json of wrong kinds": _wrong_config,
    "a report.json of wrong kinds": _written("eval/*/report.json", json.dumps(
        {"planned_trials": "x", "total": 5, "tasks": "many", "trials": [1], "protocol": None})),
    "an eval.json of wrong kinds": _written("eval/*/eval.json", '{"protocol": 5}'),
}


def _endless_journal_line(field: Field) -> None:
    with (field.run() / "journal.jsonl").open("a") as file:
        file.write('{"kind": "warning", "time_s": 1.0, "message": "')
        for _ in range(150):
            file.write("x" * 1_000_000)
        file.write('"}\n')


def _evaluated(field: Field, run_id: str = RUN) -> Path:
    return next(path.parent for path in sorted((field.run(run_id) / "eval").glob("*/trials.jsonl")))


# --- additional conditions ---

def _not_verified(field: Field, typed: TypedCommand) -> list[str]:
    try:
        states = [row.get("state") for row in json.loads(typed.ends[0].out)]
    except (ValueError, IndexError):
        return []
    return ["the checkpoint is called verified"] if "verified" in states else []


def _nothing_unasked(field: Field, typed: TypedCommand) -> list[str]:
    found = [path.relative_to(field.home.results) for path in field.home.results.rglob("*")
             if path.name in ("unasked.py", "pwned.py", "stolen", "unasked")]
    return [f"a file that was not requested is in results: {path}" for path in found]


def _tells_nothing(field: Field, typed: TypedCommand) -> list[str]:
    found = _nothing_unasked(field, typed)
    if '"refused"' in field.hostile.heard():
        found.append("the host learnt that a local file does not have a certain MD5")
    return found


def _no_script(field: Field, typed: TypedCommand) -> list[str]:
    pages = list(field.home.results.rglob("*.html"))
    found = [f"a script in {page.relative_to(field.home.results)}" for page in pages
             if "<script>alert" in page.read_text(errors="replace")]
    return found if pages else ["no page was written at all"]


def _others_go_on(field: Field, typed: TypedCommand) -> list[str]:
    """Check that the newest run is intact, whatever happened to the old one. `inv status` of all ends with 1 when one
    of them failed."""
    found = [f"`inv {end.line}` is for another run, and ends with exit {end.code}: {end.words[-300:]}"
             for end in typed.ends[:4] if end.code not in ((0, 1) if end.line.startswith(STATUS) else (0,))]
    if typed.ends and RUN not in typed.ends[0].words.replace(" ", ""):
        found.append("status does not show the other run")
    return found
