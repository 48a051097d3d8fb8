"""Sentences: the instruction of a file of demonstrations, and where it was found.

The file's own comes first: problem_info.language_instruction, as LIBERO writes it, or the attribute of that name.
A file without gets that of a file beside it, NAME.txt or instructions.json (a table NAME -> sentence, with or without
.hdf5), then that of `--set instruction=`, then that of the LIBERO task whose name it bears.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import h5py

from rdtops.errors import DataError
from rdtops.hostlib import fields, files
from rdtops.hostlib.names import quoted
from rdtops.trainer.data.hdf5 import text_attribute

BESIDE = "instructions.json"
_SCENE = re.compile(r"(?:libero_\w+?[_-])?(?:[A-Z]+_)+SCENE\d+_([a-z][a-z0-9_]+?)_demo")
_SUITE = re.compile(r"(?:libero_(?:10|90|100|goal|object|spatial)[_-]+)?([a-z][a-z0-9_]+?)_demo")
_VERBS = ("close", "open", "pick", "place", "push", "put", "stack", "turn")  # with which LIBERO's tasks begin
_SHORTEST = 3  # words of a task: "open the drawer"


def sentence_of(file: h5py.File, path: Path, name: str, declared: str) -> tuple[str, str]:
    """Return the instruction of a file, and where it was found, for people: '' for the file's own. `declared`: that of
    `--set instruction=`. Raise DataError where there is none."""
    own = _own(file, name)
    if own:
        return own, _passed_over(own, path, name)
    beside, where = _beside(path, name)
    silent = f" ({BESIDE} does not name the file)" if where == BESIDE and not beside else ""
    for text, source in ((beside, where), (declared, "--set instruction="),
                         (task_sentence(path.stem), f"the task in the file's name{silent}")):
        if text.strip():
            return tidied(text, f"{name}: the instruction from {source}"), f"instruction from {source}"
    raise DataError(f"{name}: attribute problem_info has no language_instruction, and there is no other instruction",
                    remedy=f"--set instruction='close the drawer'   # or a file {path.stem}.txt beside it, or {BESIDE}")


def task_sentence(stem: str) -> str:
    """Return the instruction of the LIBERO task that a file is named after, as LIBERO derives it; '' for other names.

    >>> task_sentence("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet_demo")
    'close the top drawer of the cabinet'
    >>> task_sentence("put_the_bowl_on_the_plate_demo"), task_sentence("my_first_task_demo")
    ('put the bowl on the plate', '')
    """
    if found := _SCENE.fullmatch(stem):
        return found[1].replace("_", " ")
    found = _SUITE.fullmatch(stem)
    words = found[1].split("_") if found else []
    return " ".join(words) if len(words) >= _SHORTEST and words[0] in _VERBS else ""


def _own(file: h5py.File, name: str) -> str:
    """Return the file's own instruction, '' where it has none. Raise DataError for one of another form."""
    data = file["data"]
    if stated := text_attribute(data, "problem_info", name):
        try:
            info = fields.loads(stated)
        except ValueError as error:
            raise DataError(f"{name}: attribute problem_info is no JSON: {error}") from error
        if fields.table(info).get("language_instruction") is not None:
            return _text(info["language_instruction"], name)
    for owner in (data, file):
        if stated := text_attribute(owner, "language_instruction", name):
            return _text(stated, name)
    return ""


def _text(stated: object, name: str) -> str:
    """Return an instruction from a string, or a list of words."""
    words: list[Any] = stated if isinstance(stated, list) else [stated]
    if not all(isinstance(word, str) for word in words):
        raise DataError(f"{name}: language_instruction must be a string or a list of words: {stated!r:.80}")
    is_spelt = len(words) > 1 and all(len(word) == 1 for word in words)  # list("close the drawer")
    return tidied(("" if is_spelt else " ").join(words), f"{name}: language_instruction")


def tidied(text: str, where: str) -> str:
    """Return a sentence without the quotes around it, which LIBERO's own reader takes off, and with single spaces."""
    sentence = " ".join(text.split())
    if len(sentence) > 1 and sentence[0] == sentence[-1] and sentence[0] in "\"'":
        sentence = sentence[1:-1].strip()
    if not sentence.isprintable():
        raise DataError(f"{where} has characters that are no text: {quoted(sentence)}", remedy="write it as UTF-8")
    return sentence


def _passed_over(own: str, path: Path, name: str) -> str:
    """Return a remark where a file beside has another instruction than the file's own; '' where none has."""
    with contextlib.suppress(DataError):
        beside, where = _beside(path, name)
        if beside and tidied(beside, where) != own:
            return f"instruction from the file itself, not the other one from {where}"
    return ""


def _beside(path: Path, name: str) -> tuple[str, str]:
    """Return the instruction in a file beside, and that file's name; '' for what is not there."""
    text = path.with_suffix(".txt")
    if text.is_file():
        try:
            sentence = files.head_of(text).decode("utf-8-sig").strip()
        except (OSError, ValueError) as error:
            raise DataError(f"{name}: {text.name} cannot be read as UTF-8 text: {error}",
                            remedy=f"write the instruction into {text} as UTF-8") from error
        if not sentence or "\n" in sentence:
            raise DataError(f"{name}: {text.name} must hold the instruction in one line",
                            remedy=f"write the instruction into {text}")
        return sentence, text.name
    table = path.with_name(BESIDE)
    if table.is_file():
        try:
            stated = fields.loads(files.head_of(table))
        except (OSError, ValueError) as error:
            raise DataError(f"{name}: {BESIDE} cannot be read: {error}") from error
        found = next((fields.table(stated)[key] for key in (path.name, path.stem) if key in fields.table(stated)), "")
        if not isinstance(found, str) or not isinstance(stated, dict):
            raise DataError(f"{name}: {BESIDE} must be a table of file name -> sentence: {found or stated!r:.80}")
        return found, BESIDE
    return "", ""
