import json
import subprocess
from pathlib import Path

import pytest

from rdtops.checks import Status
from tests.plugins.conftest import BROKEN, ScriptedConnection, recorded, said


def df(free_gb, mounted="/"):
    kib = int(free_gb * 1e9 / 1024)
    return said("Filesystem 1024-blocks Used Available Capacity Mounted on\n"
                f"/dev/sda1 {kib * 2} {kib} {kib} 50% {mounted}\n")


@pytest.fixture
def check(plugins, host, spec):
    def run(*settings, space, inodes=None, mounts=None, quota=None, trial=None, min_free_gb=0.0):
        h = host()
        connection = ScriptedConnection(h, space=space, inodes=inodes or recorded("df_btrfs_inodes.txt"),
                                        mounts=mounts or recorded("mounts.txt"),
                                        quota=quota or recorded("quota_none.txt"),
                                        trial=trial or said('{"mib": 64, "seconds": 0.1}\n'))
        return {r.name: r for r in plugins["disk"].preflight_check(
            h, connection, spec(*settings), {"min_free_gb": min_free_gb})}
    return run


def test_the_forecast_is_checkpoints_kept_and_one_being_written(plugins, spec):
    one, videos = 16 * 1_228_319_872, plugins["disk"].EVAL_BYTES

    def forecast(*settings):
        return plugins["disk"].forecast_bytes(spec(*settings)) - videos

    assert forecast() == 16 * one  # 15 are made, 20 may be kept
    assert forecast("checkpoints_total_limit=3") == 5 * one  # the best is a fourth
    assert forecast("checkpoints_total_limit=3", "heldout_share=0") == 4 * one
    assert forecast(  # those of 10,000, 20,000 and 30,000 stay as well
        "checkpoints_total_limit=3", "heldout_share=0", "checkpoints_keep_every_steps=5000") == 7 * one


@pytest.mark.parametrize(("free_gb", "status"), [(500, Status.OK), (330, Status.WARN), (45, Status.FAIL)])
def test_the_forecast_is_held_against_what_is_free(check, free_gb, status):
    found = check(space=df(free_gb))["disk"]
    assert found.status is status
    if status is Status.FAIL:
        assert "269.65 GB are missing" in found.summary
        assert "16 checkpoints of 19.65 GB at once" in found.evidence


@pytest.mark.parametrize(("free_gb", "remedy"), [
    (330, "inv train --host h --set checkpoints_total_limit=11"), (45, "du -xh -d 2 / ")])
def test_the_remedy_keeps_as_many_as_fit_or_says_where_to_look(check, plugins, spec, free_gb, remedy):
    found = check(space=df(free_gb))["disk"]
    assert found.remedy.startswith(remedy)
    if "=" in remedy:
        setting = found.remedy.split("--set ")[1].split()[0]
        assert check(setting, space=df(free_gb))["disk"].status is Status.OK


def test_a_mount_point_with_spaces_on_nfs_is_read(plugins):
    space = plugins["disk"].parse_df(recorded("df_nfs.txt"))
    assert (space.mounted_on, space.free_kib) == ("/data/my robots", 107374183)
    assert space.mounted_on in plugins["disk"].parse_mounts(recorded("mounts.txt"))


def test_a_file_system_that_lives_on_root_s_reserve_has_nothing_free(plugins):
    assert plugins["disk"].parse_df(recorded("df_reserve.txt")).free_kib == 0


def test_few_inodes_fail_and_uncounted_ones_do_not(check):
    assert check(space=df(500), inodes=recorded("df_lustre_inodes.txt"))["disk inodes"].status is Status.FAIL
    assert check(space=df(500), inodes=recorded("df_btrfs_inodes.txt"))["disk inodes"].status is Status.SKIP


def test_a_read_only_file_system_fails_however_much_is_free(check):
    found = check(space=df(500, mounted="/data"))["disk"]
    assert (found.status, found.summary) == (Status.FAIL, "/data is mounted read-only")


def test_min_free_gb_counts_whatever_the_forecast(check):
    assert check("model=tiny", space=df(45), min_free_gb=50)["disk"].status is Status.FAIL
    assert check("model=tiny", space=df(45), min_free_gb=20)["disk"].status is Status.OK


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_never_a_traceback(check, kind):
    found = check(space=BROKEN[kind], inodes=BROKEN[kind], mounts=BROKEN[kind])
    assert found["disk"].status is Status.WARN


@pytest.mark.parametrize("kind", BROKEN)
def test_a_good_df_counts_when_the_rest_is_broken(check, kind):
    assert check(space=df(500), inodes=BROKEN[kind], mounts=BROKEN[kind])["disk"].status is Status.OK


@pytest.mark.parametrize(("name", "status", "words"), [
    ("quota_none.txt", Status.OK, "none on this file system"),
    ("quota_406_not_enabled.txt", Status.OK, "none on this file system"),
    ("quota_ext4.txt", Status.FAIL, "10.7 GB left of your quota on /dev/mapper/vg-home"),
    ("quota_over.txt", Status.FAIL, "0.0 GB left of your quota on fs1:/export/home"),
    ("quota_lustre.txt", Status.FAIL, "999500 of the 1000000 files of your quota are used")])
def test_a_quota_counts_as_the_disk_does(check, name, status, words):
    found = check(space=df(500), quota=recorded(name))["disk quota"]
    assert (found.status, words in found.summary) == (status, True), found


def test_a_quota_with_room_is_good(check):
    found = check("model=tiny", space=df(500), quota=recorded("quota_ext4.txt"))["disk quota"]
    assert (found.status, found.summary) == (Status.OK, "94.4 of 104.9 GB on /dev/mapper/vg-home")


def test_a_host_without_quotas_says_that_it_was_not_asked(check):
    found = check(space=df(500), quota=said("", 127, "no quota program"))["disk quota"]
    assert (found.status, "there is no quota program" in found.summary) == (Status.SKIP, True)


@pytest.mark.parametrize(("trial", "status", "words"), [
    (said('{"mib": 64, "seconds": 0.1}\n'), Status.OK, "671 MB/s with fsync: a checkpoint takes 29 s"),
    (said('{"mib": 20, "seconds": 5.2}\n'), Status.WARN, "4 MB/s with fsync"),
    (said('{"mib": 0, "seconds": 0}\n'), Status.SKIP, "too little space is free"),
    (said("", 1, "OSError: [Errno 122] Disk quota exceeded"), Status.FAIL, "64 MiB cannot be written"),
    (said("", 1, "PermissionError: [Errno 13] Permission denied: '/w'"), Status.SKIP, "this user cannot write"),
    (said("", None), Status.FAIL, "64 MiB cannot be written")])
def test_the_speed_of_a_short_write_says_how_long_a_checkpoint_takes(check, trial, status, words):
    found = check(space=df(500), trial=trial)["disk speed"]
    assert (found.status, words in found.summary) == (status, True), found


def test_the_trial_leaves_nothing_behind_and_needs_no_folder(plugins, host, tmp_path):
    probes = {p.name: p for p in plugins["disk"].probes(host(), str(tmp_path / "not" / "there yet"))}
    done = subprocess.run(["sh", "-c", probes["trial"].shell], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["mib"] == plugins["disk"].TRIAL_MIB
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_another_disk_is_followed(plugins, host, tmp_path):
    (tmp_path / "runs").symlink_to("/dev/shm")
    probes = {p.name: p for p in plugins["disk"].probes(host(), str(tmp_path / "runs"))}
    done = subprocess.run(["sh", "-c", probes["space"].shell], capture_output=True, text=True, check=True)
    there = Path("/dev/shm").resolve()
    assert plugins["disk"].parse_df(said(done.stdout)).mounted_on in {str(there), *map(str, there.parents)}
    assert plugins["disk"].parse_df(said(done.stdout)).mounted_on != "/"
