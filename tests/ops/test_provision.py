"""What `inv deploy --env` would install."""

import re

from rdtops.ops import provision
from rdtops.remote.hosts import Environment


def test_the_trainer_s_requirements_are_pinned_by_the_tested_versions():
    found = provision.recipe(Environment())
    names = {re.split("[<>=]", line)[0] for line in found.requirements}
    assert {"torch", "accelerate", "transformers", "h5py"} <= names
    assert "wandb" not in names
    assert any(line.startswith("accelerate==") for line in found.constraints)
    assert any(line.startswith("wandb") for line in provision.recipe(Environment(), "wandb").requirements)


def test_what_the_host_declares_comes_first_and_is_not_held_to_our_pins():
    found = provision.recipe(Environment(requirements=("Torch==2.8.0+cu126", "flash-attn"),
                                         index_url="https://u:secret@index.example"))
    assert [line for line in found.requirements if line.lower().startswith("torch")] == ["Torch==2.8.0+cu126"]
    assert "flash-attn" in found.requirements
    assert not [line for line in found.constraints if line.startswith("torch==")]
    assert "secret" not in "".join([*found.requirements, *found.constraints])
    assert found.variables["PIP_INDEX_URL"] == "https://u:secret@index.example"


def test_an_environment_is_the_same_whatever_the_order_and_the_index():
    one = provision.Recipe(("a", "b"), ("c==1",), {})
    assert one.digest("3.11") == provision.Recipe(("b", "a"), ("c==1",), {"PIP_INDEX_URL": "x"}).digest("3.11")
    assert one.digest("3.11") != one.digest("3.12")
    assert one.digest("3.11") != provision.Recipe(("a", "b"), ("c==2",), {}).digest("3.11")


def test_wheels_for_an_older_glibc_are_taken_and_for_a_newer_one_not():
    words = provision._platforms({"machine": "x86_64", "glibc": "2.28"})
    assert "manylinux_2_28_x86_64" in words
    assert "manylinux2014_x86_64" in words
    assert "manylinux_2_31_x86_64" not in words
