"""Recovery: when the supervisor restarts a training, and how long it waits. Light to import."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from rdtops.errors import ConfigError


@dataclass(frozen=True)
class Recovery:
    """The settings of `[hosts.NAME.recovery]` in hosts.toml, and of `python -m rdtops.supervisor` as `key=value`."""

    restarts: int = 5  # in a row, without a new checkpoint in between; 0: none
    backoff_s: float = 10.0  # before a restart; doubled for each one in a row
    backoff_max_s: float = 600.0
    stuck_times: float = 20.0  # a rank is stuck when the Journal gains nothing for this many median steps,
    stuck_floor_s: float = 300.0  # and at least so long
    setup_limit_s: float = 7200.0  # the same before the first step, for Journal and log
    grace_s: float = 120.0  # for ranks to save when their launcher is gone

    def __post_init__(self) -> None:
        wrong = [f.name for f in fields(self) if not _is_number(getattr(self, f.name))]
        if wrong:
            raise ConfigError(f"recovery: {', '.join(wrong)}: must be numbers, not negative")

    def words(self) -> list[str]:
        return [f"{f.name}={getattr(self, f.name):g}" for f in fields(self)]

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Recovery:
        known = {f.name: f for f in fields(cls)}
        values: dict[str, float] = {}
        for word in words:
            name, _, text = word.partition("=")
            if name not in known:
                raise ConfigError(f"recovery: unknown setting {name!r}; settings: {', '.join(known)}")
            try:
                values[name] = int(text) if known[name].type == "int" else float(text)
            except ValueError as error:
                raise ConfigError(f"recovery: {word}: {text!r} is not a number") from error
        return cls(**values)  # type: ignore[arg-type]

    def backoff(self, in_a_row: int) -> float:
        """Return the seconds before a restart; `in_a_row` is 1 for the first."""
        return min(self.backoff_max_s, self.backoff_s * 2.0 ** min(in_a_row - 1, 30))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
