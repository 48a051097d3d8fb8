import json
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
    return {"release": said("there\n"), "python": python(), "launcher": said("/usr/bin/tmux\n/usr/bin/setsid\n"),
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
])
def test_what_is_odd_is_a_warning(check, settings, answers, name, words):
    found = check(*settings, **answers)[name]
    assert found.status is Status.WARN, found
    assert words in found.summary


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
    assert {"clock", "shm"} <= {n for n, r in found.items() if r.status is Status.WARN}
