"""Tells you of checkpoints and ends of runs: by a webhook (JSON, Slack, Feishu, DingTalk, WeCom), on the desktop."""

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
EVENTS = ("checkpoint", "finished", "stopped", "failed")  # a run that was lost has failed
VARIABLE = "RDTOPS_NOTIFY_URL"
OPTIONS = {
    "url_variable": Option(str, "the environment variable of this laptop that holds the webhook's address", VARIABLE,
                           pattern="[A-Za-z_][A-Za-z0-9_]*"),
    "url_file": Option(str, "a file of this laptop, readable by you alone (chmod 600), that holds it instead",
                       pattern=r"(?!.*://).+"),
    "format": Option(str, "what the webhook wants to be sent", "json",
                     choices=("json", "slack", "feishu", "dingtalk", "wecom")),
    "desktop": Option(bool, "show it with notify-send as well", False),
    "on": Option(list, "what to tell", EVENTS, choices=EVENTS),
    "timeout_s": Option(float, "seconds that the webhook gets to answer", 10.0, least=0.1),
}
PAUSES_S = (1.0, 4.0)  # before the second and third try, where trying again can help
ANSWER_BYTES = 4096


@hookimpl
def preflight_check(host: Host, options: Mapping[str, Any]) -> CheckResult | None:
    """Whether it could tell anything; nothing is sent."""
    try:
        url = _url(options)
    except RdtopsError as error:
        return CheckResult.warn("notify", error.message, remedy=error.remedy)
    if options["desktop"] and not shutil.which("notify-send"):
        return CheckResult.warn("notify", "there is no notify-send on this laptop",
                                remedy=f"sudo apt-get install libnotify-bin, or desktop = false for {host.name}")
    ways = [_place(url)] if url else []
    ways += ["the desktop"] if options["desktop"] else []
    return CheckResult.ok("notify", f"tells {', '.join(options['on'])} to {' and '.join(ways)}") if ways else None


@hookimpl(trylast=True)  # after those that look at the checkpoint
def after_checkpoint(host: Host, run: RunSpec, checkpoint: Checkpoint,
                     options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    loss = "" if checkpoint.heldout_loss is None else f", held-out loss {checkpoint.heldout_loss:.6f}"
    return _told("checkpoint", f"{checkpoint.name} of {run.train.max_steps} steps, "
                 f"{checkpoint.size_bytes / 1e9:.2f} GB{loss}", host, run, options)


@hookimpl(trylast=True)
def after_run(host: Host, run: RunSpec, end: RunEnd, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    event = "failed" if end.state in (RunState.FAILED, RunState.LOST) else end.state.value
    loss = "" if end.loss is None else f", loss {end.loss:.4f}"
    why = f": {end.error}" if end.error else ""
    return _told(event, f"{end.state.value} at step {end.step} of {end.max_steps}{loss}{why}", host, run, options)


def _told(event: str, words: str, host: Host, run: RunSpec, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """None where there is nobody to tell. Raises RdtopsError when a way that is configured did not work."""
    url = _url(options)
    if event not in options["on"] or not (url or options["desktop"]):
        return None
    title, text = f"rdtops {host.name}", printable(f"{run.run_id} {words}")  # an error is what the host says
    told = []
    if options["desktop"]:  # first: it cannot take long
        told.append(_show(title, text))
    if url:
        facts = {"event": event, "host": host.name, "run_id": run.run_id, "time_s": round(time.time())}
        send(url, body(options["format"], title, text, facts), options["format"], options["timeout_s"])
        told.append(_place(url))
    problems = [words for words in told if words.startswith("the desktop was not told")]
    if problems:
        raise RdtopsError(problems[0], remedy="notify-send rdtops works   # in a terminal of your desktop")
    return {"told": ", ".join(told)}


def _show(title: str, text: str) -> str:
    """Who was told, or why nobody was."""
    try:
        done = subprocess.run(["notify-send", "--app-name=rdtops", "--", title, html.escape(text, quote=False)],
                              check=False, timeout=10, capture_output=True, text=True)  # a desktop may read it as HTML
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the desktop was not told: {type(error).__name__} of notify-send"
    return "desktop" if done.returncode == 0 else f"the desktop was not told: {done.stderr.strip()[-200:]}"


# --- the webhook ---

def body(kind: str, title: str, text: str, facts: Mapping[str, Any]) -> bytes:
    """What each kind of webhook wants. Robots that ask for a keyword can be given `rdtops`. Nothing in the text
    mentions anybody or is a link: Slack reads <!channel>, Feishu and WeCom <at> and <@user>."""
    line = f"{title}: {text}"
    unread = line.replace("<", "\u2039")
    shapes: dict[str, Any] = {"json": {**facts, "text": line}, "slack": {"text": html.escape(line, quote=False)},
                              "feishu": {"msg_type": "text", "content": {"text": unread}},
                              "dingtalk": {"msgtype": "text", "text": {"content": line}},
                              "wecom": {"msgtype": "text", "text": {"content": unread}}}
    return json.dumps(shapes[kind], ensure_ascii=False).encode()


def send(url: Secret, content: bytes, kind: str, timeout_s: float) -> None:
    """POST it; again after a pause where the server may only be busy. Raises RdtopsError, which knows the server and
    not the address."""
    for pause_s in (*PAUSES_S, None):
        problem, passing = _post(url, content, kind, timeout_s)
        if not problem:
            return
        if not passing or pause_s is None:
            raise RdtopsError(f"the webhook at {_place(url)} was not told: {problem}",
                              remedy="look at the address, the format and the timeout_s of notify in hosts.toml")
        time.sleep(pause_s)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Whoever redirects would get the secret of another place, or we his answer for a success."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: Secret, content: bytes, kind: str, timeout_s: float) -> tuple[str, bool]:
    """What went wrong, or nothing; and whether it may pass."""
    request = urllib.request.Request(  # noqa: S310  # _url has looked at its scheme
        url.reveal(), content, {"Content-Type": "application/json; charset=utf-8", "User-Agent": "rdtops"})
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s) as answer:
            return _refusal(answer.read(ANSWER_BYTES), kind, url), False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code == 429 or error.code >= 500
    except (OSError, http.client.HTTPException) as error:  # a URLError is an OSError. Their words may hold the address
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"no answer within {timeout_s:g} s", True
        words = getattr(reason, "strerror", None) or type(reason).__name__
        return str(words), isinstance(reason, OSError)


def _refusal(answer: bytes, kind: str, url: Secret) -> str:
    """Feishu, DingTalk and WeCom refuse with 200 and a code that is not 0."""
    try:
        told = fields.table(fields.loads(answer)) if kind in ("feishu", "dingtalk", "wecom") else {}
    except ValueError:
        return ""
    code = next((told[k] for k in ("code", "errcode", "StatusCode") if told.get(k)), 0)
    said = str(told.get("msg") or told.get("errmsg") or "")[:200] if code else ""
    return f"it answered code {code} {redacted(said, _secrets(url))}".strip() if code else ""


def _secrets(url: Secret) -> list[str]:
    """Parts of the address that let others in: a server may repeat what it was asked with."""
    parts = urllib.parse.urlsplit(url.reveal())
    found = [url.reveal(), parts.path, *parts.path.split("/"), parts.query,
             *(value for _, value in urllib.parse.parse_qsl(parts.query))]
    return [part for part in found if len(part) > 5]  # else it is a word like `send`


# --- the address, which is a secret: whoever has it can write into your group ---

def _url(options: Mapping[str, Any]) -> Secret | None:
    """None where none is configured. Raises RdtopsError, without the address, for one that cannot be used."""
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
        raise RdtopsError(f"the address in {file or variable} is not one of https", remedy="https://... in one line")
    return Secret(text)


def _read(file: Path) -> str:
    try:
        mode = file.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise RdtopsError(f"{file} holds a secret, and others may read it", remedy=f"chmod 600 {file}")
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise RdtopsError(f"the address of the webhook cannot be read from {file}: {why}",
                          remedy=f"ls -l {file}") from None
    if not text:
        raise RdtopsError(f"{file} is empty", remedy=f"write the address of the webhook into {file}")
    return text


def _place(url: Secret) -> str:
    """The part that may be seen."""
    return urllib.parse.urlsplit(url.reveal()).hostname or "?"
