"""A package index in a folder: wheels of our own under the names of others, for pip to choose from."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rdtops.delivery.proven_environments import proven


def wheel(index: Path, name: str, version: str, needs: str = "", code: Mapping[str, str] | None = None) -> None:
    """In a folder as an index has it. The package has a module `late` that it does not import by itself, or the files
    of `code`."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {needs}\n" if needs else ""
    modules = {f"{name}/{file}.py": f"VERSION = {version!r}\n" for file in ("__init__", "late")}
    files = {**(modules if code is None else code), f"{info}/METADATA": metadata,
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in files.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    links = "".join(f'<a href="{p.name}">{p.name}</a>\n' for p in sorted(folder.glob("*.whl")))
    (folder / "index.html").write_text(f"<html><body>{links}</body></html>\n")


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def of_proven_environments(folder: Path, code: Mapping[str, str] | None = None) -> Path:
    """Fill the folder with every version of the trainer's packages that a proven environment pins. `code`: the files of
    torch; the others have none then."""
    newest, *older = proven()
    for package in older[-1].pins:
        for version in {each.pins[package] for each in (newest, *older) if package in each.pins}:
            wheel(folder, package, version, code=code if package == "torch" or code is None else {})
    return folder


@dataclass(frozen=True)
class Served:
    """An index that a server on loopback shows."""

    folder: Path
    port: int

    def url(self, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Served]:
    folder.mkdir(exist_ok=True)
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Served(folder, server.server_port)
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
