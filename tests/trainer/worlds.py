"""What tests of the simulator share: they run where the extra `eval` and a GL library are, else they say why not."""

import pytest

from rdtops.errors import SimulatorError
from rdtops.trainer.simulation import simulator

DRAWER = "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet"


def missing():
    try:
        simulator.require()
        simulator._renderer()
    except SimulatorError as error:
        return f"{error.message}; {error.remedy}"
    return ""


needs_simulator = pytest.mark.skipif(bool(missing()), reason=missing())
