"""Executor: in `inv deploy check train --host a800` all three tasks act on a800.

Invoke gives an option to one task only. Here every task of the chain that has an option of SHARED gets the value that
another task was given; a promise of the whole line, such as --dry-run, is refused with a task that cannot keep it. All
tasks but the last show lines, not the dashboard, which a user would have to close.
Imported at every start: nothing heavy here.
"""

from __future__ import annotations

from typing import Any

from invoke import Call, Executor, Exit

SHARED = ("host", "preset", "set_", "from_scratch", "run", "checkpoint", "into", "device", "dry_run", "json_")
PROMISES = {  # option -> what a task without it would do, and the tasks that keep the promise anyway
    "dry_run": ("would act", ("hosts", "check", "status", "logs", "why", "gpu", "checkpoints")),
    "json_": ("prints no JSON", ())}


class ChainExecutor(Executor):
    """Invoke's executor with options that tasks share."""

    def normalize(self, tasks: Any) -> list[Call]:
        calls: list[Call] = super().normalize(tasks)
        for option in SHARED:
            _share(option, calls)
        for call in calls[:-1]:
            if "plain" in _defaults(call):
                call.kwargs["plain"] = True
        return calls


def _share(option: str, calls: list[Call]) -> None:
    knowing = [c for c in calls if option in _defaults(c)]
    given = {_key(c.kwargs[option]): c.kwargs[option] for c in knowing if _is_given(option, c)}
    if len(given) > 1:
        values = " and ".join(f"{_typed(option)} {key}" for key in given)
        raise Exit(f"error: {values} in one chain of tasks: give it once, or run the tasks one by one", code=2)
    if not given:
        return
    _refuse_broken_promise(option, [c for c in calls if c not in knowing])
    for call in knowing:
        call.kwargs[option] = next(iter(given.values()))


def _refuse_broken_promise(option: str, others: list[Call]) -> None:
    if option not in PROMISES:
        return
    what, exempt = PROMISES[option]
    if broken := [c.called_as or c.task.name for c in others if c.task.name not in exempt]:
        raise Exit(f"error: {_typed(option)}: `inv {broken[0]}` has no such option and {what}: run it on its own",
                   code=2)


def _is_given(option: str, call: Call) -> bool:
    """Tell whether a task was given an option: it then has another value than the default."""
    value = call.kwargs.get(option)
    return bool(value) and value != _defaults(call)[option]


def _defaults(call: Call) -> dict[str, Any]:
    """Return the options of a task, each with its default."""
    return {name: one.default for name, one in call.task.argspec(call.task.body).parameters.items()}


def _typed(option: str) -> str:
    return "--" + option.strip("_").replace("_", "-")


def _key(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
