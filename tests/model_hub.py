"""A model hub on the loopback, which huggingface_hub downloads from: what it leaves on the disk is the real thing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "google/t5-v1_1-xxl"
BEGUN_BYTES = 11 << 20  # of a file that never ends; the library writes pieces of 10 MiB


class HubHandler(BaseHTTPRequestHandler):
    """Answers for the one repository of its server, a RepositoryServer."""

    server: RepositoryServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.server
        name = re.sub(r"^.*/resolve/[^/]+/", "", self.path)
        content = hub.api(self.path) if self.path.startswith("/api/") else hub.files.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {"Content-Length": str(len(content)), "X-Repo-Commit": hub.revision,
                           "ETag": f'"{tag(content)}"'}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:BEGUN_BYTES] if name == hub.endless else content)
            if name == hub.endless:
                hub.over.wait(60)

    def log_message(self, *_: object) -> None:
        pass


class RepositoryServer(ThreadingHTTPServer):
    """Serves one repository. Of the file `endless` only the beginning comes."""

    def __init__(self, files: Mapping[str, bytes], endless: str, revision: str) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files, self.endless, self.revision = files, endless, revision
        self.over = threading.Event()

    def api(self, path: str) -> bytes:
        if "/tree/" in path:
            return json.dumps([{"type": "file", "path": file, "size": len(content), "oid": tag(content)}
                               for file, content in self.files.items()]).encode()
        return json.dumps({"id": NAME, "sha": self.revision,
                           "siblings": [{"rfilename": file} for file in self.files]}).encode()


@contextlib.contextmanager
def model_hub(files: Mapping[str, bytes], *, endless: str = "", revision: str = "a" * 40) -> Iterator[str]:
    """Run a RepositoryServer; yield the endpoint."""
    server = RepositoryServer(files, endless, revision)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def tag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def download(endpoint: str, *, killed: bool = False, **where: Path) -> None:
    """Download the repository with huggingface_hub in a process of its own; `where` is cache_dir or local_dir.
    `killed`: kill it while a file has come in part."""
    words = {name: str(path) for name, path in where.items()}
    line = f"from huggingface_hub import snapshot_download; snapshot_download({NAME!r}, **{words!r})"
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                   "HF_HUB_DISABLE_XET": "1", "no_proxy": "*"}
    (folder,) = where.values()
    end_s = time.monotonic() + 60
    with subprocess.Popen([sys.executable, "-c", line], env=environment, stderr=subprocess.PIPE) as downloading:
        while downloading.poll() is None:
            assert time.monotonic() < end_s
            if killed and [path for path in folder.rglob("*.incomplete") if path.stat().st_size]:
                downloading.kill()
            time.sleep(0.05)
        assert downloading.stderr
        assert killed or downloading.returncode == 0, downloading.stderr.read()
