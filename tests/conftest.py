"""Under CI=true nothing of the lab may be left out silently: a skipped lab test is a failed one. LIBERO's simulator is
no part of it: the tests say that it is not installed."""

import importlib.util
import os

import pytest
from hypothesis import settings

from rdtops.plugging import registry

settings.register_profile("shared machine", deadline=None)  # how long an example takes tells how busy the machine is
settings.load_profile("shared machine")
pytest_plugins = ["rdtops.testing.fixtures"]
LONGEST = ("tests/lab/", "tests/trainer/")


@pytest.fixture(autouse=True)
def plugins_are_loaded_for_each_test():
    """A process loads its plugins once; here each test is a process of its own, with plugins of its own."""
    registry._loaded.cache_clear()


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
