"""What `inv deploy --env` shows of pip, recorded."""

from __future__ import annotations

import pytest

from rdtops.delivery.build_steps import BuildStep, step_of

PIP = {  # lines of pip 23.2 and 24.0, as they were printed
    "Looking in indexes: https://mirror.example/simple": "asking the index",
    "Collecting torch==2.6.0 (from -r requirements.txt (line 1))": "looking for torch==2.6.0",
    "  Obtaining dependency information for torch==2.6.0 from https://files.example/torch.metadata":
        "looking for torch==2.6.0",
    "  Downloading torch-2.6.0-cp311-cp311-manylinux1_x86_64.whl (766.7 MB)": "downloading torch 2.6.0 (766.7 MB)",
    "  Downloading https://download.pytorch.org/whl/cu118/torch-2.6.0%2Bcu118-cp311-cp311-linux_x86_64.whl (848.7 MB)":
        "downloading torch 2.6.0+cu118 (848.7 MB)",
    "Downloading https://u.example/nvidia_cublas_cu12-12.4.5.8-py3-none-manylinux2014_x86_64.whl?token=hush (363.4 MB)":
        "downloading nvidia_cublas_cu12 12.4.5.8 (363.4 MB)",
    "  Using cached sympy-1.13.1-py3-none-any.whl (6.2 MB)": "taking sympy 1.13.1 (6.2 MB)",
    "  Downloading antlr4-python3-runtime-4.9.3.tar.gz (117 kB)": "downloading antlr4-python3-runtime 4.9.3 (117 kB)",
    "  Preparing metadata (setup.py): started": "downloading antlr4-python3-runtime 4.9.3 (117 kB)",
    "Building wheels for collected packages: antlr4-python3-runtime": "building antlr4-python3-runtime",
    "Installing collected packages: mpmath, sympy, torch": "installing 3 packages",
    "Successfully installed mpmath-1.3.0 sympy-1.13.1 torch-2.6.0": "installing 3 packages"}


def test_the_lines_of_pip_become_one_line():
    step, shown = step_of("venv", "", None, 0.0), []
    for seconds, line in enumerate(["", *PIP]):
        step = step_of("pip", line, step, seconds)
        shown.append(step.words)
    assert shown[1:] == list(PIP.values())
    assert step == BuildStep("install", "installing 3 packages", len(PIP))
    assert "hush" not in "".join(shown)
    assert str(step) == f"installing 3 packages, {len(PIP)} s"


@pytest.mark.parametrize(("name", "line", "words"), [
    ("look", "", "looking at the driver and the Python"), ("venv", "", "making the venv"),
    ("import", "torch", "importing torch"), ("import", "", "importing"), ("new", "x", "new")])
def test_each_step_has_words_also_one_of_a_host_that_is_newer(name, line, words):
    assert step_of(name, line, None, 1.0).words == words


def test_an_import_names_each_module():
    first = step_of("import", "torch", None, 1.0)
    assert step_of("import", "transformers", first, 2.0).words == "importing transformers"
