"""The fixtures of the trainer's tests: its tiny assets, and LIBERO's world."""

from tests.trainer.conftest import assets as assets
from tests.trainer.conftest import world as world
