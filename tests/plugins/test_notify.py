"""notify against a real HTTP server on loopback: what arrives, what is said when nothing does, never the address."""

import json
import os
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rdtops.checks import Status
from rdtops.contract.run import Checkpoint, RunEnd, RunState
from rdtops.errors import RdtopsError
from rdtops.launcher import Traits
from rdtops.plugging.registry import Registry
from rdtops.testing import load, make_host, make_spec

PLUGIN = load("notify")
SECRET = "T0KEN9f3a7"
CHECKPOINT = Checkpoint(2000, "step_002000", "/w/step_002000", 19_650_000_000, "d", 0.0123456)
END = RunEnd(RunState.FAILED, 1234, 30_000, 0.5, 1, "CUDA out of memory", 1.7e9)


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self):
        hook = self.server
        hook.received.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        code, answer, wait_s = hook.answers.pop(0) if hook.answers else (200, b"ok", 0)
        hook.released.wait(wait_s)
        self.send_response(code)
        if code == 302:
            self.send_header("Location", f"http://127.0.0.1:{hook.server_port}/elsewhere")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def webhook():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    server.received, server.answers, server.released = [], [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(webhook, monkeypatch):
    address = f"http://127.0.0.1:{webhook.server_port}/hook/{SECRET}?key={SECRET}"
    monkeypatch.setenv("RDTOPS_NOTIFY_URL", address)
    monkeypatch.setattr(PLUGIN.module, "PAUSES_S", (0.05, 0.05))
    return address


def called(hook, **options):
    told = {"after_checkpoint": {"checkpoint": CHECKPOINT}, "after_run": {"end": END}}[hook]
    host = make_host(plugins={"notify": options})
    (call,) = Registry([PLUGIN]).call(hook, host=host, connection=None, run=make_spec(), **told)
    return call


def checked(**options):
    _, look = Registry([PLUGIN]).preflight_works(host=make_host(plugins={"notify": options}), connection=None,
                                                 spec=make_spec(), local_assets={}, traits=Traits())
    found = look()
    return found[0] if found else None


def shows_secret(*things):
    """In any text that could reach a log: messages, remedies, reprs, and the traceback with its causes."""
    texts = [repr(t) + str(t) + getattr(t, "remedy", "") for t in things]
    texts += ["".join(traceback.format_exception(t)) for t in things if isinstance(t, BaseException)]
    return SECRET in "".join(texts)


def test_without_an_address_nothing_is_done_and_nothing_said(monkeypatch):
    monkeypatch.delenv("RDTOPS_NOTIFY_URL", raising=False)
    assert (called("after_checkpoint").value, called("after_run").value, checked()) == (None, None, None)


def test_a_checkpoint_and_an_end_are_told_with_what_one_wants_to_know(webhook, url):
    assert called("after_checkpoint").value == {"told": "127.0.0.1"}
    assert called("after_run").value == {"told": "127.0.0.1"}
    (path, first), (_, second) = webhook.received
    assert path == f"/hook/{SECRET}?key={SECRET}"
    assert (first["event"], first["host"], first["run_id"]) == ("checkpoint", "h", make_spec().run_id)
    assert first["text"] == (f"rdtops h: {make_spec().run_id} step_002000 of 30000 steps, 19.65 GB, "
                             "validation loss 0.012346")
    assert second["event"] == "failed"
    assert second["text"].endswith("failed at step 1234 of 30000, loss 0.5000: CUDA out of memory")


@pytest.mark.parametrize(("kind", "where"), [
    ("slack", ("text",)), ("feishu", ("content", "text")), ("dingtalk", ("text", "content")),
    ("wecom", ("text", "content"))])
def test_each_kind_of_webhook_gets_its_own_shape(webhook, url, kind, where):
    called("after_run", format=kind)
    value = webhook.received[0][1]
    for key in where:
        value = value[key]
    assert value.startswith("rdtops h: ")


def hostile_end():
    said = '<!channel> <at user_id="all">x</at> <@all> & \x1b]52;c;eA==\x07\0\ud800'
    return RunEnd(RunState.FAILED, 1234, 30_000, 0.5, 1, said, 1.7e9)


@pytest.mark.parametrize(("kind", "read"), [
    ("json", '<!channel> <at user_id="all">x</at> <@all> & '), ("dingtalk", "<!channel> <at user_id="),
    ("slack", '&lt;!channel&gt; &lt;at user_id="all"&gt;x&lt;/at&gt; &lt;@all&gt; &amp; '),
    ("feishu", '‹!channel> ‹at user_id="all">x‹/at> ‹@all> & '), ("wecom", "‹!channel> ")])
def test_an_error_of_a_host_mentions_nobody(webhook, url, monkeypatch, kind, read):
    monkeypatch.setattr(f"{__name__}.END", hostile_end())
    assert called("after_run", format=kind).error is None
    text = json.dumps(webhook.received[0][1], ensure_ascii=False)
    assert json.dumps(read, ensure_ascii=False)[1:-1] in text
    assert "\\\\x1b]52;c;eA==\\\\x07\\\\x00\\\\ud800" in text


def test_an_error_of_a_host_is_text_on_the_desktop(desktop, monkeypatch):
    monkeypatch.setattr(f"{__name__}.END", hostile_end())
    assert called("after_run", desktop=True).error is None
    assert "&lt;!channel&gt;" in desktop.read_text()
    assert "\x1b" not in desktop.read_text()


def test_only_what_is_wanted_is_told(webhook, url):
    assert called("after_checkpoint", on=["failed"]).value is None
    called("after_run", on=["failed"])
    assert len(webhook.received) == 1


@pytest.mark.parametrize(("answers", "tries", "words"), [
    ([(500, b"", 0)] * 3, 3, "it answered 500"),
    ([(500, b"", 0), (200, b"", 0)], 2, ""),
    ([(429, b"", 0), (200, b"", 0)], 2, ""),
    ([(404, SECRET.encode(), 0)], 1, "it answered 404"),
    ([(302, b"", 0)], 1, "it answered 302"),
    ([(200, b"", 3)] * 3, 3, "no answer within 0.2 s"),
])
def test_a_server_in_trouble_is_asked_again_and_then_named(webhook, url, answers, tries, words):
    webhook.answers += answers
    call = called("after_checkpoint", timeout_s=0.2)
    assert len(webhook.received) == tries
    assert all(path.startswith("/hook/") for path, _ in webhook.received)  # no redirect was followed
    if words:
        assert isinstance(call.error, RdtopsError)
        assert str(call.error) == f"the webhook at 127.0.0.1 failed: {words}"
        assert not shows_secret(call.error)
    else:
        assert call.error is None


@pytest.mark.parametrize("answer", [
    {"code": 19001, "msg": f"param invalid: token {SECRET} of /hook/{SECRET}?key={SECRET}"},
    {"errcode": 310000, "errmsg": f"keywords not in content, access_token={SECRET}"}])
def test_a_refusal_that_looks_like_success_is_seen_and_does_not_repeat_the_secret(webhook, url, answer):
    webhook.answers.append((200, json.dumps(answer).encode(), 0))
    call = called("after_checkpoint", format="feishu")
    assert str(answer.get("code") or answer.get("errcode")) in str(call.error)
    assert "***" in str(call.error)
    assert not shows_secret(call.error)


def test_a_server_that_is_down_is_named_without_the_address(webhook, url):
    webhook.shutdown()
    webhook.server_close()
    start = time.monotonic()
    call = called("after_checkpoint")
    assert time.monotonic() - start < 5
    assert "Connection refused" in str(call.error)
    assert not shows_secret(call.error)


def test_the_address_can_lie_in_a_file_that_is_mine_alone(webhook, url, tmp_path, monkeypatch):
    monkeypatch.delenv("RDTOPS_NOTIFY_URL")
    file = tmp_path / "webhook"
    file.write_text(url + "\n")
    file.chmod(0o644)
    found = checked(url_file=str(file))
    assert (found.status, found.remedy) == (Status.WARN, f"chmod 600 {file}")
    assert isinstance(called("after_run", url_file=str(file)).error, RdtopsError)
    file.chmod(0o600)
    found = checked(url_file=str(file))
    assert found.summary == "sends checkpoint, finished, stopped, failed to 127.0.0.1"
    called("after_run", url_file=str(file))
    assert len(webhook.received) == 1
    assert not shows_secret(found)


@pytest.mark.parametrize("address", [
    f"http://hooks.example.org/{SECRET}", f"ftp://127.0.0.1/{SECRET}", f"hooks.example.org/{SECRET}",
    f"https://hooks.example.org:{SECRET}/", f"https://[{SECRET}/", f"https:///{SECRET}",
    f"https://hooks.example.org/{SECRET}\nhttps://x", f"https://hooks.example.org/a {SECRET}"])
def test_an_address_that_is_not_https_is_refused_unseen(monkeypatch, address):
    monkeypatch.setenv("RDTOPS_NOTIFY_URL", address)
    found, call = checked(), called("after_run")
    assert (found.status, found.summary) == (Status.WARN, "the URL in RDTOPS_NOTIFY_URL must be https")
    assert isinstance(call.error, RdtopsError)
    assert not shows_secret(found, call.error)


def test_a_variable_that_is_named_and_not_set_is_said():
    assert checked(url_variable="MY_HOOK").remedy == "export MY_HOOK=https://..."


@pytest.fixture
def desktop(tmp_path, monkeypatch):
    """A notify-send that writes down what it is given, as the real one has it from us."""
    log = tmp_path / "shown"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {log}\nexit $(cat {tmp_path}/code 2>/dev/null || echo 0)\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("RDTOPS_NOTIFY_URL", raising=False)
    return log


def test_the_desktop_shows_it_and_a_run_id_is_never_an_option(desktop):
    assert called("after_run", desktop=True).value == {"told": "desktop"}
    words = desktop.read_text().splitlines()
    assert words[1:3] == ["--", "rdtops h"]
    assert "failed at step 1234" in words[3]


def test_a_desktop_that_fails_is_said_and_the_webhook_is_told_all_the_same(desktop, webhook, url, tmp_path):
    (tmp_path / "code").write_text("1")
    call = called("after_run", desktop=True)
    assert "the desktop notification failed" in str(call.error)
    assert len(webhook.received) == 1


def test_a_laptop_without_notify_send_is_a_warning(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert checked(desktop=True).summary == "notify-send is not installed on this laptop"
    assert "FileNotFoundError" in str(called("after_run", desktop=True).error)


def test_the_secret_is_in_no_file_of_ours(webhook, url, tmp_path, monkeypatch):
    """What watch records of a failure is the error's text, which goes to disk."""
    from rdtops.runs.records import HookRecord, RunRecords

    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path))
    webhook.answers += [(500, SECRET.encode(), 0)] * 3
    call = called("after_checkpoint")
    RunRecords("h", "r").add(HookRecord("after_checkpoint", "notify", "s", "d", 0.1, error=str(call.error)))
    assert all(SECRET not in file.read_text() for file in Path(tmp_path).rglob("*") if file.is_file())
