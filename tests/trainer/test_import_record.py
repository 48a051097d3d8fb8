"""The record of imports that went well: it counts while nothing that they read has changed, and no longer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """import json, sys
from rdtops.trainer import imports
print(json.dumps(imports.answer(sys.argv[2:], fresh=sys.argv[1] == 'fresh')))"""


class Account:
    """A home folder, and a package with a module and a library."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.packages = folder / "site-packages"
        self.env: dict[str, str] = {}
        (self.packages / "model" / "parts").mkdir(parents=True)
        (self.packages / "model" / "__init__.py").write_text("from model.parts import layer\n")
        (self.packages / "model" / "parts" / "layer.py").write_text("size = 1\n")

    @property
    def layer(self) -> Path:
        return self.packages / "model" / "parts" / "layer.py"

    def is_known(self, *names: str, fresh: bool = False) -> bool:
        done = subprocess.run([sys.executable, "-c", PROGRAM, "fresh" if fresh else "", *(names or ("model",))],
                              cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60,
                              env={**os.environ, "HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1",
                                   "PYTHONPATH": f"{REPOSITORY}:{self.packages}", **self.env})
        answer = json.loads(done.stdout)
        assert not answer["failed"]
        return answer["kept_at_s"] is not None


@pytest.fixture
def account(tmp_path) -> Account:
    return Account(tmp_path)


def test_imports_are_tried_once_while_the_environment_is_the_same(account):
    assert [account.is_known(), account.is_known(), account.is_known(fresh=True), account.is_known()] == [
        False, True, False, True]


CHANGES: dict[str, Callable[[Account], object]] = {
    "a file is edited": lambda account: account.layer.write_text("size = 2  # or more\n"),
    "a file is replaced by one of its size and time": lambda account: (
        account.layer.rename(account.layer.with_suffix(".old")), account.layer.write_text("size = 3\n"),
        os.utime(account.layer, ns=(account.layer.with_suffix(".old").stat().st_atime_ns,
                                    account.layer.with_suffix(".old").stat().st_mtime_ns))),
    "a package is installed beside it": lambda account: (account.packages / "flash_attn").mkdir(),
    "another library comes first": lambda account: account.env.update(LD_LIBRARY_PATH="/opt/cuda/lib64"),
    "the record is cut off": lambda account: [
        file.write_text(file.read_text()[:-40]) for file in (account.home / ".cache/rdtops/imports").iterdir()],
    "the record is of nothing": lambda account: [
        file.write_text('{"at_s": 1, "files": {}}') for file in (account.home / ".cache/rdtops/imports").iterdir()]}


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_they_are_tried_again(account, change):
    account.is_known()
    assert account.is_known()
    CHANGES[change](account)
    assert not account.is_known()
    assert account.is_known()


def test_other_settings_and_what_fails_are_tried(account):
    account.is_known()
    assert not account.is_known("model", "json")
    account.layer.write_text("import no_such_package\n")
    with pytest.raises(AssertionError):
        account.is_known()
    with pytest.raises(AssertionError):
        account.is_known()


def test_a_home_that_cannot_be_written_costs_only_the_time(account):
    account.home.write_text("a file, for a folder")
    assert [account.is_known(), account.is_known()] == [False, False]


def test_a_few_records_are_kept(account):
    for number in range(12):
        account.env["CUDA_VISIBLE_DEVICES"] = str(number)
        account.is_known()
    assert len(list((account.home / ".cache/rdtops/imports").iterdir())) == 8
