import pytest

from rdtops.checks import Status
from rdtops.launcher import Traits
from rdtops.ssh.probe import Output
from tests.plugins.conftest import BROKEN, ScriptedConnection, recorded, said


@pytest.fixture
def check(plugins, host, spec):
    def run(*settings, gpus=None, apps=None, xids=None, listed=None, gpus_of_host=None, is_local=True, **values):
        h = host(gpus=gpus_of_host, **values)
        answers = {"gpus": gpus or recorded("gpus_550_a800.csv"), "processes": apps or said(""),
                   "xids": xids or recorded("dmesg_good.txt"), "instances": listed or said("", 1)}
        found = plugins["gpu"].preflight_check(h, ScriptedConnection(h, **answers), spec(*settings), Traits(is_local))
        return {r.name: r for r in found}
    return run


def test_the_gpus_of_a_login_node_are_not_judged(check):
    found = check(is_local=False, gpus=said("", 9))
    assert {name: result.status for name, result in found.items()} == {"gpu": Status.SKIP}


def test_too_few_gpus_fail_with_the_number_there_is(check):
    found = check()["gpu count"]
    assert found.status is Status.FAIL
    assert "4 GPUs usable, 8 requested" in found.summary
    assert "num_processes=4" in found.remedy


def test_cuda_visible_devices_decides_which_count(check):
    found = check("num_processes=2", env={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert found["gpu count"].status is Status.OK
    assert found["gpu memory"].status is Status.OK
    assert found["gpu ecc"].status is Status.OK


def test_no_visible_device_fails_and_names_the_variable(check):
    found = check("num_processes=2", env={"CUDA_VISIBLE_DEVICES": ""})["gpu count"]
    assert found.status is Status.FAIL
    assert "CUDA_VISIBLE_DEVICES=" in found.evidence
    assert "edit env of [hosts.h]" in found.remedy


def test_gpus_left_out_on_purpose_are_not_called_lost(check):
    found = check("num_processes=2", gpus_of_host=4, env={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert found["gpu count"].status is Status.OK


def test_a_gpu_that_needs_a_reset_is_quoted_and_does_not_keep_us_from_the_others(check):
    found = check("num_processes=1", gpus=recorded("gpus_535_lost.csv"))
    assert (found["gpu"].status, found["gpu count"].status) == (Status.WARN, Status.OK)
    assert "GPU requires reset" in found["gpu"].evidence
    assert check("num_processes=2", gpus=recorded("gpus_535_lost.csv"))["gpu count"].status is Status.FAIL


def test_free_memory_that_the_driver_does_not_tell_is_unknown(check):
    unknown = said("0, GPU-1b9f2d40-0000-4c1d-a1c3-0a1000000000, NVIDIA GB10, [N/A], [N/A], 0, [N/A]\n")
    found = check("num_processes=1", gpus=unknown)
    assert (found["gpu count"].status, found["gpu memory"].status) == (Status.OK, Status.SKIP)


MIG = "MIG-8932f937-d72c-4106-c12f-20bd9faed9f6"
DIVIDED = said(f"""\
GPU 0: NVIDIA A800-SXM4-80GB (UUID: GPU-5c1f0c2e-0000-4a8b-9d11-0a8000000000)
  MIG 3g.40gb     Device  0: (UUID: {MIG})
  MIG 3g.40gb     Device  1: (UUID: MIG-56c65cc2-5bb4-5a25-9be7-3b9d7d1a2d66)
GPU 1: NVIDIA A800-SXM4-80GB (UUID: GPU-5c1f0c2e-1111-4a8b-9d11-0a8000000001)
""")


@pytest.mark.parametrize("listed", [DIVIDED, None])  # None: it cannot be told which there are
def test_a_mig_instance_counts_as_a_gpu(check, listed):
    found = check("num_processes=1", listed=listed, env={"CUDA_VISIBLE_DEVICES": MIG})
    assert found["gpu count"].status is Status.OK
    assert found["gpu memory"].status is Status.SKIP  # that of its GPU says nothing about it


def test_a_mig_instance_that_is_not_there_is_none(check):
    found = check("num_processes=1", listed=DIVIDED, env={"CUDA_VISIBLE_DEVICES": "MIG-0000f937"})["gpu count"]
    assert (found.status, found.summary) == (Status.FAIL, "0 GPUs usable, 1 requested")
    assert "CUDA_VISIBLE_DEVICES=MIG-0000f937" in found.evidence


@pytest.mark.parametrize(("visible", "processes", "words"), [
    (f"{MIG},MIG-56c65cc2", 2, "of MIG instances CUDA shows a process only the first"),
    ("0", 1, "GPU 0 is divided into MIG instances, of which CUDA shows only the first"),
    ("1,0", 2, "GPU 0 is divided into MIG instances, of which CUDA shows only the first")])
def test_mig_instances_that_cuda_does_not_show_are_a_warning(check, visible, processes, words):
    found = check(f"num_processes={processes}", listed=DIVIDED, env={"CUDA_VISIBLE_DEVICES": visible})
    assert (found["gpu count"].status, found["gpu count"].summary) == (Status.WARN, words)
    assert found["gpu memory"].status is Status.SKIP


def test_a_gpu_with_one_instance_is_that_instance_and_another_is_whole(check):
    """As a container has it that was given one instance."""
    one = said("\n".join(line for line in DIVIDED.out.splitlines() if "Device  1" not in line))
    for visible in ("0", "1"):
        found = check("num_processes=1", listed=one, env={"CUDA_VISIBLE_DEVICES": visible})
        assert found["gpu count"].status is Status.OK
        assert found["gpu memory"].status is (Status.SKIP if visible == "0" else Status.OK)


def test_a_full_a_busy_and_a_broken_gpu_are_each_named(check):
    found = check("num_processes=4")
    assert (found["gpu memory"].status, found["gpu memory"].evidence) == (Status.FAIL, "GPU 2: 12034 MiB")
    assert (found["gpu load"].status, found["gpu load"].evidence) == (Status.WARN, "GPU 2: 97 %")
    assert (found["gpu ecc"].status, found["gpu ecc"].evidence) == (Status.FAIL, "GPU 3: 2")


def test_memory_is_what_the_plan_counts_and_a_remedy_is_a_setting_that_fits(check):
    """80 GB hold 32 samples of rdt-1b without gradient checkpointing, 40 GB with it."""
    whole = ("batch_size_per_process=32", "num_processes=2")
    found = check(*whole, env={"CUDA_VISIBLE_DEVICES": "0,1"})["gpu memory"]
    assert found.status is Status.OK
    assert found.summary.startswith("at least 81221 MiB free on each, ")
    assert found.summary.endswith(" needed with gradient_checkpointing = false")
    smaller = recorded("gpus_550_a800.csv").out.replace("81221", "39000")
    found = check(*whole, gpus=said(smaller), env={"CUDA_VISIBLE_DEVICES": "0,1"})["gpu memory"]
    assert found.summary.endswith(" needed with gradient_checkpointing = true")
    found = check(*whole, "gradient_checkpointing=false", gpus=said(smaller), env={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert found["gpu memory"].status is Status.FAIL
    assert found["gpu memory"].remedy.startswith(
        "inv train --host h --set gradient_checkpointing=true   # it fits, or --set batch_size_per_process=")
    found = check("num_processes=2", gpus=said(smaller.replace("39000", "12000")), env={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert found["gpu memory"].remedy == (
        "wait for the others, or use larger GPUs: no setting makes rdt-1b fit into 12000 MiB")


def test_a_number_of_one_s_own_replaces_the_plan(check):
    found = check("num_processes=4", "min_gpu_memory_free_mib=12000")["gpu memory"]
    assert (found.status, found.summary) == (Status.OK, "at least 12034 MiB free on each, 12000 needed")
    found = check("num_processes=4", "min_gpu_memory_free_mib=12035")["gpu memory"]
    assert found.status is Status.FAIL
    assert "min_gpu_memory_free_mib=12034" in found.remedy


def test_other_people_s_processes_are_named(check):
    found = check("num_processes=4", apps=recorded("apps_550.csv"))["gpu processes"]
    assert found.status is Status.WARN
    assert found.evidence == ("GPU 0: python (pid 41231, 69122 MiB), "
                              "GPU 2: /opt/my tools/train, now.py (pid 51872, memory unknown)")
    assert found.remedy.startswith("ps -o pid,user,etime,args -p 41231,51872")


def test_processes_on_gpus_that_we_do_not_use_are_none_of_our_business(check):
    found = check("num_processes=2", apps=recorded("apps_550.csv"), env={"CUDA_VISIBLE_DEVICES": "1,3"})
    assert found["gpu processes"].status is Status.OK


def test_a_lost_gpu_of_eight_is_one_warning_and_the_seven_train(check):
    rows = [f"{n}, GPU-5c1f0c2e-{n}{n}{n}{n}-4a8b-9d11-0a8000000000, NVIDIA A800-SXM4-80GB, 81920, 81221, 0, 0"
            for n in range(8) if n != 3]
    lost = "Unable to determine the device handle for GPU0000:4E:00.0: GPU is lost. Reboot the system"
    warning = "WARNING: infoROM is corrupted at gpu 0000:3B:00.0"
    found = check("num_processes=2", gpus=said("\n".join([warning, *rows, lost]), 15), gpus_of_host=8,
                  env={"CUDA_VISIBLE_DEVICES": "0,1"})
    warned = {name: result for name, result in found.items() if result.status is Status.WARN}
    assert set(warned) == {"gpu", "gpu count"}
    assert (warning in warned["gpu"].evidence, lost in warned["gpu"].evidence) == (True, True)
    assert warned["gpu count"].summary == "7 GPUs, but hosts.toml says 8: one may be lost"
    assert not [result for result in found.values() if result.status is Status.FAIL]


def test_a_gpu_fewer_than_hosts_toml_says_is_a_warning(check):
    found = check("num_processes=2", gpus_of_host=8)
    assert found["gpu count"].status is Status.WARN
    assert "hosts.toml says 8" in found["gpu count"].summary


def test_no_nvidia_smi_fails_only_where_gpus_are_asked_for(check):
    missing = Output(127, "", "sh: 1: nvidia-smi: not found")
    assert check(gpus=missing)["gpu"].status is Status.FAIL
    assert check("device=cpu", gpus=missing)["gpu"].status is Status.SKIP


def test_no_gpu_is_told_with_what_nvidia_smi_says(check):
    found = check("num_processes=1", gpus=said("No devices were found\n", 6))["gpu"]
    assert (found.status, found.summary) == (Status.FAIL, "nvidia-smi lists no GPU, and 1 are requested")
    assert "No devices were found" in found.evidence
    hangs = check("num_processes=1", gpus=Output(None, "", ""))["gpu"]
    assert hangs.summary == "nvidia-smi hangs (no answer within 40 s): a driver or GPU fault"


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_that_quotes_it_never_a_traceback(check, kind):
    found = check(gpus=BROKEN[kind], apps=BROKEN[kind])
    assert any(r.status is Status.FAIL for r in found.values()), found


def test_a_hardware_fault_in_the_kernel_s_log_is_a_warning_and_a_program_s_own_is_not(check):
    found = check("num_processes=2", xids=recorded("dmesg_xid.txt"))["gpu xid"]
    assert found.status is Status.WARN
    assert "PCI:0000:4e:00): 79" in found.evidence
    assert check("num_processes=2")["gpu xid"].status is Status.OK
    newer = check("num_processes=2", xids=recorded("dmesg_570_fell_off.txt"))["gpu xid"]
    assert (newer.status, "fallen off the bus" in newer.evidence) == (Status.WARN, True)


def test_a_log_that_is_not_for_this_user_is_no_finding(check):
    assert check("num_processes=2", xids=said("", 1))["gpu xid"].status is Status.SKIP


def test_gpus_of_different_models_are_a_warning(check):
    mixed = recorded("gpus_550_a800.csv").out.replace("A800", "A100", 1)
    found = check("num_processes=2", gpus=said(mixed))["gpu model"]
    assert (found.status, "GPU 0:" in found.evidence) == (Status.WARN, True)
    assert check("num_processes=2")["gpu model"].status is Status.OK


def test_cards_that_count_no_memory_errors_are_not_called_healthy(check):
    found = check("num_processes=1", gpus=recorded("gpus_470_geforce.csv"))
    assert found["gpu ecc"].status is Status.SKIP
