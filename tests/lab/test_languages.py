"""Other languages and encodings: of the laptop, of the host, of the names of files. The locales are made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdtops.lab.site import Lab
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from tests.lab.commandline import CommandLine
from tests.lab.moves import download, upload

pytestmark = pytest.mark.lab

SOURCES = Path("/usr/share/i18n/locales/zh_CN")
LOCALES = {"zh_CN.GB18030": ("zh_CN", "GB18030"), "de_DE.UTF-8": ("de_DE", "UTF-8")}
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # as of Python before 3.7


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not SOURCES.exists():
        pytest.skip("the sources of locales are not installed (package locales)")
    folder = tmp_path_factory.mktemp("locales")
    for name, (language, charmap) in LOCALES.items():
        subprocess.run(["localedef", "-i", language, "-f", charmap, str(folder / name)], check=True)
    return folder


@pytest.fixture
def speaks(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Let the host `lab` have these lines of sh before each session."""
    lab.up()
    session = lab.folder("lab") / "session"
    before = session.read_text(encoding="utf-8")
    yield lambda lines: session.write_text(before.replace("\n", f"\n{lines}\n", 1), encoding="utf-8") and None
    session.write_text(before, encoding="utf-8")


@pytest.fixture(scope="module")
def inv(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    folder = tmp_path_factory.mktemp("laptop")
    lab.write_inventory(folder / "hosts.toml", {"libero_tiny": str(folder / "数据集")})
    text = (folder / "hosts.toml").read_text(encoding="utf-8")
    (folder / "hosts.toml").write_text(f"# 主机清单\n{text}", encoding="utf-8")
    return CommandLine(folder, folder / "hosts.toml")


@pytest.fixture(scope="module")
def plain(inv: CommandLine, lab: Lab) -> dict[str, str]:
    lab.up()
    return findings(inv("check --host lab --json").out.encode())


def answered(inv: CommandLine, line: str | bytes, **env: str) -> subprocess.CompletedProcess[bytes]:
    """What `inv LINE` printed, as bytes; no file of ours was opened with the encoding of the locale."""
    done = subprocess.run([sys.executable, "-m", "invoke", *line.split()], cwd=inv.root, stdin=subprocess.DEVNULL,
                          env={**inv.env, "PYTHONWARNDEFAULTENCODING": "1", **env}, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr, done.stderr
    ours = [row for row in done.stderr.decode(errors="replace").splitlines()
            if "EncodingWarning" in row and str(inv.root) in row and "/.venv/" not in row]
    assert ours == []
    return done


def findings(printed: bytes) -> dict[str, str]:
    """Return the checks and their outcome; what warns depends on the load of this machine."""
    return {row["name"]: row["status"].replace("WARN", "OK") for report in json.loads(printed)
            for row in report["results"]}


@pytest.mark.parametrize("locale", ["zh_CN.GB18030", "C"])
def test_a_laptop_of_any_locale_says_the_same(lab: Lab, inv: CommandLine, locales: Path, plain: dict[str, str],
                                              locale: str) -> None:
    lab.up()
    env = ASCII if locale == "C" else {"LC_ALL": locale, "LOCPATH": str(locales)}
    assert answered(inv, "status --host lab", **env).returncode == 0
    assert answered(inv, "check --host lab", **env).returncode == 1
    assert findings(answered(inv, "check --host lab --json", **env).stdout) == plain


def test_a_message_has_the_encoding_of_the_terminal(inv: CommandLine, locales: Path) -> None:
    word = "数据集".encode("gb18030")
    done = answered(inv, b"status --host " + word, LC_ALL="zh_CN.GB18030", LOCPATH=str(locales))
    assert (done.returncode, word in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("locale", ["zh_CN.GB18030", "de_DE.UTF-8"])
def test_a_host_of_any_language_answers_the_same(lab: Lab, inv: CommandLine, locales: Path, plain: dict[str, str],
                                                 locale: str, speaks: Callable[[str], None]) -> None:
    speaks(f"export LC_ALL={locale} LANG={locale} LANGUAGE={locale[:5]} LOCPATH={locales}")
    assert findings(inv("check --host lab --json").out.encode()) == plain
    with Connection(inventory.load(inv.folder / "hosts.toml").host("lab")) as connection:
        told = connection.run_shell("printf %s \"$LC_ALL\"; printf ' %s' '数据集'").out
        assert told == f"{locale} 数据集"  # what is trained there keeps the language of its user


def test_files_of_any_name_travel_both_ways(lab: Lab, inv: CommandLine, locales: Path, tmp_path: Path, home: None,
                                            speaks: Callable[[str], None]) -> None:
    names = ["数据集.hdf5".encode(), "数据集.hdf5".encode("gb18030"), b"latin\xe9", b"new\nline", b"it's !x"]
    folder = os.fsencode(tmp_path / "here")
    (tmp_path / "here").mkdir()
    for name in names:
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(name)
    speaks(f"export LC_ALL=zh_CN.GB18030 LOCPATH={locales}")
    with Connection(inventory.load(inv.folder / "hosts.toml").host("lab")) as connection:
        there = lab.home("lab") / "数据集 !x"
        upload(connection, tmp_path / "here", there)
        download(connection, there, tmp_path / "back")
        listed = connection.run_shell(f"ls '{there}' | wc -l").out
    for copy in (there, tmp_path / "back"):
        assert sorted(os.fsencode(path.name) for path in copy.iterdir()) == sorted(names)
    assert listed.strip() == str(len(names) + 1)  # a name of two lines
