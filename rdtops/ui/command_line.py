"""Command line: what Invoke reads of it, and `inv --list`.

A run may be a plain word (`inv why 34c8`), a misspelt word is answered with the nearest one, a wrong command line has
exit code 2, and tasks are listed in groups. `inv` makes Invoke's own program before it reads tasks.py, so `adopt` puts
these parts into the class of that. Imported at every start: nothing heavy here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import invoke
from invoke import Exit, Program
from invoke.exceptions import ParseError
from invoke.parser import Parser, ParseResult
from invoke.parser.context import ParserContext

RUN = "--run"  # the option that a plain word stands for
CLOSE = 0.75  # a word so much like a task's name, without a digit, is a misspelt task and no part of a run id

Groups = Mapping[str, Sequence["invoke.Task[Any] | str"]]  # title -> tasks and names of collections, in order


def adopt(namespace: invoke.Collection, groups: Groups, brief: Sequence[str] = ()) -> None:
    """Let Invoke's program read and list the tasks as `GroupedProgram` does. Groups of `brief` are listed by name
    alone."""
    names = {task: name for name, task in namespace.tasks.items()}
    GroupedProgram.groups = {title: [task if isinstance(task, str) else names[task] for task in listed]
                             for title, listed in groups.items()}
    GroupedProgram.brief = brief
    for part in ("groups", "brief", "_make_parser", "list_flat", "no_tasks_given"):
        setattr(Program, part, vars(GroupedProgram)[part])


class GroupedProgram(Program):
    groups: Mapping[str, Sequence[str]] = {}
    brief: Sequence[str] = ()

    def _make_parser(self) -> Parser:
        return ChainParser(initial=self.initial_context, contexts=self.collection.to_contexts())

    def no_tasks_given(self) -> None:
        """Show what there is."""
        self.scoped_collection, self.list_root = self.collection, None
        self.list_flat()
        raise Exit

    def list_flat(self) -> None:
        """Print the tasks by group, each in one line."""
        from shutil import get_terminal_size
        from textwrap import fill

        pairs = self._make_pairs(self.scoped_collection)
        if self.list_root:
            self.display_with_columns(pairs=pairs)
            return
        helps = {name.partition(" ")[0]: help_ or "" for name, help_ in pairs}  # without aliases
        wide, columns = max(map(len, helps)), get_terminal_size((100, 24)).columns
        lines = []
        for title, listed in self.groups.items():
            names = [full for name in listed for full in helps if full == name or full.startswith(f"{name}.")]
            lines += [title, fill("  ".join(names), columns, initial_indent="  ", subsequent_indent="  ")
                      if title in self.brief else
                      "\n".join(f"  {name:<{wide}}  {_short(helps[name], columns - wide - 4)}" for name in names)]
        sys.stdout.write("\n".join([*lines, "inv --help TASK shows its options\n"]))


class ChainParser(Parser):
    """Invoke's parser of a chain of tasks."""

    def parse_argv(self, argv: list[str]) -> ParseResult:
        """Parse the tasks. Raise Exit with code 2 where the words are none that can be meant."""
        try:
            return super().parse_argv(list(self._read(argv)))
        except ParseError as error:
            raise Exit(f"error: {error}", code=2) from error

    def _read(self, argv: Sequence[str]) -> Iterator[str]:
        """Yield the words, a plain run as `--run=RUN`. Raise Exit for a word that is not known."""
        task = _Task(None)
        words = iter(argv)
        for word in words:
            if word == "--":
                yield word
                yield from words
                return
            if word.startswith("-"):
                name, equals, value = word.partition("=")
                option = self._option(task, name)
                yield word
                if option.takes_value and not option.optional:
                    value = task.value(name, option, value if equals else next(words, None))
                    if not equals:
                        yield value
            elif task.wants_word:
                task.words += 1
                yield word
            elif word in self.contexts:
                task = _Task(self.contexts[word])
                yield word
            elif task.takes_run and not self._is_misspelt(word):
                task.seen.add(RUN)
                yield f"{RUN}={word}"
            else:
                raise _wrong(f"there is no task {word!r}{_nearest(word, self._names())}", "inv --list")

    def _option(self, task: _Task, name: str) -> Any:
        for known in (task.flags, self.initial.flags if self.initial else {}):
            if name in known:
                return known[name]
        raise task.wrong(f"there is no option {name}{_nearest(name, task.flags)}")

    def _is_misspelt(self, word: str) -> bool:
        return not any(c.isdigit() for c in word) and bool(_close(word, self._names(), CLOSE))

    def _names(self) -> list[str]:
        return [name for context in self.contexts.values() for name in (context.name, *context.aliases)]


class _Task:
    """A task of the chain, and what it has been given so far."""

    def __init__(self, context: ParserContext | None) -> None:
        self.name = context.name if context else ""
        self.flags: dict[str, Any] = {}
        if context:
            self.flags = {**context.flags, **dict.fromkeys(context.inverse_flags, _Switch)}
        self.wanted_words = len(context.positional_args) if context else 0
        self.words = 0
        self.seen: set[str] = set()

    @property
    def wants_word(self) -> bool:
        return self.words < self.wanted_words

    @property
    def takes_run(self) -> bool:
        return RUN in self.flags and RUN not in self.seen

    def value(self, name: str, option: Any, value: str | None) -> str:
        """Return the value of an option. Raise Exit when it has none, has one already, or is of the wrong kind."""
        if name in self.seen and option.kind is not list:
            raise self.wrong(f"{name} is given twice")
        self.seen.add(name)
        if value is None:
            raise self.wrong(f"{name} needs a value")
        try:
            if option.kind in (int, float):
                option.kind(value)
        except ValueError:
            raise self.wrong(f"{name} {value}: not {'an integer' if option.kind is int else 'a number'}") from None
        return value

    def wrong(self, what: str) -> Exit:
        where = f"inv {self.name}".rstrip()
        return _wrong(f"{where}: {what}", f"{where} --help")


class _Switch:
    """An option without a value."""

    takes_value = optional = False


def _wrong(what: str, remedy: str) -> Exit:
    return Exit(f"error: {what}\n-> {remedy}", code=2)


def _short(help_: str, columns: int) -> str:
    """Return the first sentence of a help line, cut between words where it is too long."""
    sentence = help_.partition(". ")[0].removesuffix(".")
    if len(sentence) <= columns:
        return sentence
    return sentence[:columns - 3].rpartition(" ")[0].rstrip(",:;") + "..."


def _nearest(word: str, known: Iterable[str]) -> str:
    close = _close(word, known, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _close(word: str, known: Iterable[str], cutoff: float) -> list[str]:
    """Return the one known word that is nearest, if it is near: of those nearly as near the one with the same
    letters."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 3, cutoff)
    return [*(other for other in near if sorted(other) == sorted(word)), *near][:1]
