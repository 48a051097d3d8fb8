"""Observed home: a user's home with a clone of this project, in which `inv` runs and every file is watched: only
results, rdtops's state and its caches may be created or changed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import unicodedata
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdtops.hostlib.names import is_run_id
from rdtops.ui.repository import ROOT

CLONED = ("rdtops", "plugins", "proofs", "tasks.py", "invoke.yaml", "pyproject.toml", ".gitignore")
MAY_CHANGE = ("project/results", ".local/state/rdtops", ".cache/rdtops", "project/.git/index")
SECRET = b"sesame"
MOST_MIB = 500
OF_A_TERMINAL = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|2K|\d*A|1?G)")  # colours, and the progress display
PRINTED = "\n\r\t"
OURS = re.compile(r'File "[^"]*/home/project/')  # in a traceback; a host may show one of its own


@dataclass(frozen=True)
class CommandEnd:
    """One typed command and its result."""

    line: str
    code: int | None  # None: it still ran at the time limit
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        return (self.out + self.err).decode("utf-8", "replace")

    @property
    def words(self) -> str:
        return " ".join(self.said.split())

    @property
    def outcome(self) -> str:
        """Return how it ended, and the first line of its error."""
        plain = OF_A_TERMINAL.sub("", self.said)
        complaint = plain.partition("error: ")[2].partition("\n")[0]
        return f"exit {self.code}" + (f": {complaint[:200]}" if complaint else "")


@dataclass(frozen=True)
class TypedCommand:
    """Commands typed one after the other in one process."""

    ends: tuple[CommandEnd, ...]
    seconds: float
    rss_mib: int
    is_late: bool
    is_flood: bool
    trace: str  # its stack at the time limit

    @property
    def words(self) -> str:
        return " ".join(end.words for end in self.ends)

    def wrong(self, limit_s: float) -> list[str]:
        """Return the effects that no answer of a host may have."""
        found = [f"no end within {limit_s:g} s, in {self.trace or '?'}"] if self.is_late else []
        found += [f"{self.rss_mib} MiB of memory"] if self.rss_mib > MOST_MIB else []
        found += ["endless output"] if self.is_flood else []
        for end in self.ends:
            what = [*_ended_wrong(end), *_on_the_screen(end.out), *_on_the_screen(end.err)]
            found += [f"`inv {end.line}`: {one}" for one in what]
        return found


def _ended_wrong(end: CommandEnd) -> Iterator[str]:
    if "Traceback (most recent" in end.said and OURS.search(end.said):
        yield f"traceback, {_last_frame(end.said)}"
    elif end.code not in (0, 1, 2, 3, 130, None):
        yield f"exit {end.code}: {end.said[-200:]}"


def _last_frame(said: str) -> str:
    """Return our lines of a traceback, the innermost first, and its message."""
    trace = said.rpartition("Traceback (most recent")[2]
    frames = re.findall(r'File "[^"]*/home/project/((?:rdtops|plugins)/[^"]+)", line (\d+)', trace)
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Exit|Lost|Problem|Interrupt)\b(?:: .*)?$", trace, re.MULTILINE)
    return f"{' < '.join(':'.join(f) for f in frames[:-4:-1]) or '?'}: {errors[0][:160] if errors else '?'}"


def _on_the_screen(said: bytes) -> Iterator[str]:
    """Yield terminal codes, and bytes that are not text."""
    try:
        text = said.decode("utf-8")
    except UnicodeDecodeError as error:
        yield f"it is not UTF-8 at {said[max(0, error.start - 30):error.end]!r}"
        text = said.decode("utf-8", "replace")
    rest = OF_A_TERMINAL.sub("", text)
    strange = next((n for n, letter in enumerate(rest) if letter not in PRINTED and not letter.isprintable()
                    and unicodedata.category(letter) not in ("Cn", "Co")), None)  # unassigned: harmless
    if strange is not None:
        yield f"{rest[strange]!r} came through: {rest[max(0, strange - 30):strange + 30]!r}"


class Home:
    """`folder/home`, its clone `project` and the clone's `.venv`. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.project = folder, folder / "home", folder / "home" / "project"
        self.results, self.flag = self.project / "results", folder / "flag"
        self.state, self.cache = self.home / ".local/state/rdtops", self.home / ".cache/rdtops"
        self.secret = self.home / "Documents" / "secret.txt"
        self._typist: subprocess.Popen[str] | None = None

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_typist()

    def _end_typist(self) -> None:
        if self._typist:
            self._typist.kill()
            with self._typist:  # waits, and closes its pipes
                self._typist = None

    @property
    def hosts(self) -> Path:
        return self.project / "hosts.toml"

    @property
    def site_packages(self) -> Path:
        return self.project / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def make(self) -> None:
        """Create the home again, whatever exists. hosts.toml stays."""
        hosts = self.hosts.read_text() if self.hosts.exists() else ""
        shutil.rmtree(self.home, ignore_errors=True)
        self.flag.unlink(missing_ok=True)
        self.project.mkdir(parents=True)
        for name in CLONED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.project / name)
            elif (ROOT / name).exists():
                shutil.copy2(ROOT / name, self.project / name)
        subprocess.run(["git", "init", "-q", str(self.project)], check=False, capture_output=True)
        venv.create(self.project / ".venv", symlinks=True)
        (self.site_packages / "the-real-one.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.secret.parent.mkdir()
        self.secret.write_bytes(SECRET)
        for folder in (".config/rdtops/plugins", ".local/state", ".cache"):
            (self.home / folder).mkdir(parents=True)
        (self.home / ".bashrc").write_text("true\n")
        self.hosts.write_text(hosts)

    def forget(self) -> None:
        """Delete results and the state of runs."""
        for folder in (self.results, self.state):
            shutil.rmtree(folder, ignore_errors=True)

    # --- typing

    def type(self, *lines: str, before: Sequence[Mapping[str, str]] = (), is_terminal: bool = False,
             limit_s: float = 60.0, **env: str) -> TypedCommand:
        """Run `inv LINE` for each line, one after the other, in one process. `before` each of them files are written:
        path -> text."""
        typist, trace = self._running(), self.folder / "trace"
        assert typist.stdin
        assert typist.stdout
        asked: list[Any] = list(itertools.zip_longest(lines, before, fillvalue={}))
        typist.stdin.write(json.dumps({"lines": asked, "is_terminal": is_terminal, "limit_s": limit_s,
                                       "folder": str(self.project), "trace": str(trace), "env": env}) + "\n")
        typist.stdin.flush()
        answer: dict[str, Any] = json.loads(typist.stdout.readline())
        ends = [CommandEnd(line, code, out.encode("latin-1"), err.encode("latin-1"))
                for line, (code, out, err) in zip(lines, answer["ends"], strict=False)]
        return TypedCommand(tuple(ends), answer["seconds"], answer["rss_mib"], answer["is_late"], answer["is_flood"],
                            _hanging_in(trace) if answer["is_late"] else "")

    def _running(self) -> subprocess.Popen[str]:
        if self._typist is None or self._typist.poll() is not None:
            self._end_typist()
            self._typist = subprocess.Popen(
                [str(self.project / ".venv/bin/python"), "-m", "proofs.staging.typist"], cwd=self.project,
                env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._typist

    @property
    def environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("RDTOPS_", "XDG_", "PYTHON", "PYTEST", "VIRTUAL_ENV"))}
        drawing = os.environ.get("MPLCONFIGDIR") or str(Path("~/.cache/matplotlib").expanduser())
        return {**kept, "HOME": str(self.home), "COLUMNS": "200", "TERM": "xterm-256color", "MPLCONFIGDIR": drawing,
                "PYTHONDONTWRITEBYTECODE": "1", "HOSTILE_FLAG": str(self.flag),
                "RDTOPS_SSH_CONFIG": str(self.folder / "ssh_config")}

    # --- observing

    def snapshot(self) -> dict[str, tuple[int, ...]]:
        """Return every path except those that may change, with a value that shows changes."""
        return dict(self._seen(self.home))

    def changes(self, before: Mapping[str, tuple[int, ...]]) -> list[str]:
        after = self.snapshot()
        made = [f"made {path}" for path in after if path not in before]
        gone = [f"removed {path}" for path in before if path not in after]
        return made + gone + [f"changed {path}" for path in after if before.get(path, after[path]) != after[path]]

    def wrong(self, before: Mapping[str, tuple[int, ...]], hosts: Sequence[str]) -> list[str]:
        """Return every file outside the allowed places, and whether planted code has run."""
        found = [f"outside results: {change}" for change in self.changes(before)]
        found += [*self._misplaced(self.results, hosts), *self._misplaced(self.state / "runs", hosts)]
        if found:  # then the next command may run it
            self.type("plugins")
        if self.flag.exists():
            found.append("code of the host has run on the laptop")
        return found

    def _seen(self, folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
        for child in os.scandir(folder):
            path = os.path.relpath(child.path, self.home)
            if path.startswith(MAY_CHANGE):
                continue
            told = child.stat(follow_symlinks=False)
            if stat.S_ISDIR(told.st_mode):
                yield path, (told.st_mode, told.st_ino)
                yield from self._seen(Path(child.path))
            else:
                yield path, (told.st_mode, told.st_ino, told.st_size, told.st_mtime_ns)

    def _misplaced(self, root: Path, hosts: Sequence[str]) -> Iterator[str]:
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = Path(folder, name)
                parts = path.relative_to(root).parts
                if path.is_symlink():
                    yield f"{path.relative_to(self.home)} is a link to {path.readlink()}"
                elif not (path.is_file() or path.is_dir()):
                    yield f"{path.relative_to(self.home)} is no file"
                elif parts[0] not in hosts or (len(parts) > 1 and not is_run_id(parts[1])):
                    yield f"{str(path.relative_to(self.home))!r} is not of a run"


def _hanging_in(trace: Path) -> str:
    """Return our innermost lines of the command's thread."""
    with contextlib.suppress(OSError):
        main = trace.read_text().rpartition("Current thread")[2]
        frames = re.findall(r'File "[^"]*/home/project/((?:rdtops|plugins)/[^"]+)", line (\d+)', main)
        return " < ".join(":".join(frame) for frame in frames[:4] if "typist" not in frame[0])
    return ""
