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

T5 = "google/t5-v1_1-xxl"
BEGUN_BYTES = 11 << 20  # of a file that never ends; the library writes pieces of 10 MiB


Repositories = Mapping[str, Mapping[str, bytes]]  # name -> file -> content


class HubHandler(BaseHTTPRequestHandler):
    """Answers for the repositories of its server, a HubServer."""

    server: HubServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.notice()
        path = self.path.partition("?")[0].removeprefix("/").removeprefix("api/models/")
        repository = "/".join(path.split("/")[:2])
        files = self.server.repositories.get(repository, {})
        file = re.sub(r"^.*/resolve/[^/]+/", "", path)
        content = self._listing(repository, files) if self.path.startswith("/api/") else files.get(file)
        if not files or content is None:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {"Content-Length": str(len(content)), "X-Repo-Commit": self.server.revision,
                           "ETag": f'"{tag(content)}"'}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:BEGUN_BYTES] if file == self.server.endless else content)
            if file == self.server.endless:
                self.server.over.wait(60)

    def notice(self) -> None:
        """Do something before the answer."""

    def _listing(self, repository: str, files: Mapping[str, bytes]) -> bytes:
        if "/tree/" in self.path:
            return json.dumps([{"type": "file", "path": file, "size": len(content), "oid": tag(content)}
                               for file, content in files.items()]).encode()
        siblings = [{"rfilename": file} for file in files]
        return json.dumps({"id": repository, "sha": self.server.revision, "siblings": siblings}).encode()

    def log_message(self, *_: object) -> None:
        pass


class HubServer(ThreadingHTTPServer):
    """Serves repositories. Of a file `endless` only the beginning comes."""

    def __init__(self, handler: type[HubHandler], repositories: Repositories, endless: str, revision: str) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.repositories, self.endless, self.revision = repositories, endless, revision
        self.over = threading.Event()


@contextlib.contextmanager
def model_hub(repositories: Repositories, *, endless: str = "", revision: str = "a" * 40,
              handler: type[HubHandler] = HubHandler) -> Iterator[str]:
    """Run a HubServer; yield its endpoint."""
    server = HubServer(handler, repositories, endless, revision)
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
    """Download T5 with huggingface_hub in a process of its own; `where` is cache_dir or local_dir.
    `killed`: kill it while a file has come in part."""
    words = {name: str(path) for name, path in where.items()}
    line = f"from huggingface_hub import snapshot_download; snapshot_download({T5!r}, **{words!r})"
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
