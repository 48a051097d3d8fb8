"""The bundled plugins and the core checks against a real host over real SSH: broken GPUs, full disks, lost encoders."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import paramiko
import pytest

from rdtops.checks import CheckResult, Status
from rdtops.contract import manifest
from rdtops.contract.config import override, preset
from rdtops.contract.run import Checkpoint, RunSpec
from rdtops.errors import ConnectionLost, PreflightVeto, RdtopsError
from rdtops.lab.gpus import Failure, GpuProcess, Gpus
from rdtops.lab.site import Lab
from rdtops.ops import preflight, registry
from rdtops.ops.plan import Wish
from rdtops.ops.session import Session
from rdtops.remote import stream
from rdtops.remote.connection import Connection
from rdtops.remote.hosts import Environment
from rdtops.remote.inventory import load
from rdtops.remote.probe import Probe, ask
from tests.lab.commandline import CommandLine

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

T5 = {"config.json": b'{"d_model": 4096}', "pytorch_model.bin": b"t5" * 1000, "spiece.model": b"words",
      "tf_model.h5": b"not wanted"}
SIGLIP = {"config.json": b'{"vision_config": {"hidden_size": 1152, "image_size": 384, "patch_size": 14}}',
          "model.safetensors": b"siglip" * 1000}


@pytest.fixture(scope="module")
def plugins() -> dict[str, Any]:
    return {p.name: p.module for p in registry.load().loaded}


@pytest.fixture(scope="module")
def inventory(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("checks") / "hosts.toml"
    lab.write_inventory(file, {})
    return file


@pytest.fixture(scope="module")
def link(inventory: Path) -> Iterator[Connection]:
    with Connection(load(inventory).host("lab2")) as opened:
        yield opened


@pytest.fixture
def workspace(lab: Lab) -> Iterator[Path]:
    """A workspace on the host that no other test uses."""
    folder = lab.home("lab2") / "checks"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def spec(workspace: Path):
    def make(*settings: str, name: str = "libero_single_task") -> RunSpec:
        train = override(preset(name), settings)
        assets = {role: f"{workspace}/assets/{getattr(train, role)}"
                  for role in ("dataset", "pretrained", "text_encoder", "vision_encoder")}
        return RunSpec("20261124-101530-x-3fa9", "lab2", "now", str(workspace), f"{workspace}/releases/s", "s", assets,
                       train)
    return make


def by_name(found: list[CheckResult]) -> dict[str, CheckResult]:
    return {r.name: r for r in found}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


# --- GPUs ---

@pytest.fixture
def gpu_findings(lab: Lab, link: Connection, plugins, spec):
    def look(gpus: Gpus, *settings: str) -> dict[str, CheckResult]:
        lab.set_gpus("lab2", gpus)
        return by_name(plugins["gpu"].preflight_check(link.host, link, spec(*settings)))
    yield look
    lab.set_gpus("lab2", Gpus())


def test_eight_idle_gpus_are_good(gpu_findings):
    found = gpu_findings(Gpus())
    assert {r.status for n, r in found.items() if n != "gpu xid"} == {Status.OK}  # the kernel's log is this machine's
    assert found["gpu count"].summary == "8 x NVIDIA A800-SXM4-80GB; 8 asked for"


def test_busy_and_broken_gpus_are_named(gpu_findings):
    gpus = Gpus(memory_used_mib=(4, 70000), utilization_percent=(0, 99), ecc_errors=(0, 0, 3),
                processes=(GpuProcess(1, 4711, "python", 69996),))
    found = gpu_findings(gpus)
    assert (found["gpu memory"].status, found["gpu memory"].evidence) == (Status.FAIL, "GPU 1: 11920 MiB")
    assert (found["gpu load"].status, found["gpu load"].evidence) == (Status.WARN, "GPU 1: 99 %")
    assert (found["gpu ecc"].status, found["gpu ecc"].evidence) == (Status.FAIL, "GPU 2: 3")
    assert found["gpu processes"].evidence == "GPU 1: python (pid 4711, 69996 MiB)"


def test_a_broken_driver_is_quoted(gpu_findings):
    message = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    found = gpu_findings(Gpus(fail=Failure(9, message)))["gpu"]
    assert found.status is Status.FAIL
    assert message in found.evidence


def test_a_hanging_nvidia_smi_ends_in_its_own_time(gpu_findings, plugins, monkeypatch):
    for name in ("GPUS", "PROCESSES"):
        monkeypatch.setattr(plugins["gpu"], name, replace(getattr(plugins["gpu"], name), timeout_s=1))
    found = gpu_findings(Gpus(hang_s=30))["gpu"]
    assert found.status is Status.FAIL
    assert "nvidia-smi hangs (no answer within 1 s)" in found.summary


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has an nvidia-smi of its own")
def test_a_host_without_nvidia_smi_fails_only_where_gpus_are_asked_for(lab, gpu_findings):
    program = lab.folder("lab2") / "bin/nvidia-smi"
    program.rename(program.with_name("hidden"))
    try:
        assert gpu_findings(Gpus())["gpu"].summary == "there is no nvidia-smi, and 8 GPUs are asked for"
        assert gpu_findings(Gpus(), "device=cpu")["gpu"].status is Status.SKIP
    finally:
        program.with_name("hidden").rename(program)


# --- disk and workspace ---

@pytest.fixture
def small_disk(lab: Lab) -> Iterator[Any]:
    """A file system of its own for the workspace: 64 MB, mounted with the options given."""
    folder = lab.home("lab2") / "checks-disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        mounted.append(folder)
        return folder
    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)
    folder.rmdir()


def of_disk(plugins, link: Connection, run: RunSpec) -> dict[str, CheckResult]:
    return by_name(plugins["disk"].preflight_check(link.host, link, run, {"min_free_gb": 0.0}))


def test_a_disk_with_room_is_good(plugins, link, spec):
    found = of_disk(plugins, link, spec(name="tiny"))
    assert found["disk"].status is Status.OK


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")


@needs_root
def test_a_small_disk_fails_with_the_number_that_is_missing(plugins, link, spec, small_disk):
    place = small_disk("size=64m")
    found = of_disk(plugins, link, replace(spec(), workspace=str(place / "w")))
    assert found["disk"].status is Status.FAIL
    assert found["disk"].summary == f"0.1 GB free on {place}, 314.65 GB needed: 314.58 GB are missing"
    assert found["disk speed"].status is Status.SKIP  # the last megabytes are not for trials


@needs_root
def test_few_inodes_fail(plugins, link, spec, small_disk):
    place = small_disk("size=64m,nr_inodes=50")
    found = of_disk(plugins, link, replace(spec(name="tiny"), workspace=str(place)))
    assert found["disk inodes"].status is Status.FAIL


@needs_root
def test_a_read_only_disk_fails_in_both_checks(plugins, link, spec, small_disk):
    there = replace(spec(name="tiny"), workspace=str(small_disk("ro,size=64m") / "w"))
    found = of_disk(plugins, link, there)
    assert (found["disk"].status, "is mounted read-only" in found["disk"].summary) == (Status.FAIL, True)
    assert by_name(preflight.core_checks(link, there))["workspace"].status is Status.FAIL


# --- encoders and MD5 ---

def test_missing_encoders_warn_are_brought_and_then_good(plugins, link, spec, tmp_path):
    there = spec()
    local = {"text_encoder": write(tmp_path / "t5", T5), "vision_encoder": write(tmp_path / "siglip", SIGLIP)}
    mirror, md5 = plugins["encoder_mirror"], plugins["md5"]

    def findings() -> dict[str, CheckResult]:
        return by_name([*mirror.preflight_check(link.host, link, there, local),
                        *md5.preflight_check(link.host, link, there, local)])

    before = {n: r.status for n, r in findings().items()}
    wanted = ("text_encoder", "vision_encoder", "md5 text_encoder", "md5 vision_encoder")
    assert {before[n] for n in wanted} == {Status.WARN}  # a FAIL of either would keep before_train from its work
    mirror.before_train(link.host, link, there, local)
    after = findings()
    assert {after[n].status for n in wanted} == {Status.OK}
    assert after["md5 text_encoder"].summary == "4 files, 0.0 MB, the same MD5 as here"


def test_a_changed_encoder_fails_by_name(plugins, link, spec, tmp_path):
    there = spec()
    local = {"text_encoder": write(tmp_path / "t5", T5)}
    write(Path(there.assets["text_encoder"]), {**T5, "spiece.model": b"wOrds"})
    found = by_name(plugins["md5"].preflight_check(link.host, link, there, local))["md5 text_encoder"]
    assert found.status is Status.FAIL
    assert found.evidence.startswith("spiece.model: ")
    assert found.remedy == "inv deploy --host lab2"


def test_an_incomplete_copy_vetoes_the_launch(plugins, link, spec, tmp_path):
    local = {"text_encoder": write(tmp_path / "t5", {n: c for n, c in T5.items() if n != "spiece.model"}),
             "vision_encoder": write(tmp_path / "siglip", SIGLIP)}
    with pytest.raises(PreflightVeto, match="tokenizer of the text_encoder t5-v1_1-xxl are still missing"):
        plugins["encoder_mirror"].before_train(link.host, link, spec(), local)


class Hub(BaseHTTPRequestHandler):
    """The three answers of a Hugging Face mirror that a download needs."""

    repositories: ClassVar = {"google/t5-v1_1-xxl": T5, "google/siglip-so400m-patch14-384": SIGLIP}
    commit = "0123456789abcdef0123456789abcdef01234567"
    tokens: ClassVar[list[str | None]] = []
    asked = threading.Event()
    open_for_all = threading.Event()  # cleared: every request waits

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        self.asked.set()
        self.open_for_all.wait(20)
        path = self.path.partition("?")[0].removeprefix("/")
        name = path.removeprefix("api/models/")
        repository = "/".join(name.split("/")[:2])
        files = self.repositories.get(repository)
        if files is None:
            self._answer(404, b"")
        elif path == name:
            self._answer(200, files[path.rpartition("/")[2]])
        elif "/tree/" in name:
            self._answer(200, json.dumps([{"type": "file", "path": n, "size": len(c), "oid": md5(c)}
                                          for n, c in files.items()]).encode())
        else:
            siblings = [{"rfilename": n} for n in files]
            self._answer(200, json.dumps({"id": repository, "sha": self.commit, "siblings": siblings}).encode())

    def _answer(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{md5(content)}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.tokens.clear()
    Hub.asked.clear()
    Hub.open_for_all.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Hub.open_for_all.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_encoders_are_downloaded_there_through_the_mirror(plugins, link, spec, hub):
    there = spec()
    host = replace(link.host, env={"HF_ENDPOINT": hub, "HF_TOKEN": "hf_secret"})
    mirror = plugins["encoder_mirror"]
    found = by_name(mirror.preflight_check(host, link, there, {}))
    assert {found[role].status for role in ("text_encoder", "vision_encoder")} == {Status.WARN}
    assert (found["hf endpoint"].status, "serves the encoders" in found["hf endpoint"].summary) == (Status.OK, True)
    mirror.before_train(host, link, there, {})
    folder = Path(there.assets["text_encoder"])
    assert (folder / "pytorch_model.bin").read_bytes() == T5["pytorch_model.bin"]
    assert not (folder / "tf_model.h5").exists()
    assert "Bearer hf_secret" in Hub.tokens  # the variables of hosts.toml reach the download
    assert {r.status for r in mirror.preflight_check(host, link, there, {})} == {Status.OK}


def test_a_mirror_that_refuses_vetoes_the_launch_and_is_named(plugins, link, spec):
    host = replace(link.host, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    words = "google/t5-v1_1-xxl could not be downloaded on lab2 from http://127.0.0.1:9: exit 1"
    with pytest.raises(PreflightVeto, match=re.escape(words)) as caught:
        plugins["encoder_mirror"].before_train(host, link, spec(), {})
    assert caught.value.remedy.startswith("inv train --host lab2")


def test_a_link_that_freezes_within_a_download_ends_it_in_bounded_time(plugins, lab, inventory, spec, hub, monkeypatch):
    monkeypatch.setattr(plugins["encoder_mirror"], "SILENCE_S", 7.0)  # more than the 5 s between two signs of life
    Hub.open_for_all.clear()
    freeze = threading.Thread(target=lambda: Hub.asked.wait(20) and lab.freeze("lab2"))
    host = replace(load(inventory).host("lab2"), env={"HF_ENDPOINT": hub})
    begun_s = time.monotonic()
    freeze.start()
    try:
        with Connection(host) as connection, pytest.raises(PreflightVeto, match="could not get an answer of lab2"):
            plugins["encoder_mirror"].before_train(host, connection, spec(), {})
        assert 6 < time.monotonic() - begun_s < 25  # the silence, then the question whose fault it is
    finally:
        freeze.join()
        lab.thaw("lab2")


@pytest.fixture
def checkpoint(workspace: Path) -> Checkpoint:
    folder = write(workspace / "step_000010", {"model.safetensors": b"weights"})
    write(folder / "ema", {"name with space": b"average"})
    sealed = manifest.seal(folder)
    return Checkpoint(10, folder.name, str(folder), sealed.size_bytes, sealed.digest)


def test_a_whole_checkpoint_is_recorded_as_verified(plugins, link, checkpoint):
    record = plugins["md5"].after_checkpoint(link, checkpoint)
    assert record == {"verified": True, "files": 2, "size_bytes": 14, "digest": checkpoint.digest}


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_of_a_checkpoint_is_named(plugins, link, checkpoint, damage):
    file = Path(checkpoint.path, "ema", "name with space")
    file.write_bytes(b"avarage") if damage == "changed" else file.unlink()
    with pytest.raises(RdtopsError, match="ema/name with space is not what the trainer wrote"):
        plugins["md5"].after_checkpoint(link, checkpoint)


def test_another_manifest_than_the_one_announced_is_named(plugins, link, checkpoint):
    with pytest.raises(RdtopsError, match=r"manifest\.json is not what the trainer wrote"):
        plugins["md5"].after_checkpoint(link, replace(checkpoint, digest="0" * 32))


def test_a_checkpoint_that_is_gone_is_said(plugins, link, checkpoint):
    shutil.rmtree(checkpoint.path)
    with pytest.raises(RdtopsError, match="step_000010 cannot be verified"):
        plugins["md5"].after_checkpoint(link, checkpoint)


# --- the core checks ---

def test_the_core_checks_say_what_an_empty_host_lacks(link, spec):
    there = spec(name="tiny")
    write(Path(there.assets["dataset"]), {"demo.h5": b"the trainer reads *.hdf5 only"})
    found = by_name(preflight.core_checks(link, there))
    good = {"python", "packages", "launcher", "configuration", "workspace", "clock", "memory", "open files", "shm",
            "host keys", "rendezvous", "tracker", "runs"}
    assert {n for n in good if found[n].status is not Status.OK} == set(), found
    lacking = {n: found[n].remedy for n in ("code", "dataset", "pretrained")}
    assert set(lacking.values()) == {"inv deploy --host lab2"}
    assert {n for n, r in found.items() if r.status is Status.SKIP} == {
        "imports", "cuda", "episodes", "statistics", "weights", "conventions"}


@pytest.mark.parametrize(("environment", "words"), [
    ({"conda": "rdt"}, "there is no conda environment rdt; looked in ~/miniconda3/envs/rdt"),
    ({"venv": "~/no such venv"}, "there is no venv ~/no such venv")])
def test_a_missing_environment_names_the_places_searched(link, spec, environment, words):
    elsewhere = Connection(replace(link.host, environment=Environment(**environment)))
    with elsewhere:
        found = by_name(preflight.core_checks(elsewhere, spec(name="tiny")))["python"]
    assert found.status is Status.FAIL
    assert words in found.evidence


# --- round trips ---

@pytest.fixture
def session(inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("RDTOPS_HOSTS", str(inventory))
    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path))
    opened = Session(lambda _: None, lambda *_: None)
    yield opened
    opened.close()


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every command that is started over the connection from now on."""
    started: list[str] = []
    start = paramiko.Channel.exec_command

    def counted(channel: paramiko.Channel, line: str) -> None:
        started.append(line)
        start(channel, line)

    monkeypatch.setattr(paramiko.Channel, "exec_command", counted)
    return started


def test_a_whole_check_needs_at_most_three_round_trips_after_the_login(session, executions):
    host = session.inventory.host("lab2")
    prepared = session.prepared(host, Wish(preset="tiny"))
    report = session.report(host, prepared, again=True)
    assert {"disk", "gpu", "md5", "encoder_mirror"} <= set(report.plugins)
    assert len(report.results) > 30
    assert 0 < len(executions) <= 3, executions


@pytest.mark.slow
def test_two_hosts_are_checked_side_by_side(lab, plugins, tiny_hosts, tmp_path):
    """On both nvidia-smi hangs for longer than its probes wait, and both wait at once."""
    inv = CommandLine(tmp_path, tiny_hosts)
    begun_s = time.monotonic()
    inv("check --host lab2 --json")
    quick_s = time.monotonic() - begun_s
    for host in ("lab", "lab2"):
        lab.set_gpus(host, Gpus(hang_s=120))
    try:
        begun_s = time.monotonic()
        rows = inv("check --host lab,lab2 --json").rows()
        took_s = time.monotonic() - begun_s
    finally:
        for host in ("lab", "lab2"):
            lab.set_gpus(host, Gpus())
    assert {row["host"] for row in rows} == {"lab", "lab2"}
    waited_s = plugins["gpu"].GPUS.timeout_s
    assert waited_s < took_s < 2 * waited_s + quick_s


def test_a_hanging_probe_costs_its_own_result_and_its_own_time(session, lab, monkeypatch):
    """nvidia-smi sleeps; its probes end in their own time, and everything else is answered."""
    gpu = next(p.module for p in session.registry.loaded if p.name == "gpu")
    for name in ("GPUS", "PROCESSES"):
        monkeypatch.setattr(gpu, name, replace(getattr(gpu, name), timeout_s=1))
    host = session.inventory.host("lab2")
    prepared = session.prepared(host, Wish(preset="tiny"))
    lab.set_gpus("lab2", Gpus(hang_s=60))
    try:
        begun_s = time.monotonic()
        report = session.report(host, prepared, again=True)
        assert time.monotonic() - begun_s < 30
    finally:
        lab.set_gpus("lab2", Gpus())
    found = by_name(list(report.results))
    assert (found["gpu"].status, "no answer within 1 s" in found["gpu"].evidence) == (Status.SKIP, True)
    assert {found[n].status for n in ("clock", "python", "packages", "memory", "disk", "runs")} == {Status.OK}


def test_a_link_that_freezes_within_a_check_is_noticed_before_its_slowest_probe_may_end(lab, inventory, monkeypatch):
    monkeypatch.setattr(stream, "PING_AFTER_S", 1.0)
    monkeypatch.setattr(stream, "PING_S", 5.0)
    with Connection(load(inventory).host("lab2")) as connection:
        connection.open()
        freeze = threading.Timer(1.0, lab.freeze, ["lab2"])
        freeze.start()
        begun_s = time.monotonic()
        try:
            with pytest.raises(ConnectionLost, match="get an answer of lab2"):
                ask(connection, [Probe("slow", "sleep 40", str, timeout_s=90)])
        finally:
            freeze.join()
            lab.thaw("lab2")
        assert time.monotonic() - begun_s < 20


# --- what is deployed, looked into ---

@pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="the host's Python is this one")
def test_demonstrations_and_weights_are_looked_into_on_the_host(link, spec, tiny_hosts, workspace):
    made = tiny_hosts.parent
    there = replace(spec(name="tiny"), release=str(ROOT))  # this tree, as if it were deployed
    shutil.copytree(ROOT / "rdtops/lab/data", there.assets["dataset"])
    shutil.copytree(made / "rdt-tiny", there.assets["pretrained"])
    sealed = ROOT / "snapshot.json"
    assert not sealed.exists()
    sealed.write_text("{}")
    try:
        found = by_name(preflight.core_checks(link, there))
        assert found["imports"].status is Status.OK, found["imports"]
        assert found["weights"].summary == "114 tensors, the names and shapes of tiny"
        assert found["episodes"].status is Status.OK, found["episodes"]
        (file,) = Path(there.assets["dataset"]).glob("*.hdf5")
        file.write_bytes(file.read_bytes()[:-1000])
        weights = Path(there.assets["pretrained"], "pytorch_model.bin")
        weights.write_bytes(weights.read_bytes()[:-100])
        found = by_name(preflight.core_checks(link, there))
    finally:
        sealed.unlink()
    assert (found["episodes"].status, file.name in found["episodes"].summary) == (Status.FAIL, True)
    assert (found["weights"].status, "its end is missing" in found["weights"].summary) == (Status.FAIL, True)
    assert found["dataset"].status is Status.OK  # by its size nothing shows
