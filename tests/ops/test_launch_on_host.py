"""What a launch leaves on the host when it does not come off. Real scripts, started for real."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdtops.ops import launch_on_host as there

RUN = "20261126-101530-tiny-3fa9"
WISH = {"train_digest": "d", "release": "/r", "assets": {}}
OTHER = [{"what": "GPU 0", "run_id": "another", "user": "ann", "since_s": 1.0}]
BEGINS = 'echo "$$ $(cut -d" " -f22 /proc/$$/stat) $(cat /proc/sys/kernel/random/boot_id)" > process; sleep 5'
IS_REFUSED = f"echo '{json.dumps(OTHER)}' > refused"


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "snapshot.json").touch()

    def ask(what: str, run_id: str = RUN, *, again: bool = False, config: str = "{}", within_s: float = 5.0,
            program: tuple[str, ...] = ("-m", "rdtops.ops.launch_on_host")) -> dict:
        folder = tmp_path / "runs" / run_id
        start = {"script": str(folder / "launch.sh"), "session": run_id, "tag": f"RDTOPS_RUN={run_id}",
                 "launcher": "setsid", "within_s": within_s, "secrets": None}
        request = {"op": "train", "workspace": str(tmp_path), "run_id": run_id, "release": str(tmp_path / "release"),
                   "wish": WISH, "again": again, "start": start,
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
    answer = asked(f"until [ -e {go} ]; do sleep 0.05; done; {BEGINS}", within_s=0.2, config=json.dumps(WISH))
    assert answer["problem"] == "silent"
    assert asked(BEGINS, "20261126-101531-tiny-aaaa") == {"twin": RUN, "state": "prepared"}
    go.touch()
    process = tmp_path / "runs" / RUN / "process"
    end = time.monotonic() + 20
    while not there.is_alive(there.text_of(str(process))):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert asked(BEGINS, "20261126-101532-tiny-bbbb") == {"twin": RUN, "state": "running"}
    assert runs(tmp_path) == [RUN]


def test_one_more_is_begun_when_it_is_wanted(asked, tmp_path):
    assert asked(BEGINS, config=json.dumps(WISH))["launcher"] == "setsid"
    assert asked(BEGINS, "20261126-101531-tiny-aaaa", again=True)["launcher"] == "setsid"
    assert runs(tmp_path) == [RUN, "20261126-101531-tiny-aaaa"]


WITHOUT_LOCKS = """\
import errno, fcntl
def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
from rdtops.ops import launch_on_host
launch_on_host.main()
"""


def test_a_launch_begins_where_the_file_system_has_no_locks(asked):
    assert asked(BEGINS, program=("-c", WITHOUT_LOCKS)) == {"launcher": "setsid", "note": ""}


def test_code_that_was_removed_is_not_launched(asked, tmp_path):
    (tmp_path / "release" / "snapshot.json").unlink()
    assert asked(BEGINS) == {"problem": "release"}
    assert runs(tmp_path) == []


def test_secrets_for_what_somebody_else_starts_are_kept_for_their_owner(tmp_path):
    request = {"op": "secrets", "secrets": {"path": str(tmp_path / "of" / "it"), "text": "TOKEN=x\n"}}
    done = subprocess.run([sys.executable, "-m", "rdtops.ops.launch_on_host"], input=json.dumps(request) + "\n",
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
