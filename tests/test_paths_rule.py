"""The rule that no plain text becomes a part of a path on the laptop bites, where it should and only there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRIED = """\
from pathlib import Path, PurePosixPath
from typing import Final
from rdtops.hostlib import names
NAME: Final = "report.json"

def tried(said: str, run: names.RunId, folder: Path) -> object:
    return {}
"""


def findings(tmp_path: Path, expression: str, module: str = "tried.py") -> str:
    file = tmp_path / module
    file.write_text(TRIED.format(expression))
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
                           str(tmp_path / "cache"), "--follow-imports", "silent", str(file)], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    return done.stdout


def test_text_of_a_host_is_refused_and_what_was_parsed_is_not(tmp_path: Path) -> None:
    refused = ["folder / said", "folder.joinpath('runs', said)", "folder.with_name(said)", "folder / f'{said}.json'",
               "folder / 'runs' / said"]
    allowed = ["folder / run", "folder / 'runs'", "folder / NAME", "folder / names.relative_path(said)",
               "folder / Path(said)", "PurePosixPath('/w') / said"]
    said = findings(tmp_path, "[" + ",\n            ".join(refused + allowed) + "]")
    lines = [int(line.split(":")[1]) for line in said.splitlines() if "a plain str is joined to a path" in line]
    assert lines == list(range(7, 7 + len(refused))), said
