"""Snapshot: the files of a release (the code that a host runs, nothing else), named by revision and digest."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import rdtops
from rdtops.errors import UsageError
from rdtops.hostlib.manifest import FileDigest, Manifest, md5_of
from rdtops.hostlib.names import RelativePath

# All that a host imports: the trainer, its supervisor, and their imports. Programs that are sent over stdin, the code
# of the laptop, plugins, documents and tests are not in a release, so changing them makes no new release.
RELEASED = (
    "rdtops/__init__.py",
    "rdtops/errors.py",
    "rdtops/contract",
    "rdtops/hostlib",
    "rdtops/supervisor",
    "rdtops/trainer",
)
LARGEST_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Snapshot:
    """The files of a release as they are now. `revision` is the last git commit that changed one of them ('' outside
    git), `dirty` those that differ from it or are not tracked."""

    root: Path
    name: str
    revision: str
    dirty: tuple[str, ...]
    manifest: Manifest

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(f.path for f in self.manifest.files)

    def to_json(self) -> str:
        """Return snapshot.json, which is stored in the release."""
        return json.dumps({"name": self.name, "revision": self.revision, "dirty": list(self.dirty),
                           "digest": self.manifest.digest, "files": [asdict(f) for f in self.manifest.files]}, indent=1)


def take(root: Path | None = None) -> Snapshot:
    """Return the snapshot of the tree below `root` (by default this project): the files of RELEASED that git does not
    ignore."""
    tree = root or Path(rdtops.__file__).resolve().parents[1]
    listed = _git(tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    paths = [RelativePath(p) for p in listed.split("\0") if p] if listed else _walk(tree)
    present = sorted({p for p in paths if (tree / p).is_file()})
    _refuse_large(tree, present)
    manifest = Manifest(tuple(FileDigest(p, (tree / p).stat().st_size, md5_of(tree / p)) for p in present))
    revision = (_git(tree, "log", "-1", "--format=%H") or "").strip()
    dirty = tuple(line[3:] for line in (_git(tree, "status", "--porcelain", "-z", "--no-renames") or "").split("\0")
                  if line)
    name = "-".join([revision[:8] or "nogit", *(["dirty"] if dirty else []), manifest.digest[:8]])
    return Snapshot(tree, name, revision, dirty, manifest)


def _git(tree: Path, *words: str) -> str | None:
    """Return git's output about the files of RELEASED, None without git or a repository."""
    try:
        done = subprocess.run(["git", "-C", str(tree), *words, "--", *RELEASED], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", "surrogateescape")


def _walk(tree: Path) -> list[RelativePath]:
    every = (path for name in map(RelativePath, RELEASED) for path in (tree / name, *(tree / name).rglob("*")))
    return [RelativePath(p.relative_to(tree).as_posix()) for p in every if "__pycache__" not in p.parts]


def _refuse_large(tree: Path, paths: list[RelativePath]) -> None:
    large = [p for p in paths if (tree / p).stat().st_size > LARGEST_FILE_BYTES]
    if large:
        raise UsageError(f"{large[0]} has {(tree / large[0]).stat().st_size / 1e6:.0f} MB and is not ignored by git; "
                         "code is sent with every deploy, so data and weights must be assets",
                         remedy=f"echo '/{large[0]}' >> .gitignore   # and name it under [assets] in hosts.toml")
