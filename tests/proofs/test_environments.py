"""The floors of pyproject.toml and what the trainer uses, held against what `inv drill environments` has proven.

Its short form, which needs no other environment than this one."""

from __future__ import annotations

import importlib.metadata

import pytest

from proofs.drills import environments_drill
from proofs.staging import library_names
from rdtops.delivery import requirements

PROVEN = environments_drill.recorded()
FLOORS = requirements.lowest(requirements.of_trainer())
AGAIN = "inv drill environments   # it proves them, and writes the table"


def test_the_floors_are_the_versions_of_the_oldest_environment_that_trains() -> None:
    proven = PROVEN["oldest"]["packages"]
    assert {name: proven[name].partition("+")[0] for name in FLOORS} == FLOORS, AGAIN


@pytest.mark.parametrize("name", [versions.name for versions in environments_drill.table_of_environments()])
def test_the_trainer_uses_nothing_that_a_proven_environment_lacks(name: str) -> None:
    """A name of torch, transformers and so on that is new in the trainer was tried in no environment but this one."""
    assert sorted(set(library_names.used()) - set(PROVEN[name]["names"].split())) == [], AGAIN


def test_each_environment_has_done_what_the_drill_asks_of_it() -> None:
    for versions in environments_drill.table_of_environments():
        done = PROVEN[versions.name]["done"]
        assert len(done) == 3 + versions.has_tests
        assert ("tests of parity and bits" in done) == versions.has_tests


def test_a_name_that_is_not_there_is_seen(tmp_path) -> None:
    (tmp_path / "module.py").write_text("import torch\nimport numpy as np\nfrom torch.nn import functional\nimport os\n"
                                        "torch.optim.AdamW(weights, fused=True, fastest=True)\nnp.newest(1)\n"
                                        "functional.pad(x)\nos.nothing\nself.torch.nothing\n")
    names = library_names.used(tmp_path)
    assert names == ["numpy", "numpy.newest", "torch", "torch.nn.functional", "torch.nn.functional.pad", "torch.optim",
                     "torch.optim.AdamW", "torch.optim.AdamW(fastest)", "torch.optim.AdamW(fused)"]
    assert library_names.missing(names) == ["numpy.newest", "torch.optim.AdamW(fastest)"]


def test_the_environment_of_these_tests_is_the_newest_one() -> None:
    assert library_names.missing(library_names.used()) == []
    proven = PROVEN["newest"]["packages"]
    assert {name: importlib.metadata.version(name).partition("+")[0] for name in FLOORS} == {
        name: proven[name].partition("+")[0] for name in FLOORS}, AGAIN
