import json
import subprocess
import time

import pytest

from rdtops.checks import Status
from rdtops.ops import preflight
from rdtops.ops.preflight import FolderFacts, PythonFacts
from rdtops.remote.hosts import Host
from tests.plugins.conftest import BROKEN, ScriptedConnection, said, spec  # noqa: F401  # spec is a fixture

GOOD_PACKAGES = dict(preflight.requirements())
SHM = "Filesystem 1048576-blocks Used Available Capacity Mounted on\ntmpfs {0} 0 {0} 0% /dev/shm\n"
CONFIG_1B = {"rdt": {"hidden_size": 2048, "depth": 28, "num_heads": 32}, "lang_token_dim": 4096, "img_token_dim": 1152}


def python(version=(3, 10, 12), **packages):
    return said("a line of .bashrc\n" + json.dumps(
        {"python": list(version), "path": "/envs/rdt/bin/python", "packages": {**GOOD_PACKAGES, **packages}}) + "\n")


def folder(sizes, config=""):
    return said("".join(f"{s} {n}\n" for n, s in sizes.items()) + "---\n" + config)


def good():
    return {"release": said("there\n"), "workspace": said("writable /w\n"), "python": python(),
            "launcher": said("/usr/bin/tmux\n/usr/bin/setsid\n"),
            "dataset": folder({"a b.hdf5": 1_000_000_000}), "clock": said(f"{time.time():.0f}\n"),
            "shm": said(SHM.format(99999)),
            "pretrained": folder({"config.json": 900, "pytorch_model.bin": 2_456_755_578}, json.dumps(CONFIG_1B)),
            "cuda": said("True 8 12.4\n")}


@pytest.fixture
def check(spec):  # noqa: F811
    def run(*settings, **answers):
        host = Host(name="h", address="192.0.2.1")
        connection = ScriptedConnection(host, **{**good(), **answers})
        return {r.name: r for r in preflight.core_checks(connection, spec(*settings))}
    return run


def test_a_good_host_has_only_good_findings(check):
    assert [r for r in check().values() if r.status is not Status.OK] == []


def test_all_probes_travel_in_one_round_trip(spec):  # noqa: F811
    calls = []

    class Counting(ScriptedConnection):
        def call(self, *words, **options):
            calls.append(words)
            return super().call(*words, **options)

    preflight.core_checks(Counting(Host(name="h", address="192.0.2.1"), **good()), spec())
    assert len(calls) == 1


@pytest.mark.parametrize(("answers", "name", "words"), [
    ({"release": said("missing\n")}, "code", "is not deployed"),
    ({"workspace": said("refused /my disk\n")}, "workspace", "/w cannot be written by this user"),
    ({"python": said("5\n")}, "python", "does not start"),
    ({"python": said('{"python": 3, "path": 1, "packages": 2}\n')}, "python", "does not start"),
    ({"python": said("", 1, "there is no conda environment rdt; looked in ~/x")}, "python", "does not start"),
    ({"python": python((3, 8, 10))}, "python", "Python 3.8.10; the trainer needs 3.10"),
    ({"python": python(transformers=None)}, "packages", "missing: transformers"),
    ({"launcher": said("")}, "launcher", "neither tmux nor setsid"),
    ({"dataset": folder({})}, "dataset", "no *.hdf5 in /w/assets/libero_single_task"),
    ({"dataset": folder({"a.hdf5": 0})}, "dataset", "empty: a.hdf5"),
    ({"pretrained": folder({"config.json": 900}, "{}")}, "pretrained", "safetensors or pytorch_model.bin missing"),
    ({"pretrained": folder({"pytorch_model.bin": 9})}, "pretrained", "config.json missing"),
    ({"pretrained": folder({"config.json": 9, "pytorch_model.bin": 9}, "{")}, "pretrained", "cannot be read"),
    ({"pretrained": folder({"config.json": 9, "pytorch_model.bin": 1_200_000_000}, json.dumps(CONFIG_1B))},
     "pretrained", "not the size of rdt-1b"),
    ({"pretrained": folder({"config.json": 9, "pytorch_model.bin": 2_456_755_578},
                           json.dumps({**CONFIG_1B, "lang_token_dim": 512}))}, "pretrained",
     "lang_token_dim 512 instead of 4096"),
    ({"cuda": said("False 0 None\n")}, "cuda", "torch sees 0 GPUs, 8 are asked for"),
])
def test_what_keeps_a_training_from_starting_is_a_fail_with_its_reason(check, answers, name, words):
    found = check(**answers)[name]
    assert found.status is Status.FAIL, found
    assert words in found.summary


@pytest.mark.parametrize(("settings", "answers", "name", "words"), [
    ((), {"python": python(accelerate="0.27.0")}, "packages", "accelerate 0.27.0 (needs"),
    ((), {"clock": said(f"{time.time() - 4000:.0f}\n")}, "clock", "off this laptop's"),
    ((), {"shm": said(SHM.format(64))}, "shm", "64 MiB free"),
    (("warmup_steps=40000",), {}, "configuration", "warm-up"),
    (("max_steps=1000",), {}, "configuration", "only the last step is saved"),
    (("checkpoints_keep_every_steps=3000",), {}, "configuration", "keeps common multiples of itself and"),
])
def test_what_is_odd_is_a_warning(check, settings, answers, name, words):
    found = check(*settings, **answers)[name]
    assert found.status is Status.WARN, found
    assert words in found.summary


def test_the_package_of_a_tracker_is_asked_for_with_it_only(check):
    assert check()["packages"].status is Status.OK
    found = check("tracker=wandb")["packages"]
    assert (found.status, found.summary) == (Status.FAIL, "missing: wandb")
    assert "wandb>=" in found.remedy
    assert check("tracker=tensorboard", python=python(tensorboard="2.21.0"))["packages"].status is Status.OK


def test_safetensors_come_first_and_both_precisions_are_plausible(spec):  # noqa: F811
    for size, kind in ((2_456_755_578, "16-bit"), (4_913_395_320, "fp32")):
        sizes = {"config.json": 9, "model.safetensors": size, "pytorch_model.bin": 3}
        facts = FolderFacts(sizes, json.dumps(CONFIG_1B))
        found = preflight.pretrained(facts, spec(), "inv deploy")
        assert found.status is Status.OK
        assert found.summary.startswith(f"model.safetensors, {size / 1e6:.1f} MB, {kind}")


def test_from_scratch_needs_no_pretrained_weights(check, spec):  # noqa: F811
    from dataclasses import replace

    whole = spec("from_scratch=true")
    bare = replace(whole, assets={k: v for k, v in whole.assets.items() if k != "pretrained"})
    found = preflight.core_checks(ScriptedConnection(Host(name="h", address="192.0.2.1"), **good()), bare)
    assert {r.name: r.status for r in found}["pretrained"] is Status.OK


def test_a_launcher_that_hosts_toml_wants_must_be_there(spec):  # noqa: F811
    host = Host(name="h", address="192.0.2.1", launcher="tmux")
    for there, status in (("/usr/bin/tmux\n", Status.OK), ("/usr/bin/setsid\n", Status.FAIL)):
        found = preflight.core_checks(ScriptedConnection(host, **{**good(), "launcher": said(there)}), spec())
        assert {r.name: r.status for r in found}["launcher"] is status


def test_a_version_counts_by_its_numbers():
    facts = PythonFacts((3, 11, 0), "python", {**GOOD_PACKAGES, "torch": "2.13.0+cu126", "numpy": "10.0"})
    assert preflight.packages(facts, "python").status is Status.OK


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_never_a_traceback(check, kind):
    found = check(**dict.fromkeys(good(), BROKEN[kind]))
    failed = {n for n, r in found.items() if r.status is Status.FAIL}
    assert {"code", "python", "dataset", "pretrained", "cuda"} <= failed
    assert {"clock", "shm", "workspace"} <= {n for n, r in found.items() if r.status is Status.WARN}


def test_a_slow_probe_is_no_clock_skew(spec, monkeypatch):  # noqa: F811
    class Slow(ScriptedConnection):
        def call(self, *words, **options):
            answers = super().call(*words, **options)
            monkeypatch.setattr(preflight.time, "time", lambda: 1090.0)  # importing torch took 90 s
            return answers

    for host_s, names in ((1000, set()), (1090, set()), (938, {"clock"}), (1152, {"clock"})):
        monkeypatch.setattr(preflight.time, "time", lambda: 1000.0)
        connection = Slow(Host(name="h", address="192.0.2.1"), **{**good(), "clock": said(f"{host_s}\n")})
        assert {r.name for r in preflight.core_checks(connection, spec())} & {"clock"} == names


def test_only_what_the_trainer_reads_counts_as_dataset_and_links_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/x").write_text("{}")
    there = tmp_path / "a folder"
    there.mkdir()
    for name in ("demo.hdf5", "sub folder", "other.h5", ".rdtops-part-1.hdf5", "config.json"):
        (there / name).symlink_to("../blobs/x") if "." in name else (there / name).mkdir()
    (there / "sub folder/b.hdf5").write_bytes(b"123")
    assert listed(there, "*.hdf5").sizes == {"demo.hdf5": 2, "sub folder/b.hdf5": 3}
    assert set(listed(there).sizes) == {"demo.hdf5", "other.h5", "config.json", "sub folder/b.hdf5"}
    assert listed(there).config == "{}"
    assert listed(tmp_path / "nowhere").sizes == {}


def listed(place, *names):
    done = subprocess.run(["sh", "-c", preflight._listing(str(place), *names)], capture_output=True, text=True,
                          check=True)
    return preflight.parse_folder(said(done.stdout))


def test_a_workspace_is_judged_by_its_nearest_parent(tmp_path):
    (tmp_path / "file").touch()
    for place, verdict in (("new/deep", "writable"), ("file/new", "refused"), ("file", "refused")):
        line = preflight._nearest(str(tmp_path / place))
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == verdict, place


def test_torch_is_asked_with_the_gpus_that_hosts_toml_leaves_it(spec):  # noqa: F811
    host = Host(name="h", address="192.0.2.1", env={"CUDA_VISIBLE_DEVICES": "0,1", "HF_TOKEN": "secret"})
    (line,) = [p.shell for p in preflight.probes(ScriptedConnection(host), spec()) if p.name == "cuda"]
    assert line.startswith("CUDA_VISIBLE_DEVICES=0,1 python3 -c ")
    assert "secret" not in line
