import pytest

from rdtops.checks import Status
from tests.plugins.conftest import BROKEN, ScriptedConnection, recorded, said


def df(free_gb, mounted="/"):
    kib = int(free_gb * 1e9 / 1024)
    return said("Filesystem 1024-blocks Used Available Capacity Mounted on\n"
                f"/dev/sda1 {kib * 2} {kib} {kib} 50% {mounted}\n")


@pytest.fixture
def check(plugins, host, spec):
    def run(*settings, space, inodes=None, mounts=None, plugin_options=None):
        h = host(plugins={"disk": plugin_options} if plugin_options else {})
        connection = ScriptedConnection(h, space=space, inodes=inodes or recorded("df_btrfs_inodes.txt"),
                                        mounts=mounts or recorded("mounts.txt"))
        return {r.name: r for r in plugins["disk"].preflight_check(h, connection, spec(*settings))}
    return run


def test_the_forecast_is_checkpoints_kept_and_one_being_written(plugins, spec):
    one = 16 * 1_228_319_872
    assert plugins["disk"].forecast_bytes(spec()) == 16 * one  # 15 are made, 20 may be kept
    assert plugins["disk"].forecast_bytes(spec("checkpoints_total_limit=3")) == 5 * one  # the best is a fourth
    assert plugins["disk"].forecast_bytes(spec("checkpoints_total_limit=3", "heldout_share=0")) == 4 * one
    assert plugins["disk"].forecast_bytes(  # those of 10,000, 20,000 and 30,000 stay as well
        spec("checkpoints_total_limit=3", "heldout_share=0", "checkpoints_keep_every_steps=5000")) == 7 * one


@pytest.mark.parametrize(("free_gb", "status"), [(500, Status.OK), (330, Status.WARN), (45, Status.FAIL)])
def test_the_forecast_is_held_against_what_is_free(check, free_gb, status):
    found = check(space=df(free_gb))["disk"]
    assert found.status is status
    if status is Status.FAIL:
        assert "269.45 GB are missing" in found.summary
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
    assert "disk inodes" not in check(space=df(500), inodes=recorded("df_btrfs_inodes.txt"))


def test_a_read_only_file_system_fails_however_much_is_free(check):
    found = check(space=df(500, mounted="/data"))["disk"]
    assert (found.status, found.summary) == (Status.FAIL, "/data is mounted read-only")


def test_min_free_gb_counts_whatever_the_forecast(check):
    assert check("model=tiny", space=df(45), plugin_options={"min_free_gb": 50})["disk"].status is Status.FAIL
    assert check("model=tiny", space=df(45), plugin_options={"min_free_gb": 20})["disk"].status is Status.OK


@pytest.mark.parametrize(("options", "words"), [({"min_gb": 3}, "unknown option 'min_gb'; allowed: min_free_gb"),
                                                ({"min_free_gb": "many"}, "min_free_gb = 'many'"),
                                                ({"min_free_gb": True}, "min_free_gb = True"),
                                                ({"min_free_gb": -1}, "min_free_gb = -1"),
                                                ({"min_free_gb": float("nan")}, "min_free_gb = nan"),
                                                ({"min_free_gb": float("inf")}, "min_free_gb = inf")])
def test_a_wrong_option_is_a_finding(check, options, words):
    found = check(space=df(500), plugin_options=options)["disk"]
    assert found.status is Status.FAIL
    assert words in found.summary


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_never_a_traceback(check, kind):
    found = check(space=BROKEN[kind], inodes=BROKEN[kind], mounts=BROKEN[kind])
    assert found["disk"].status is Status.WARN


@pytest.mark.parametrize("kind", BROKEN)
def test_a_good_df_counts_when_the_rest_is_broken(check, kind):
    assert check(space=df(500), inodes=BROKEN[kind], mounts=BROKEN[kind])["disk"].status is Status.OK
