"""A package index in a folder: wheels of our own under the names of others, for pip to choose from."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

from rdtops.delivery.proven_environments import proven


def wheel(index: Path, name: str, version: str, needs: str = "") -> None:
    """In a folder as an index has it. The package has a module `late` that it does not import by itself."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {needs}\n" if needs else ""
    files = {f"{name}/__init__.py": f"VERSION = {version!r}\n", f"{name}/late.py": f"VERSION = {version!r}\n",
             f"{info}/METADATA": metadata,
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in files.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    links = "".join(f'<a href="{p.name}">{p.name}</a>\n' for p in sorted(folder.glob("*.whl")))
    (folder / "index.html").write_text(f"<html><body>{links}</body></html>\n")


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def of_proven_environments(folder: Path) -> Path:
    """Fill the folder with every version of the trainer's packages that a proven environment pins."""
    newest, *older = proven()
    for package in older[-1].pins:
        for version in {each.pins[package] for each in (newest, *older) if package in each.pins}:
            wheel(folder, package, version)
    return folder
