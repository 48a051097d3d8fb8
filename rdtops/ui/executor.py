"""Executor: in `inv deploy check train --host a800` all three tasks act on a800.

Invoke gives an option to the last task only. Here every task of the chain that has an option of SHARED without a value
gets the value of another task. All tasks but the last show lines, not the dashboard, which a user would have to close.
Imported at every start: nothing heavy here.
"""

from __future__ import annotations

from typing import Any

from invoke import Call, Executor, Exit

SHARED = ("host", "preset", "set_", "from_scratch")


class ChainExecutor(Executor):
    """Invoke's executor with options that tasks share."""

    def normalize(self, tasks: Any) -> list[Call]:
        calls: list[Call] = super().normalize(tasks)
        for option in SHARED:
            _share(option, calls)
        for call in calls[:-1]:
            if "plain" in call.task.argspec(call.task.body).parameters:
                call.kwargs["plain"] = True
        return calls


def _share(option: str, calls: list[Call]) -> None:
    knowing = [c for c in calls if option in c.task.argspec(c.task.body).parameters]
    given = {_key(c.kwargs[option]): c.kwargs[option] for c in knowing if c.kwargs.get(option)}
    if len(given) > 1:
        values = " and ".join(f"--{option.strip('_').replace('_', '-')} {key}" for key in given)
        raise Exit(f"{values} in one chain of tasks: give it once, or run the tasks one by one", code=2)
    for call in knowing:
        if given and not call.kwargs.get(option):
            call.kwargs[option] = next(iter(given.values()))


def _key(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
