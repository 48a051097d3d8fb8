"""A far-side program runs where nothing of ours is installed, whichever way it imports its neighbours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rdtops.on_host import prober, release_keeper, run_reporter, training_starter
from rdtops.porter import porter
from rdtops.ssh import bundle


def ended(source: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *bundle.FLAGS, "-c", source], cwd=tmp_path, capture_output=True, text=True,
                          check=False, input="")


@pytest.mark.parametrize("program", [training_starter, release_keeper, run_reporter, porter, prober])
def test_a_program_brings_every_module_it_imports(program: ModuleType, tmp_path: Path) -> None:
    assert "ModuleNotFoundError" not in ended(bundle.source(program), tmp_path).stderr


def test_a_neighbour_may_be_imported_as_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far_user.py").write_text("from rdtops.porter import entries\nprint(entries.OURS)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import far_user  # type: ignore[import-not-found]

    assert ended(bundle.source(far_user), tmp_path).stdout == ".rdtops-\n"
