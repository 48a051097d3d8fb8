"""What a plugin's author is told: file and line of what it raised, the nearest hook and argument."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdtops.plugging import discovery
from rdtops.plugging.registry import Registry
from rdtops.ssh.hosts import Host
from rdtops.testing import api_reference

ROOT = Path(__file__).parents[2]
RAISING = '''"""A plugin."""
from rdtops.api import hookimpl


@hookimpl
def preflight_check(host):
    return compute()


def compute():
    raise ValueError("no such table")
'''


def plugin(tmp_path: Path, text: str) -> discovery.Plugin:
    file = tmp_path / "quota.py"
    file.write_text(text)
    return discovery.loaded(discovery.of_file(file))


def test_what_a_plugin_raises_is_told_with_file_and_line(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(name="a800", address="a800")
    work = Registry([plugin(tmp_path, RAISING)]).preflight_works(host)[1]
    (finding,) = work()
    assert finding.summary == f"the plugin raised ValueError: no such table ({tmp_path / 'quota.py'}:11)"
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RDTOPS_DEBUG", "1")
    work()
    said = capsys.readouterr().err
    assert said.startswith("[quota] Traceback")
    assert "return compute()" in said
    assert "bounded.py" not in said  # only the plugin's own frames


def test_an_error_at_import_is_told_with_file_and_line(tmp_path: Path) -> None:
    assert plugin(tmp_path, "import json\n\n1 / 0\n").problem == (
        f"ZeroDivisionError: division by zero ({tmp_path / 'quota.py'}:3)")


@pytest.mark.parametrize(("before", "after", "words"), [
    ("def preflight_check(host)", "def preflight_chek(host)",
     "there is no hook 'preflight_chek'; did you mean 'preflight_check'?; hooks: preflight_check, before_train, "),
    ("def preflight_check(host)", "def preflight_check(hots)",
     "preflight_check has no argument 'hots'; did you mean 'host'?; arguments: host, connection, spec, "),
    ("@hookimpl\n", "", "it implements no hook; mark a function with @hookimpl"),
])
def test_a_misspelt_hook_or_argument_is_answered_with_the_nearest(
        tmp_path: Path, before: str, after: str, words: str) -> None:
    assert plugin(tmp_path, RAISING.replace(before, after)).problem.startswith(words)


def test_the_reference_of_the_api_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "plugins_api.md").read_text(encoding="utf-8") == api_reference.markdown(), (
        "python -m rdtops.testing.api_reference > docs/plugins_api.md")
