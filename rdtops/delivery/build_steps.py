"""Build steps: what is done on a host while a person waits, in words: the making of an environment, where pip's lines
become one line, a check, a launch. Pure."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

STEPS = {"look": "looking at the driver and the Python", "venv": "making the venv",
         "conda": "making the conda environment", "pip": "asking the index", "install": "installing",
         "check": "checking that the packages fit each other", "import": "importing"}
SHORT = "short"  # usually over within seconds: not worth a line in a pipe
_FILE = re.compile(r"(.+?)-(\d[^-]*?)(?:-.*\.whl|\.tar\.gz|\.zip)")
_DOWNLOADING = re.compile(r"\s*(Downloading|Using cached) (\S+)(?: \(([^)]*)\))?")
_COLLECTING = re.compile(r"\s*Collecting ([^\s(;]+)")
_BUILDING = re.compile(r"\s*Building wheels? for (?:collected packages: )?(.+?)(?: \(.*)?$")


@dataclass(frozen=True)
class BuildStep:
    """What is done now. `name`: a key of STEPS, or SHORT; `seconds`: since the first step began."""

    name: str
    words: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.words}, {self.seconds:.0f} s"


def step_of(name: str, line: str, before: BuildStep | None, seconds: float) -> BuildStep:
    """Return the step after a line of its program; a line that says nothing new leaves the words as they were."""
    if name == "pip" and line.lstrip().startswith("Installing collected packages"):
        return BuildStep("install", f"installing {line.count(',') + 1} packages", seconds)
    if name == "pip" and (words := _pip_words(line)):
        return BuildStep("pip", words, seconds)
    if name == "import" and line.isidentifier():
        return BuildStep(name, f"importing {line}", seconds)
    if before and (before.name == name or (before.name, name) == ("install", "pip")):
        return BuildStep(before.name, before.words, seconds)
    return BuildStep(name, STEPS.get(name, name), seconds)


def _pip_words(line: str) -> str:
    """Return a line of pip in words; '' for one that is not about a package."""
    if found := _DOWNLOADING.match(line):
        size = f" ({found[3]})" if found[3] else ""
        return f"{'downloading' if found[1] == 'Downloading' else 'taking'} {_package(found[2])}{size}"
    if found := _COLLECTING.match(line):
        return f"looking for {found[1]}"
    if found := _BUILDING.match(line):
        return f"building {found[1]}"
    return ""


def _package(address: str) -> str:
    """Return name and version of a file of an index, without the address, whose query may hold a token."""
    file = urllib.parse.unquote(address.partition("?")[0].partition("#")[0].rpartition("/")[2])
    found = _FILE.fullmatch(file.removesuffix(".metadata"))
    return f"{found[1]} {found[2]}" if found else file
