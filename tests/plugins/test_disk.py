import pytest

from rdtops.checks import Status
from tests.plugins.conftest import BROKEN, ScriptedConnection, recorded, said


def df(free_gb, mounted="/data"):
    kib = int(free_gb * 1e9 / 1024)
    return said("Filesystem 1024-blocks Used Available Capacity Mounted on\n"
                f"/dev/sda1 {kib * 2} {kib} {kib} 50% {mounted}\n")


@pytest.fixture
def check(plugins, host, spec):
    def run(*settings, space, inodes=None, writable=None, plugin_options=None):
        h = host(plugins={"disk": plugin_options} if plugin_options else {})
        connection = ScriptedConnection(h, space=space, inodes=inodes or recorded("df_btrfs_inodes.txt"),
                                        writable=writable or said("writable\n"))
        return {r.name: r for r in plugins["disk"].preflight_check(h, connection, spec(*settings))}
    return run


def test_the_forecast_is_checkpoints_kept_and_one_being_written(plugins, spec):
    one = 16 * 1_228_319_872
    assert plugins["disk"].forecast_bytes(spec()) == 16 * one  # 15 are made, 20 may be kept
    assert plugins["disk"].forecast_bytes(spec("checkpoints_total_limit=3")) == 4 * one


@pytest.mark.parametrize(("free_gb", "status"), [(500, Status.OK), (330, Status.WARN), (45, Status.FAIL)])
def test_the_forecast_is_held_against_what_is_free(check, free_gb, status):
    found = check(space=df(free_gb))["disk"]
    assert found.status is status
    if status is Status.FAIL:
        assert "269.45 GB are missing" in found.summary


def test_a_mount_point_with_spaces_on_nfs_is_read(plugins):
    space = plugins["disk"].parse_df(recorded("df_nfs.txt"))
    assert (space.mounted_on, space.free_kib) == ("/data/my robots", 107374183)


def test_few_inodes_fail_and_uncounted_ones_do_not(check):
    assert check(space=df(500), inodes=recorded("df_lustre_inodes.txt"))["disk inodes"].status is Status.FAIL
    assert "disk inodes" not in check(space=df(500), inodes=recorded("df_btrfs_inodes.txt"))


def test_a_workspace_that_cannot_be_written_fails(check):
    assert check(space=df(500), writable=said("/data\n"))["workspace"].status is Status.FAIL


def test_min_free_gb_counts_whatever_the_forecast(check):
    assert check("model=tiny", space=df(45), plugin_options={"min_free_gb": 50})["disk"].status is Status.FAIL
    assert check("model=tiny", space=df(45), plugin_options={"min_free_gb": 20})["disk"].status is Status.OK


@pytest.mark.parametrize(("options", "words"), [({"min_gb": 3}, "unknown option 'min_gb'; allowed: min_free_gb"),
                                                ({"min_free_gb": "many"}, "min_free_gb = 'many'")])
def test_a_wrong_option_is_a_finding(check, options, words):
    found = check(space=df(500), plugin_options=options)["disk"]
    assert found.status is Status.FAIL
    assert words in found.summary


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_never_a_traceback(check, kind):
    found = check(space=BROKEN[kind], inodes=BROKEN[kind], writable=BROKEN[kind])
    assert found["disk"].status is Status.WARN
