"""What a launch leaves on the host when it does not come off. Real scripts, started for real."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rdtops.hostlib.processes import is_alive
from rdtops.on_host import training_starter as there

RUN = "20261126-101530-tiny-3fa9"
KEY = {"train_digest": "d", "code": "0c0de000", "assets": {"dataset": "/d"}}
CONFIG = {"train_digest": "d", "release": "/r/1a2b3c4d-0c0de000", "snapshot": "1a2b3c4d-0c0de000",
          "assets": {"dataset": "/d"}, "host": "lab"}
OTHER = [{"what": "GPU 0", "run_id": "another", "user": "ann", "since_s": 1.0}]
BEGINS = 'echo "$$ $(cut -d" " -f22 /proc/$$/stat) $(cat /proc/sys/kernel/random/boot_id)" > process; sleep 5'
IS_REFUSED = f"echo '{json.dumps(OTHER)}' > refused"


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "snapshot.json").touch()

    def ask(what: str, run_id: str = RUN, *, again: bool = False, config: str = "{}", within_s: float = 5.0,
            program: tuple[str, ...] = ("-m", "rdtops.on_host.training_starter")) -> dict:
        folder = tmp_path / "runs" / run_id
        start = {"script": str(folder / "launch.sh"), "session": run_id, "tag": f"RDTOPS_RUN={run_id}",
                 "launcher": "setsid", "within_s": within_s}
        request = {"op": "train", "workspace": str(tmp_path), "run_id": run_id, "release": str(tmp_path / "release"),
                   "key": KEY, "again": again, "start": start, "secrets": None,
                   "files": {"config.json": config, "launch.sh": f"cd {folder} || exit 1\n{what}\n"}}
        done = subprocess.run([sys.executable, *program], input=json.dumps(request) + "\n", capture_output=True,
                              text=True, check=True)
        return json.loads(done.stdout)
    return ask


def runs(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "runs").iterdir() if not p.name.startswith("."))


def test_what_is_refused_leaves_nothing(asked, tmp_path):
    assert asked(IS_REFUSED) == {"in_the_way": OTHER}
    assert runs(tmp_path) == []


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(asked, tmp_path):
    folder = tmp_path / "runs" / RUN
    folder.mkdir(parents=True)
    for name, text in (("config.json", "before"), ("launch.sh", "before"), ("exit", "1\n")):
        (folder / name).write_text(text)
    assert asked(IS_REFUSED, config="after") == {"in_the_way": OTHER}
    assert [(folder / name).read_text() for name in ("config.json", "launch.sh", "exit")] == ["before", "before", "1\n"]


def test_a_slow_script_is_left_in_peace_and_found_again(asked, tmp_path):
    go = tmp_path / "go"
    answer = asked(f"until [ -e {go} ]; do sleep 0.05; done; {BEGINS}", within_s=0.2, config=json.dumps(CONFIG))
    assert answer["problem"] == "silent"
    assert asked(BEGINS, "20261126-101531-tiny-aaaa") == {"duplicate": RUN, "state": "prepared"}
    go.touch()
    process = tmp_path / "runs" / RUN / "process"
    end = time.monotonic() + 20
    while not is_alive(there.text_of(str(process))):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert asked(BEGINS, "20261126-101532-tiny-bbbb") == {"duplicate": RUN, "state": "running"}
    assert runs(tmp_path) == [RUN]


@pytest.mark.parametrize(("changed", "is_the_same"), [
    ({"snapshot": "5e6f7a8b-dirty-0c0de000"}, True),  # committed since: the same code has another revision
    ({"snapshot": "1a2b3c4d-ffffffff"}, False), ({"train_digest": "e"}, False), ({"assets": {"dataset": "/e"}}, False),
    ({"snapshot": ["1a2b3c4d-0c0de000"]}, False), ({"snapshot": ""}, False)])
def test_settings_code_and_assets_make_a_training_the_same(tmp_path, changed, is_the_same):
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "config.json").write_text(json.dumps({**CONFIG, **changed}))
    found = there.duplicate_of(str(tmp_path), KEY, "new", again=False)
    assert found == ({"duplicate": RUN, "state": "prepared"} if is_the_same else None)


def test_one_more_is_begun_when_it_is_wanted(asked, tmp_path):
    assert asked(BEGINS, config=json.dumps(CONFIG))["launcher"] == "setsid"
    assert asked(BEGINS, "20261126-101531-tiny-aaaa", again=True)["launcher"] == "setsid"
    assert runs(tmp_path) == [RUN, "20261126-101531-tiny-aaaa"]


WITHOUT_LOCKS = """\
import errno, fcntl
def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
from rdtops.on_host import training_starter as launch_on_host
launch_on_host.main()
"""


def test_a_launch_begins_where_the_file_system_has_no_locks(asked):
    assert asked(BEGINS, program=("-c", WITHOUT_LOCKS)) == {"launcher": "setsid", "note": ""}


def test_code_that_was_removed_is_not_launched(asked, tmp_path):
    (tmp_path / "release" / "snapshot.json").unlink()
    assert asked(BEGINS) == {"problem": "release"}
    assert runs(tmp_path) == []


def test_secrets_for_what_somebody_else_starts_are_kept_for_their_owner(tmp_path):
    request = {"op": "secrets", "path": str(tmp_path / "of" / "it"), "text": "TOKEN=x\n"}
    done = subprocess.run([sys.executable, "-m", "rdtops.on_host.training_starter"], input=json.dumps(request) + "\n",
                          capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {}
    kept = tmp_path / "of" / "it"
    assert kept.read_text() == "TOKEN=x\n"
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_secret_is_never_readable_for_others_not_even_for_a_moment(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    there.write_whole(str(path), "new", 0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)


# --- a script that is started, told of and ended ---

def asked_of_the_program(**request) -> dict:
    done = subprocess.run([sys.executable, "-m", "rdtops.on_host.training_starter"], input=json.dumps(request) + "\n",
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_script_that_does_not_get_its_gpus_is_refused_by_name(tmp_path):
    (tmp_path / "launch.sh").write_text(f"cd {tmp_path} || exit 1\n{IS_REFUSED}\n")
    answer = asked_of_the_program(op="submit", script=str(tmp_path / "launch.sh"), session="s", tag="RDTOPS_RUN=s",
                                  launcher="setsid", within_s=5.0)
    assert answer == {"in_the_way": OTHER, "already": False}


def test_a_job_is_stopped_whatever_lies_where_its_files_belong(tmp_path):
    (tmp_path / "stop").mkdir()
    os.mkfifo(tmp_path / "journal.jsonl")
    tag = f"RDTOPS_EVAL={tmp_path.name}"
    with subprocess.Popen(["sleep", "60"], env={**os.environ, **dict([tag.split("=")])}) as left:
        threading.Thread(target=left.wait, daemon=True).start()  # no zombie stays
        since_s = time.monotonic()
        assert asked_of_the_program(op="stop", folder=str(tmp_path), tag=tag, grace_s=2.0) == {"left": []}
        assert time.monotonic() - since_s < 10


def test_what_does_not_listen_is_killed_after_its_grace(tmp_path):
    tag = f"RDTOPS_EVAL={tmp_path.name}"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], env={**os.environ, **dict([tag.split("=")])},
                          stdout=subprocess.PIPE) as left:
        assert left.stdout
        assert left.stdout.readline()
        threading.Thread(target=left.wait, daemon=True).start()
        since_s = time.monotonic()
        assert asked_of_the_program(op="stop", folder=str(tmp_path), tag=tag, grace_s=1.0) == {"left": []}
        assert 1.0 <= time.monotonic() - since_s < 8
