"""Under CI=true nothing of the lab may be left out silently: a skipped lab test is a failed one."""

import os

import pytest

pytest_plugins = ["rdtops.testing.fixtures"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and item.get_closest_marker("lab"):
        report.outcome = "failed"
        report.longrepr = f"a lab test was skipped under CI=true: {report.longrepr}"
    return report
