"""Under CI=true nothing of the lab may be left out silently: a skipped lab test is a failed one. LIBERO's simulator is
no part of it: the tests say that it is not installed.

`python -m pytest -m gpu` and `python -m pytest tests/trainer` also run on a GPU host, which has the trainer's packages
and pytest: what needs a package of the laptop is skipped there, with the package's name.
"""

import importlib
import importlib.util
import os

import pytest

# of pyproject.toml, what a GPU host has no use for
OF_THE_LAPTOP = ("asyncssh", "cryptography", "fabric", "hypothesis", "invoke", "jinja2", "paramiko", "pydantic",
                 "pytest_timeout", "rich", "textual")
LONGEST = ("tests/lab/", "tests/trainer/")


def is_missing(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except ModuleNotFoundError:
        return True


ON_A_LAPTOP = not is_missing("fabric")
pytest_plugins = ["rdtops.testing.fixtures"] if ON_A_LAPTOP else []
collect_ignore = [] if ON_A_LAPTOP else ["lab", "plugins"]  # whose conftest.py needs it
if not is_missing("hypothesis"):
    from hypothesis import settings

    settings.register_profile("shared machine", deadline=None)  # how long an example takes tells how busy it is
    settings.load_profile("shared machine")


def pytest_addoption(parser):
    if is_missing("pytest_timeout"):  # pyproject.toml sets its option, and an unknown one is an error
        parser.addini("timeout", "of pytest-timeout, which is not installed")


def pytest_configure(config):
    if is_missing("pytest_timeout"):
        config.addinivalue_line("markers", "timeout: of pytest-timeout, which is not installed")


@pytest.fixture(autouse=True)
def plugins_are_loaded_for_each_test():
    """A process loads its plugins once; here each test is a process of its own, with plugins of its own."""
    if ON_A_LAPTOP:
        importlib.import_module("rdtops.plugging.registry")._loaded.cache_clear()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    error = report.call.excinfo.value if report.failed else None
    while error and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if package in OF_THE_LAPTOP and is_missing(package):
        report.outcome = "skipped"
        reason = f"{package} is not installed; these tests need the laptop's packages"
        report.longrepr = (str(collector.path), 1, f"Skipped: {reason}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    is_of_the_lab = item.get_closest_marker("lab") and not item.get_closest_marker("simulator")
    if report.skipped and os.environ.get("CI") == "true" and is_of_the_lab:
        report.outcome = "failed"
        report.longrepr = f"a lab test was skipped under CI=true: {report.longrepr}"
    return report


def pytest_runtest_setup(item):
    if item.get_closest_marker("simulator") and importlib.util.find_spec("tests"):
        from tests.trainer import worlds  # imported here: it takes what the trainer's packages take

        if worlds.missing():
            pytest.skip(worlds.missing())


def pytest_collection_modifyitems(config, items):
    """Side by side what takes longest begins first; a long file that began last would be waited for."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [not item.nodeid.startswith(folder) for folder in LONGEST])
