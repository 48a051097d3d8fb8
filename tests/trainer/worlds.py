"""What tests of the simulator share: they run where the extra `eval` and a GL library are, else they say why not."""

from functools import cache

import pytest

from rdtops.errors import SimulatorError
from rdtops.trainer.simulation import renderers, simulator

DRAWER = "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet"
needs_simulator = pytest.mark.simulator  # tests/conftest.py leaves these out where `missing` says why


@cache
def missing() -> str:
    try:
        simulator.require()
        renderers.choose()
    except SimulatorError as error:
        return f"{error.message}; {error.remedy}"
    return ""
