import pytest

from rdtops.checks import Status
from rdtops.remote.probe import Output
from tests.plugins.conftest import BROKEN, ScriptedConnection, recorded, said


@pytest.fixture
def check(plugins, host, spec):
    def run(*settings, gpus=None, apps=None, **values):
        h = host(**values)
        answers = {"gpus": gpus or recorded("gpus_550_a800.csv"), "processes": apps or said("")}
        return {r.name: r for r in plugins["gpu"].preflight_check(h, ScriptedConnection(h, **answers), spec(*settings))}
    return run


def test_a_driver_s_csv_is_read(plugins):
    gpus = plugins["gpu"].parse_gpus(recorded("gpus_550_a800.csv"))
    assert [(g.index, g.memory_free_mib, g.utilization_percent, g.ecc_errors) for g in gpus] == [
        (0, 81221, 0, 0), (1, 81221, 0, 0), (2, 12034, 97, 0), (3, 81221, 0, 2)]


def test_what_a_card_does_not_tell_is_none(plugins):
    gpus = plugins["gpu"].parse_gpus(recorded("gpus_470_geforce.csv"))
    assert [(g.utilization_percent, g.ecc_errors) for g in gpus] == [(None, None), (3, None)]


def test_process_names_with_commas_are_read(plugins):
    found = plugins["gpu"].parse_processes(recorded("apps_550.csv"))
    assert [(p.pid, p.name, p.memory_mib) for p in found] == [
        (41231, "python", 69122), (51872, "/opt/my tools/train, now.py", None)]


def test_too_few_gpus_fail_with_the_number_there_is(check):
    found = check()["gpu count"]
    assert found.status is Status.FAIL
    assert "4 GPUs usable, 8 asked for" in found.summary
    assert "num_processes=4" in found.remedy


def test_cuda_visible_devices_decides_which_count(check):
    found = check("num_processes=2", env={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert found["gpu count"].status is Status.OK
    assert found["gpu memory"].status is Status.OK
    assert "gpu ecc" not in found


def test_a_full_a_busy_and_a_broken_gpu_are_each_named(check):
    found = check("num_processes=4")
    assert (found["gpu memory"].status, found["gpu memory"].evidence) == (Status.FAIL, "GPU 2: 12034 MiB")
    assert (found["gpu load"].status, found["gpu load"].evidence) == (Status.WARN, "GPU 2: 97 %")
    assert (found["gpu ecc"].status, found["gpu ecc"].evidence) == (Status.FAIL, "GPU 3: 2")


def test_other_people_s_processes_are_named(check):
    found = check("num_processes=2", apps=recorded("apps_550.csv"))["gpu processes"]
    assert found.status is Status.WARN
    assert "python (pid 41231, 69122 MiB)" in found.evidence



def test_a_gpu_fewer_than_hosts_toml_says_is_a_warning(plugins, host, spec):
    h = host(gpus=8)
    connection = ScriptedConnection(h, gpus=recorded("gpus_550_a800.csv"), processes=said(""))
    found = {r.name: r for r in plugins["gpu"].preflight_check(h, connection, spec("num_processes=2"))}
    assert found["gpu count"].status is Status.WARN
    assert "hosts.toml says 8" in found["gpu count"].summary


def test_no_nvidia_smi_fails_only_where_gpus_are_asked_for(check):
    missing = Output(127, "", "sh: 1: nvidia-smi: not found")
    assert check(gpus=missing)["gpu"].status is Status.FAIL
    assert check("device=cpu", gpus=missing)["gpu"].status is Status.SKIP


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_that_quotes_it_never_a_traceback(check, kind):
    found = check(gpus=BROKEN[kind], apps=BROKEN[kind])
    assert any(r.status is Status.FAIL for r in found.values()), found
