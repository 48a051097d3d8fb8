import base64
import contextlib
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from rdtops.checks import Status
from rdtops.errors import PreflightVeto
from rdtops.on_host import prober
from rdtops.ssh import bundle
from tests.command_lines import watched_command_lines
from tests.model_hub import BEGUN_BYTES, download, model_hub
from tests.plugins.conftest import BROKEN, ScriptedConnection, as_json, said
from tests.told import options

T5 = "config.json\nmodel.safetensors\nspiece.model\n"
SIGLIP = "config.json\nmodel.safetensors\n"
SO400M = {"vision_config": {"hidden_size": 1152, "image_size": 384, "patch_size": 14}}


def listing(files, config, shards=""):
    return said(f"{files}---\n{shards}---\n{config}")


def served(*sizes, problem=""):
    return said(as_json({str(n): {"bytes": size, "seconds": 0.2, "problem": problem} for n, size in enumerate(sizes)}))


def copy_in(folder, names):
    """Make a copy on this laptop with these files, none of them empty."""
    folder.mkdir()
    for name in names.split():
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def check(plugins, host, spec, tmp_path):
    def run(*, text=None, vision=None, local=(), fetched=None, **values):
        h = host(**values)
        connection = ScriptedConnection(
            h, text_encoder=text or listing(T5, as_json({"d_model": 4096})),
            vision_encoder=vision or listing(SIGLIP, as_json(SO400M)), endpoint=fetched or served(65536, 65536))
        here = {role: copy_in(tmp_path / role, T5) for role in local}
        return {r.name: r for r in plugins["encoder_mirror"].preflight_check(
            h, connection, spec(), here, options("encoder_mirror", h))}
    return run


def test_complete_encoders_of_the_right_width_are_ok(check):
    found = check()
    assert {found[role].status for role in ("text_encoder", "vision_encoder")} == {Status.OK}
    assert found["hf endpoint"].status is Status.SKIP


def test_another_encoder_is_told_by_its_width(check):
    found = check(text=listing(T5, as_json({"d_model": 1024})))["text_encoder"]
    assert found.status is Status.FAIL
    assert "d_model is 1024, rdt-1b needs 4096" in found.summary


def test_another_image_size_is_told_by_its_patches(check):
    other = {"vision_config": {"hidden_size": 1152, "image_size": 224, "patch_size": 14}}
    found = check(vision=listing(SIGLIP, as_json(other)))["vision_encoder"]
    assert found.status is Status.FAIL
    assert "patches is 256, rdt-1b needs 729" in found.summary


@pytest.mark.parametrize("config", [{}, {"vision_config": 3}, {"vision_config": {"hidden_size": "x", "patch_size": 0}}])
def test_a_config_that_does_not_say_its_size_is_a_warning(check, config):
    found = check(vision=listing(SIGLIP, as_json(config)))["vision_encoder"]
    assert found.status is Status.WARN
    assert "has no hidden_size" in found.summary


@pytest.mark.parametrize("config", ["{", "[]", "null", "\ufffd"])
def test_an_unreadable_config_fails(check, config):
    assert check(text=listing(T5, config))["text_encoder"].status is Status.FAIL


def test_a_missing_part_of_the_weights_is_named(check):
    there = "config.json\nspiece.model\nmodel.safetensors.index.json\nmodel-00001-of-00002.safetensors\n"
    parts = '"model-00001-of-00002.safetensors"\n"model-00002-of-00002.safetensors"\n'
    found = check(text=listing(there, as_json({"d_model": 4096}), parts))["text_encoder"]
    assert found.status is Status.FAIL
    assert found.summary.startswith("model-00002-of-00002.safetensors missing on the host")
    whole = check(text=listing(there + "model-00002-of-00002.safetensors\n", as_json({"d_model": 4096}), parts))
    assert whole["text_encoder"].status is Status.OK


def test_the_probe_sees_files_links_and_parts_and_no_empty_weights(plugins, tmp_path):
    folder = tmp_path / "an encoder"
    folder.mkdir()
    (tmp_path / "blob").write_text("{}")
    (folder / "config.json").symlink_to("../blob")  # as the Hugging Face cache does
    (folder / "pytorch_model.bin").touch()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    (folder / "model.safetensors.index.json").write_text(
        as_json({"weight_map": {"a.bin.weight": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (folder / "spiece.model").write_text("x")
    (folder / "spiece.model.aria2").write_text("x")  # it is still coming
    seen = look(plugins["encoder_mirror"], folder)
    assert seen.files == {"config.json", "model.safetensors.index.json", "spiece.model.aria2"}
    assert seen.instead == ("model.safetensors is a Git LFS pointer of a 9 bytes file",)
    assert seen.shards == {"model-1.safetensors", "model-2.safetensors"}
    assert seen.config == {}
    nothing = look(plugins["encoder_mirror"], tmp_path / "nowhere")
    assert (nothing.files, nothing.shards, nothing.config) == (frozenset(), frozenset(), None)


def test_what_lies_in_place_of_a_file_is_named_in_check_and_for_the_copy_here(check, plugins, tmp_path):
    there = "config.json\nspiece.model\n/pointer 9999999999 model.safetensors\n"
    found = check(text=listing(there, as_json({"d_model": 4096})))["text_encoder"]
    assert found.summary.startswith(
        "weights missing on the host (model.safetensors is a Git LFS pointer of a 10.0 GB file)")
    here = copy_in(tmp_path / "clone", "config.json spiece.model model.safetensors")
    (here / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 44541601\n")
    (here / "spiece.model").write_text("<!DOCTYPE html>\n<html>")
    seen = plugins["encoder_mirror"].encoder_here("text_encoder", here)
    assert seen.instead == ("model.safetensors is a Git LFS pointer of a 44.5 MB file", "spiece.model is a web page")


@pytest.mark.parametrize(("role", "kind"), [
    ("text", "umt5"), ("text", "clip"), ("vision", "siglip2"), ("vision", "t5")])
def test_the_config_of_another_model_is_told(check, role, kind):
    config = {"text": {"d_model": 4096}, "vision": SO400M}[role]
    files = {"text": T5, "vision": SIGLIP}[role]
    found = check(**{role: listing(files, as_json({**config, "model_type": kind}))})[f"{role}_encoder"]
    assert (found.status, f"its config.json is of '{kind}', not of" in found.summary) == (Status.FAIL, True)


PARTS = ("config.json spiece.model model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
         "pytorch_model.bin.index.json")
INDEX = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'


def test_the_index_of_weights_that_were_not_downloaded_is_of_no_account(plugins, tmp_path):
    """`hf download --exclude '*.bin'` leaves it behind; transformers reads the safetensors."""
    folder = copy_in(tmp_path / "parts", PARTS)
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}')
    (folder / "model.safetensors.index.json").write_text(INDEX)
    mirror = plugins["encoder_mirror"]
    assert mirror.missing("text_encoder", mirror.encoder_here("text_encoder", folder)) == []
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert mirror.missing("text_encoder", mirror.encoder_here("text_encoder", folder)) == [
        "model-00002-of-00002.safetensors"]


def test_a_half_copy_on_the_laptop_fails_in_check_and_is_not_sent(plugins, host, spec, tmp_path, monkeypatch):
    """As it fails on the host: the same probe looks into both."""
    monkeypatch.setattr(plugins["encoder_mirror"], "upload", pytest.fail)
    files = {"config.json": b"{}", "spiece.model": b"x", "model.safetensors": b"w" * (BEGUN_BYTES + 1)}
    with model_hub({"google/t5-v1_1-xxl": files}, endless="model.safetensors") as endpoint:
        download(endpoint, cache_dir=tmp_path / "cache", killed=True)
    (here,) = (tmp_path / "cache").glob("models--*/snapshots/*")
    h = host()
    connection = ScriptedConnection(h, text_encoder=listing("", ""), vision_encoder=listing(SIGLIP, as_json(SO400M)))
    given = (h, connection, spec(), {"text_encoder": here}, options("encoder_mirror", h))
    found = {r.name: r for r in plugins["encoder_mirror"].preflight_check(*given)}["text_encoder"]
    assert found.status is Status.FAIL
    assert found.summary.endswith(f"and the copy on this laptop is unfit: weights missing ({here})")
    assert found.remedy.startswith("hf download google/t5-v1_1-xxl   # here; or name another copy")
    with pytest.raises(PreflightVeto, match="the copy on this laptop is unfit: weights missing"):
        plugins["encoder_mirror"].before_train(*given)


def test_a_copy_of_another_encoder_on_the_laptop_fails_before_it_is_sent(plugins, host, spec, tmp_path):
    here = copy_in(tmp_path / "t5-base", T5)
    (here / "config.json").write_text('{"d_model": 768}')
    h = host()
    connection = ScriptedConnection(h, text_encoder=listing("", ""), vision_encoder=listing(SIGLIP, as_json(SO400M)))
    given = (h, connection, spec(), {"text_encoder": here}, options("encoder_mirror", h))
    found = {r.name: r for r in plugins["encoder_mirror"].preflight_check(*given)}["text_encoder"]
    assert found.status is Status.FAIL
    assert "the copy on this laptop is unfit: d_model is 768, rdt-1b needs 4096: another encoder" in found.summary


def look(module, folder):
    probe = module.probe("text_encoder", str(folder))
    done = subprocess.run(["sh", "-c", probe.shell], capture_output=True, text=True, check=False)
    return probe.parse(said(done.stdout, done.returncode, done.stderr))


@pytest.mark.parametrize(("files", "lacks"), [
    ("", "config.json, weights, tokenizer"), ("config.json\nspiece.model\n", "weights"),
    ("config.json\npytorch_model.bin\n", "tokenizer")])
def test_what_is_missing_is_named(check, files, lacks):
    found = check(text=listing(files, ""))["text_encoder"]
    assert found.status is Status.FAIL
    assert found.summary.startswith(f"{lacks} missing on the host")


@pytest.mark.parametrize(("values", "way"), [
    ({"local": ["text_encoder"]}, "/text_encoder"),
    ({"env": {"HF_ENDPOINT": "https://mirror.example.org"}}, "downloaded on the host from https://mirror.example.org"),
    ({"plugins": {"encoder_mirror": {"endpoint": "https://m.example.org"}}},
     "downloaded on the host from https://m.example.org"),
])
def test_what_before_train_can_bring_is_a_warning_that_says_how(check, values, way):
    found = check(text=listing("", ""), **values)["text_encoder"]
    assert found.status is Status.WARN
    assert way in found.summary


def test_the_asset_s_name_decides_what_is_downloaded_whatever_its_folder(plugins, host, spec):
    h = host(env={"HF_ENDPOINT": "https://mirror.example.org"})
    elsewhere = replace(spec(), assets={**spec().assets, "text_encoder": "/data/models/t5"})
    connection = ScriptedConnection(h, text_encoder=listing("", ""), vision_encoder=listing("", ""))
    found = plugins["encoder_mirror"].preflight_check(h, connection, elsewhere, {}, options("encoder_mirror", h))
    assert [r.status for r in found][:2] == [Status.WARN, Status.WARN]


def test_a_folder_that_hosts_toml_names_is_left_alone(check, plugins, host, spec):
    pinned = {"t5-v1_1-xxl": "/shared/t5"}
    found = check(text=listing("", ""), local=["text_encoder"], assets=pinned)["text_encoder"]
    assert found.status is Status.FAIL
    assert "[hosts.h.assets] has a folder for t5-v1_1-xxl" in found.summary
    h = host(assets=pinned)
    connection = ScriptedConnection(h, text_encoder=listing("", ""), vision_encoder=listing("", ""))
    with pytest.raises(PreflightVeto, match="is not changed"):
        plugins["encoder_mirror"].before_train(
            h, connection, spec(), {"text_encoder": Path("/here/t5")}, options("encoder_mirror", h))


def test_a_token_goes_by_stdin_and_not_on_the_command_line(plugins, host, monkeypatch):
    seen = {}
    monkeypatch.setattr(plugins["encoder_mirror"], "_run_pulsing",
                        lambda _, line, stdin: seen.update(line=line, stdin=stdin) or "")
    h = host(env={"HF_TOKEN": "hf_secret"}, plugins={"encoder_mirror": {"endpoint": "https://m.example.org"}})
    mirror = plugins["encoder_mirror"].mirror_of(h, options("encoder_mirror", h))
    plugins["encoder_mirror"]._download(h, mirror, None, "google/t5-v1_1-xxl", "/w/a folder")
    assert "hf_secret" not in seen["line"]
    assert json.loads(seen["stdin"]) == {"HF_TOKEN": "hf_secret", "HF_ENDPOINT": "https://m.example.org",
                                         "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                                         "HF_HUB_DISABLE_XET": "1"}
    assert seen["line"].startswith("python3 -c ")  # without an environment there may be no `python`
    assert seen["line"].endswith("google/t5-v1_1-xxl '/w/a folder'")


def test_a_repository_of_the_hub_s_cache_on_the_host_is_told_to_be_no_snapshot(check):
    hub = "/data/hub/models--google--t5-v1_1-xxl"
    found = check(text=listing("", ""), assets={"t5-v1_1-xxl": hub})["text_encoder"]
    assert found.status is Status.FAIL
    assert found.remedy.startswith(f"edit hosts.toml: a snapshot, {hub}/snapshots/REVISION, of t5-v1_1-xxl under ")


def test_download_false_keeps_the_host_off_the_net(check):
    found = check(text=listing("", ""), env={"HF_ENDPOINT": "https://m.example.org"},
                  plugins={"encoder_mirror": {"download": False}})
    assert found["text_encoder"].status is Status.FAIL


def test_a_launch_without_encoders_and_without_a_way_is_vetoed(plugins, host, spec):
    h = host()
    connection = ScriptedConnection(h, text_encoder=listing("", ""), vision_encoder=listing("", ""))
    with pytest.raises(PreflightVeto, match="neither a local copy nor a mirror"):
        plugins["encoder_mirror"].before_train(h, connection, spec(), {}, options("encoder_mirror", h))


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_never_a_traceback(check, kind):
    found = check(text=BROKEN[kind], vision=BROKEN[kind])
    assert {found[role].status for role in ("text_encoder", "vision_encoder")} <= {Status.WARN, Status.FAIL}


MIRROR = {"HF_ENDPOINT": "https://user:word@mirror.example.org/"}


def test_an_endpoint_counts_by_the_bytes_it_serves(check):
    found = check(env=MIRROR)["hf endpoint"]
    assert (found.status, "65536 bytes of weights" in found.summary) == (Status.OK, True)
    assert "word" not in found.summary


@pytest.mark.parametrize(("fetched", "evidence"), [
    (served(900, 0), "pytorch_model.bin: no byte"), (served(900, 900, problem="a web page"), "config.json: a web page"),
    (said("", 1, "no python3"), "no python3"), (said("", None), "no answer within 25 s"), (said("[]"), "")])
def test_an_endpoint_that_serves_no_weights_fails_only_where_they_are_needed(check, fetched, evidence):
    unneeded = check(env=MIRROR, fetched=fetched)["hf endpoint"]
    needed = check(env=MIRROR, fetched=fetched, text=listing("", ""))["hf endpoint"]
    assert (unneeded.status, needed.status) == (Status.WARN, Status.FAIL)
    assert evidence in needed.evidence


class Mirror(BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.headers["Range"] == "bytes=0-65535"
        if self.path.endswith("config.json"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")
        else:  # large files lie elsewhere
            self.send_response(302 if "elsewhere" not in self.path else 404)
            self.send_header("Location", "/elsewhere/" + self.path.rpartition("/")[2])
            self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler, certificate=None):
    """Serve on a port of the loopback; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetched(module, h, spec):
    """Run the probe of the endpoint; return what came of a small and of a large file."""
    (probe,) = module.endpoint_probes(h, module.mirror_of(h, options("encoder_mirror", h)), spec())
    ours = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # its python3 has huggingface_hub
    done = subprocess.run(["sh", "-c", probe.shell], capture_output=True, check=True, input=probe.stdin,
                          env={**os.environ, "PATH": ours})
    return probe.parse(said(done.stdout.decode()))


def test_redirects_to_a_store_that_is_blocked_are_followed_and_told(plugins, host, spec):
    with serving(Mirror) as address:
        config, weights = fetched(plugins["encoder_mirror"], host(env={"HF_ENDPOINT": address}), spec)
    assert (config.size_bytes, config.problem) == (2, "")
    assert "404" in weights.problem


# --- a hub that is reached only through a proxy, or with the certificates of a site ---

class Proxy(Mirror):
    """Carries requests for the names of `hubs` to their ports, as the proxy of a site that knows them."""

    hubs: ClassVar[dict[str, int]] = {}

    def do_GET(self):
        url = urlsplit(self.path)
        with urlopen(f"http://127.0.0.1:{self.hubs[url.netloc]}{url.path}") as answer:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.read())

    def do_CONNECT(self):
        with socket.create_connection(("127.0.0.1", self.hubs[self.path.partition(":")[0]])) as hub:
            self.send_response(200)
            self.end_headers()
            while ready := select.select([hub, self.connection], [], [], 10)[0]:
                for side in ready:
                    if not (piece := side.recv(1 << 16)):
                        self.close_connection = True
                        return
                    (hub if side is self.connection else self.connection).sendall(piece)


class Hub(Mirror):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.mark.parametrize(("proxies", "reached"), [
    (("http_proxy",), True), (("ALL_PROXY",), True), (("http_proxy", "no_proxy"), False)])
def test_the_check_goes_through_the_proxies_that_a_download_would(plugins, host, spec, proxies, reached):
    with serving(Hub) as hub, serving(Proxy) as proxy:
        Proxy.hubs["hub.invalid"] = int(hub.rpartition(":")[2])
        env = {"HF_ENDPOINT": "http://hub.invalid", **dict.fromkeys(proxies, proxy)}
        env.update({"no_proxy": "hub.invalid"} if "no_proxy" in proxies else {})
        found = fetched(plugins["encoder_mirror"], host(env=env), spec)
    assert [one.size_bytes > 0 for one in found] == [reached, reached], found


@pytest.mark.parametrize(("variable", "reached"), [("SSL_CERT_FILE", True), ("", False)])
def test_the_check_trusts_the_certificates_that_a_download_would(plugins, host, spec, tmp_path, variable, reached):
    """Over a tunnel of the proxy, as a site has it that looks into the traffic."""
    certificate = tmp_path / "site.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "1", "-subj", "/CN=hub.invalid", "-addext", "subjectAltName=DNS:hub.invalid",
                    "-keyout", certificate, "-out", tmp_path / "only.pem"], check=True, capture_output=True)
    certificate.write_text(certificate.read_text() + (tmp_path / "only.pem").read_text())
    with serving(Hub, certificate) as hub, serving(Proxy) as proxy:
        Proxy.hubs["hub.invalid"] = int(hub.rpartition(":")[2])
        env = {"HF_ENDPOINT": "https://hub.invalid", "https_proxy": proxy}
        env.update({variable: str(tmp_path / "only.pem")} if variable else {})
        found = fetched(plugins["encoder_mirror"], host(env=env), spec)
    assert [one.size_bytes > 0 for one in found] == [reached, reached], found
    assert reached or "certificate" in found[0].problem.lower()


def test_a_host_without_huggingface_hub_is_told_so_and_the_hub_is_not_blamed(check):
    lacks = said("", 1, "ModuleNotFoundError: No module named 'huggingface_hub'\n")
    found = check(env=MIRROR, fetched=lacks)["hf endpoint"]
    assert found.status is Status.WARN
    assert found.summary == "h has no huggingface_hub to ask https://***@mirror.example.org/ with"
    assert "No module named" in found.evidence


# --- a mirror with a password ---

PASSWORD = "s3cret-word"


class Store(Mirror):
    """Has the large files of a mirror, whose password it must not see."""

    seen: ClassVar[list[str]] = []

    def do_GET(self):
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"weights")


class Guarded(Mirror):
    """Wants a password, and sends those who have it to its store."""

    store = ""

    def do_GET(self):
        time.sleep(0.2)  # so long a command line can be looked at
        right = self.headers.get("Authorization") == "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
        self.send_response(302 if right else 401)
        self.send_header("Location", self.store + self.path)
        self.end_headers()

    def log_message(self, *_):
        pass


class RealProber(ScriptedConnection):
    """Probes are run by the prober that a host runs, here."""

    def call(self, program, request, *, timeout_s=60.0):
        asked = {name: p for name, p in request["probes"].items() if name == "endpoint"}
        done = subprocess.run([sys.executable, *bundle.FLAGS, "-c", bundle.READER], check=True, capture_output=True,
                              input=bundle.packed_request(prober, {"probes": asked}))
        others = {"probes": {name: p for name, p in request["probes"].items() if name not in asked}}
        return {**super().call(program, others), **json.loads(done.stdout)}


@pytest.mark.parametrize(("password", "status"), [(PASSWORD, Status.OK), (f"{PASSWORD}-wrong", Status.FAIL)])
def test_the_password_of_a_mirror_is_in_no_command_line_and_in_no_finding(plugins, host, spec, password, status):
    seen, Store.seen[:] = set(), []
    with serving(Store) as Guarded.store, serving(Guarded) as address:
        h = host(env={"HF_ENDPOINT": address.replace("//", f"//ann:{password}@"), "no_proxy": "*"},
                 python=sys.executable)
        connection = RealProber(h, text_encoder=listing("", ""), vision_encoder=listing(SIGLIP, as_json(SO400M)))
        with watched_command_lines(seen):
            found = plugins["encoder_mirror"].preflight_check(h, connection, spec(), {}, options("encoder_mirror", h))
    assert any("snapshot" not in line and "get_session" in line for line in seen)  # there was something to see
    assert not [line for line in seen if PASSWORD in line]
    assert PASSWORD not in repr(found)
    endpoint = {r.name: r for r in found}["hf endpoint"]
    assert (endpoint.status, "http://***@127.0.0.1" in endpoint.summary) == (status, True)
    assert set(Store.seen) == ({""} if status is Status.OK else set())


def test_a_download_that_fails_does_not_repeat_the_password(plugins, host, spec, monkeypatch):
    h = host(env={"HF_ENDPOINT": f"http://ann:{PASSWORD}@m.example.org"})
    monkeypatch.setattr(plugins["encoder_mirror"], "_run_pulsing",
                        lambda *_: f"401 for http://ann:{PASSWORD}@m.example.org/x ({PASSWORD})")
    mirror = plugins["encoder_mirror"].mirror_of(h, options("encoder_mirror", h))
    with pytest.raises(PreflightVeto, match=r"from http://\*\*\*@m\.example\.org") as vetoed:
        plugins["encoder_mirror"]._download(h, mirror, None, "google/t5-v1_1-xxl", "/w")
    assert PASSWORD not in vetoed.value.message
