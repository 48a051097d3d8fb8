"""`inv plugins.new`: what it writes works as it is."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from rdtops.errors import UsageError
from rdtops.plugging import authoring, discovery

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's configuration folder without plugins."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def pytest_run(target, *words, **settings):
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", target, *words],
                          capture_output=True, text=True, check=False, **settings)


@pytest.mark.lab
def test_the_new_plugin_is_loaded_and_its_test_passes(home):
    written = authoring.write("scratch_space", discovery.user_folder(), package=False)
    assert [f.relative_to(discovery.user_folder()).as_posix() for f in written.files] == [
        "scratch_space.py", "tests/test_scratch_space.py"]
    (plugin,) = [p for p in discovery.load() if p.name == "scratch_space"]
    assert (plugin.problem, plugin.hooks) == ("", ("preflight_check",))
    done = pytest_run(written.files[1], cwd=home)
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout


@pytest.mark.lab
def test_the_new_distribution_is_installed_and_becomes_the_one_of_the_document(home):
    """docs/plugins.md as its reader walks it; the rules are tried in the test above."""
    written = authoring.write("quota", home, package=True)
    root = home / "rdtops-quota"
    assert written.next_lines[0] == f"pip install -e {root}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    python = home / "venv" / "bin" / "python"
    packages = next((home / "venv" / "lib").glob("python3*")) / "site-packages"
    (packages / "needs.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index",
                    "--no-build-isolation", "-e", root], check=True)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL)
    for texts in ({}, {"rdtops_quota.py": blocks[0], "tests/test_quota.py": blocks[1]}):
        for path, text in texts.items():
            (root / path).write_text(text)
        done = subprocess.run([python, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not rules"],
                              cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "words"), [
    ("Scratch", "small letters"), ("my-plugin", "small letters"), ("../x", "small letters"), ("", "small letters"),
    ("md5", "a plugin 'md5' exists already")])
def test_a_name_that_cannot_be_is_refused(home, name, words):
    with pytest.raises(UsageError, match=words):
        authoring.write(name, discovery.user_folder(), package=False)
    assert not discovery.user_folder().exists()


def test_files_that_are_there_are_left_as_they_are(home):
    (home / "rdtops-mine").mkdir()
    (home / "rdtops-mine" / "pyproject.toml").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        authoring.write("mine", home, package=True)
    assert [p.name for p in (home / "rdtops-mine").iterdir()] == ["pyproject.toml"]
