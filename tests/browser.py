"""A headless Chromium, spoken to over its DevTools protocol through a pipe: no driver, no port, no package."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rdtops.lab import packages

PHONE, DESK = (390, 844), (1280, 900)
LIMIT_S = 30


def missing() -> str:
    """Say why no browser can be started; '' where one can."""
    return "" if packages.browser() else f"no chromium: {packages.install_command(packages.BROWSER)}"


class Browser:
    """One window. `errors` has what pages wrote to the console as errors, refused scripts and addresses among it."""

    def __init__(self, to_it: int, from_it: int) -> None:
        self._to_it, self._from_it, self._rest, self._count = to_it, from_it, b"", 0
        self.errors: list[str] = []
        self._session, self._loaded = "", False
        (page,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, page: Path, size: tuple[int, int], *, dark: bool = False, scripts: bool = True) -> None:
        """Show a page in a window of `size`, and wait until it is there."""
        self.errors.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1,
                  mobile=size[0] < 600)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._loaded = False
        told = self.call("Page.navigate", url=page.resolve().as_uri())
        assert "errorText" not in told, told
        while not self._loaded:
            self._note(self._next())

    def ask(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; a promise is awaited."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
                         userGesture=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def picture(self) -> bytes:
        """Return the whole page as a PNG."""
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=self._whole())
        return base64.b64decode(told["data"])

    def _whole(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = json.dumps({"id": self._count, "method": method, "params": params, **session})
        os.write(self._to_it, message.encode() + b"\0")
        while (told := self._next()).get("id") != self._count:
            self._note(told)
        assert "error" not in told, (method, told["error"])
        return told["result"]

    def _note(self, told: dict[str, Any]) -> None:
        self._loaded |= told.get("method") == "Page.loadEventFired"
        entry = told.get("params", {}).get("entry", {})
        if told.get("method") == "Log.entryAdded" and entry["level"] == "error":
            self.errors.append(entry["text"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._from_it], [], [], LIMIT_S)[0], f"the browser says nothing for {LIMIT_S} s"
            got = os.read(self._from_it, 1 << 20)
            assert got, "the browser is gone"
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)


@contextmanager
def started(folder: Path) -> Iterator[Browser]:
    """Start a browser whose profile lies in `folder`, and end it."""
    theirs_in, to_it = os.pipe()
    from_it, theirs_out = os.pipe()
    words = [packages.browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--mute-audio", "--no-first-run", "--disable-extensions", "--disable-background-networking",
             "--host-resolver-rules=MAP * ~NOTFOUND",  # no page needs a network
             f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank"]
    # DevTools reads from descriptor 3 and writes to 4
    script = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
    process = subprocess.Popen(["bash", "-c", script, "bash", *words], pass_fds=(theirs_in, theirs_out),
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "HOME": str(folder)}, start_new_session=True)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        browser = Browser(to_it, from_it)
        yield browser
        browser.call("Browser.close")
    finally:
        os.close(to_it)  # without its pipe it ends
        os.close(from_it)
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
