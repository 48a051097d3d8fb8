"""Notify of checkpoints and ends of runs: by a webhook (JSON, Slack, Feishu, DingTalk, WeCom), on the desktop."""

from __future__ import annotations

import html
import http.client
import json
import os
import shutil
import stat
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdtops.api import (
    Checkpoint,
    CheckResult,
    Host,
    Option,
    RdtopsError,
    RunEnd,
    RunSpec,
    RunState,
    Secret,
    fields,
    hookimpl,
    printable,
    redacted,
)

API_VERSION = 1
EVENTS = ("checkpoint", "finished", "stopped", "failed")  # a lost run counts as failed
VARIABLE = "RDTOPS_NOTIFY_URL"
OPTIONS = {
    "url_variable": Option(str, "the environment variable of this laptop with the webhook's URL", VARIABLE,
                           pattern="[A-Za-z_][A-Za-z0-9_]*"),
    "url_file": Option(str, "a file of this laptop with the URL instead, readable by you alone (chmod 600)",
                       pattern=r"(?!.*://).+"),
    "format": Option(str, "the message format of the webhook", "json",
                     choices=("json", "slack", "feishu", "dingtalk", "wecom")),
    "desktop": Option(bool, "show it with notify-send as well", False),
    "on": Option(list, "events to send", EVENTS, choices=EVENTS),
    "timeout_s": Option(float, "seconds to wait for the webhook's answer", 10.0, least=0.1),
}
PAUSES_S = (1.0, 4.0)  # before the second and third try, when a retry can help
ANSWER_BYTES = 4096


@hookimpl
def preflight_check(host: Host, options: Mapping[str, Any]) -> CheckResult | None:
    """Check that a notification could be sent; nothing is sent."""
    try:
        url = _url(options)
    except RdtopsError as error:
        return CheckResult.warn("notify", error.message, remedy=error.remedy)
    if options["desktop"] and not shutil.which("notify-send"):
        return CheckResult.warn("notify", "notify-send is not installed on this laptop",
                                remedy=f"sudo apt-get install libnotify-bin, or desktop = false for {host.name}")
    ways = [_place(url)] if url else []
    ways += ["the desktop"] if options["desktop"] else []
    return CheckResult.ok("notify", f"sends {', '.join(options['on'])} to {' and '.join(ways)}") if ways else None


@hookimpl(trylast=True)  # after the plugins that examine the checkpoint
def after_checkpoint(host: Host, run: RunSpec, checkpoint: Checkpoint,
                     options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    loss = "" if checkpoint.heldout_loss is None else f", validation loss {checkpoint.heldout_loss:.6f}"
    return _notify("checkpoint", f"{checkpoint.name} of {run.train.max_steps} steps, "
                 f"{checkpoint.size_bytes / 1e9:.2f} GB{loss}", host, run, options)


@hookimpl(trylast=True)
def after_run(host: Host, run: RunSpec, end: RunEnd, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    event = "failed" if end.state in (RunState.FAILED, RunState.LOST) else end.state.value
    loss = "" if end.loss is None else f", loss {end.loss:.4f}"
    why = f": {end.error}" if end.error else ""
    return _notify(event, f"{end.state.value} at step {end.step} of {end.max_steps}{loss}{why}", host, run, options)


def _notify(event: str, words: str, host: Host, run: RunSpec, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Send a notification; return None when there is none to send. Raises RdtopsError when a configured way failed."""
    url = _url(options)
    if event not in options["on"] or not (url or options["desktop"]):
        return None
    title, text = f"rdtops {host.name}", printable(f"{run.run_id} {words}")  # an error text comes from the host
    sent = []
    if options["desktop"]:  # first: it cannot take long
        sent.append(_show(title, text))
    if url:
        facts = {"event": event, "host": host.name, "run_id": run.run_id, "time_s": round(time.time())}
        send(url, body(options["format"], title, text, facts), options["format"], options["timeout_s"])
        sent.append(_place(url))
    problems = [words for words in sent if words.startswith("the desktop notification failed")]
    if problems:
        raise RdtopsError(problems[0], remedy="notify-send rdtops works   # in a terminal of your desktop")
    return {"told": ", ".join(sent)}


def _show(title: str, text: str) -> str:
    """Show a desktop notification; return `desktop`, or the problem."""
    try:
        done = subprocess.run(["notify-send", "--app-name=rdtops", "--", title,
                               html.escape(text, quote=False)],  # a desktop may read it as HTML
                              check=False, timeout=10, capture_output=True, encoding="utf-8", errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the desktop notification failed: {type(error).__name__} of notify-send"
    return "desktop" if done.returncode == 0 else f"the desktop notification failed: {done.stderr.strip()[-200:]}"


# --- the webhook ---

def body(kind: str, title: str, text: str, facts: Mapping[str, Any]) -> bytes:
    """Return the body for a kind of webhook. A robot that needs a keyword can use `rdtops`. Nothing in the text is a
    mention or a link: Slack reads <!channel>, Feishu and WeCom <at> and <@user>."""
    line = f"{title}: {text}"
    unread = line.replace("<", "\u2039")
    shapes: dict[str, Any] = {"json": {**facts, "text": line}, "slack": {"text": html.escape(line, quote=False)},
                              "feishu": {"msg_type": "text", "content": {"text": unread}},
                              "dingtalk": {"msgtype": "text", "text": {"content": line}},
                              "wecom": {"msgtype": "text", "text": {"content": unread}}}
    return json.dumps(shapes[kind], ensure_ascii=False).encode()


def send(url: Secret, content: bytes, kind: str, timeout_s: float) -> None:
    """POST the body; retry after a pause when the server may be busy. Raises RdtopsError, which names the server but
    not the URL."""
    for pause_s in (*PAUSES_S, None):
        problem, passing = _post(url, content, kind, timeout_s)
        if not problem:
            return
        if not passing or pause_s is None:
            raise RdtopsError(f"the webhook at {_place(url)} failed: {problem}",
                              remedy="check the URL, the format and the timeout_s of notify in hosts.toml")
        time.sleep(pause_s)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A handler without redirects: one would get the secret, or its answer would count as success."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: Secret, content: bytes, kind: str, timeout_s: float) -> tuple[str, bool]:
    """POST once; return the problem or '', and whether a retry can help."""
    request = urllib.request.Request(  # noqa: S310  # _url has checked its scheme
        url.reveal(), content, {"Content-Type": "application/json; charset=utf-8", "User-Agent": "rdtops"})
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as answer:
            return _refusal(answer.read(ANSWER_BYTES), kind, url), False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code == 429 or error.code >= 500
    except (OSError, http.client.HTTPException) as error:  # a URLError is an OSError. Its message may hold the URL
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"no answer within {timeout_s:g} s", True
        words = getattr(reason, "strerror", None) or type(reason).__name__
        return str(words), isinstance(reason, OSError)


def _refusal(answer: bytes, kind: str, url: Secret) -> str:
    """Return the error in an answer: Feishu, DingTalk and WeCom reject with status 200 and a code other than 0."""
    try:
        reply = fields.table(fields.loads(answer)) if kind in ("feishu", "dingtalk", "wecom") else {}
    except ValueError:
        return ""
    code = next((reply[k] for k in ("code", "errcode", "StatusCode") if reply.get(k)), 0)
    said = str(reply.get("msg") or reply.get("errmsg") or "")[:200] if code else ""
    return f"it answered code {code} {redacted(said, _secrets(url))}".strip() if code else ""


def _secrets(url: Secret) -> list[str]:
    """Return the secret parts of the URL: a server may repeat its request."""
    parts = urllib.parse.urlsplit(url.reveal())
    found = [url.reveal(), parts.path, *parts.path.split("/"), parts.query,
             *(value for _, value in urllib.parse.parse_qsl(parts.query))]
    return [part for part in found if len(part) > 5]  # shorter ones are words like `send`


# --- the URL, which is a secret: with it anyone can post to your group ---

def _url(options: Mapping[str, Any]) -> Secret | None:
    """Return the URL, None when none is configured. Raises RdtopsError, without the URL, for an unusable one."""
    file, variable = options["url_file"], options["url_variable"]
    if file:
        text = _read(Path(file).expanduser())
    else:
        text = os.environ.get(variable, "").strip()
        if not text and variable != VARIABLE:
            raise RdtopsError(f"the environment variable {variable} is not set",
                              remedy=f"export {variable}=https://...")
    if not text:
        return None
    try:
        parts = urllib.parse.urlsplit(text)
        usable = text.isprintable() and " " not in text and parts.hostname and parts.port != 0  # port may raise
    except ValueError:
        usable = None
    local = usable and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not usable or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise RdtopsError(f"the URL in {file or variable} must be https", remedy="https://... in one line")
    return Secret(text)


def _read(file: Path) -> str:
    try:
        mode = file.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise RdtopsError(f"{file} holds a secret, but others can read it", remedy=f"chmod 600 {file}")
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise RdtopsError(f"the URL of the webhook cannot be read from {file}: {why}",
                          remedy=f"ls -l {file}") from None
    if not text:
        raise RdtopsError(f"{file} is empty", remedy=f"write the URL of the webhook into {file}")
    return text


def _place(url: Secret) -> str:
    """Return the part of the URL that is not secret."""
    return urllib.parse.urlsplit(url.reveal()).hostname or "?"
