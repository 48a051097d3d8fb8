"""docs/plugins.md as a new user types it: in a clone, after the documented install, in a venv of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdtops.lab.site import Lab

ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"^## Ten minutes.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
PART = re.compile(r"```(?P<language>\w+)\n(?P<text>(?s:.*?))```|^(?P<lines>(?:    \S.*\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Typed:
    """What the reader types (no language), or writes into a file."""

    language: str
    text: str
    file: str  # the last one that the text before it names


def typed() -> Iterator[Typed]:
    section = SECTION.search((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"))
    assert section
    for part in PART.finditer(section[0]):
        named = re.findall(r"`([\w./-]+\.(?:py|toml))`", section[0][:part.start()])
        yield Typed(part["language"] or "", part["text"] or re.sub("^    ", "", part["lines"], flags=re.MULTILINE),
                    named[-1] if named else "")


def test_the_section_has_commands_and_files():
    parts = list(typed())
    assert [part.file for part in parts if part.language == "python"] == [
        "rdtops-quota/rdtops_quota.py", "rdtops-quota/tests/test_quota.py"]
    assert [part.language for part in parts].count("toml") == 1
    assert parts[0].text.startswith("python -m pip install pytest\ninv plugins.new quota --package\n")


@pytest.mark.slow
@pytest.mark.lab
@pytest.mark.timeout(1200)
def test_the_ten_minutes_work_as_they_are_written(rdtops_lab: Lab, tmp_path: Path) -> None:
    clone, hosts = tmp_path / "rdtops", tmp_path / "hosts.toml"
    rdtops_lab.write_inventory(hosts, {})
    hosts.write_text(hosts.read_text().replace("[hosts.lab2", "[hosts.a800"))  # the document's host
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RDTOPS_", "PYTEST"))}
    env |= {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config"), "RDTOPS_HOSTS": str(hosts),
            "RDTOPS_SSH_CONFIG": str(rdtops_lab.ssh_config), "PATH": f"{clone}/.venv/bin:{env['PATH']}"}
    (tmp_path / "home").mkdir()
    shell(f"git clone -q {ROOT} {clone}; git -C {ROOT} diff HEAD | git -C {clone} apply --allow-empty; "
          f"{sys.executable} -m venv {clone}/.venv", tmp_path, env)
    shell("./bootstrap.sh demo --help", clone, env)  # the install of `./bootstrap.sh demo`, without the demonstration
    said = ""
    for part in typed():
        if part.language == "python":
            (clone / part.file).write_text(part.text)
        elif part.language == "toml":
            hosts.write_text(f"{hosts.read_text()}\n{part.text}")
        else:
            for line in part.text.splitlines():
                said += shell(line, clone, env, may_fail=line.startswith("inv check"))
    assert re.search(r"quota +\S*rdtops-quota", said) or "rdtops_quota" in said
    assert "cannot tell how much of the quota is free" in said  # the lab has no quotas
    assert list((clone / "dist").glob("rdtops_quota-*.whl"))


def shell(line: str, folder: Path, env: dict[str, str], *, may_fail: bool = False) -> str:
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=900,
                          stdin=subprocess.DEVNULL, check=False)
    assert may_fail or done.returncode == 0, f"$ {line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr
