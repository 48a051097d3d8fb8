"""Declaration: what a user says about the demonstrations, instead of detection for each file. On command lines of the
trainer's programs they are the options that rdtops.contract.config.data_options writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rdtops.contract.config import CHOICES, OF_THE_DATA, TrainConfig

AUTO = "auto"
AFTER, BEFORE = "after", "before"  # when obs[t] was taken, relative to action t
UPSIDE_DOWN, UPRIGHT, MIRRORED, TURNED = "upside_down", "upright", "mirrored", "turned"  # how images are stored
FLIPS = {  # how images are stored -> are their rows, and their columns, in reverse order
    UPRIGHT: (False, False), UPSIDE_DOWN: (True, False), MIRRORED: (False, True), TURNED: (True, True)}


@dataclass(frozen=True)
class Declared:
    """Properties of the files that the user declares. Each is the value of `--set` with the same name."""

    observed: str = AUTO  # AFTER or BEFORE
    images: str = AUTO  # one of FLIPS
    instruction: str = ""  # of every file that has none
    without: str = ""  # what is left out: NAME.hdf5 or NAME.hdf5:demo_3, separated by commas

    @classmethod
    def of(cls, train: TrainConfig) -> Declared:
        return cls(**{name: getattr(train, name) for name in OF_THE_DATA})

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of files and episodes, sorted."""
        return tuple(sorted({name.strip() for name in self.without.split(",")} - {""}))

    def episodes_left_out(self, file: str) -> frozenset[str]:
        """Return the names of the episodes of a file that are left out."""
        return frozenset(name[len(file) + 1:] for name in self.left_out if name.startswith(f"{file}:"))


FOUND_OUT = Declared()


def add_options(parser: Any) -> None:
    """Add the OF_THE_DATA options to an ArgumentParser."""
    parser.add_argument("--observed", default=AUTO, choices=CHOICES["observed"])
    parser.add_argument("--images", default=AUTO, choices=CHOICES["images"])
    parser.add_argument("--instruction", default="", help="of every file that has none")
    parser.add_argument("--without", default="", metavar="NAMES",
                        help="files (NAME.hdf5) and episodes (NAME.hdf5:demo_3) to leave out, separated by commas")


def from_options(options: Any) -> Declared:
    return Declared(**{name: getattr(options, name) for name in OF_THE_DATA})
