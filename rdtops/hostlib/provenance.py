"""Provenance: what a training reads, known by its content: the MD5 of each file of its data, encoders, tokenizer and
first weights. Every checkpoint keeps it as assets.json; a resume, an evaluation, a replay and `inv train --resume`
compare it with the files of today, and the caches of the trainer are named by it.

MD5 sums come from the digest cache that transfers fill, so what a deploy has sent costs a stat; other files are read
whole, once. Beginning and end of a file would be quicker, and miss a changed number in the middle of a shard. Standard
library, Python 3.8: sent with host programs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rdtops.hostlib import dataset_files, digests, fields, files, hub_cache, names, weight_files
from rdtops.hostlib.manifest import FileDigest, Manifest
from rdtops.hostlib.names import RelativePath

NAME: Final = "assets.json"
DATASET, TEXT_ENCODER, TOKENIZER, VISION_ENCODER, PRETRAINED = (
    "dataset", "text_encoder", "tokenizer", "vision_encoder", "pretrained")
ENCODERS = (TEXT_ENCODER, TOKENIZER, VISION_ENCODER)
HELD = (DATASET, *ENCODERS)  # what a resumed training reads again; its weights are those of the checkpoint
ROLES = {DATASET: "dataset", TEXT_ENCODER: "text_encoder", TOKENIZER: "text_encoder",
         VISION_ENCODER: "vision_encoder", PRETRAINED: "pretrained"}  # part -> the asset whose folder has it
SHOWN = 3  # files named of each kind of difference
# beside an encoder, and never read by it: notes, other frameworks' weights
_UNREAD = (".md", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".log")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_TOKENIZERS = ("tokenizer", "spiece.model", "special_tokens_map.json", "added_tokens.json", "vocab.", "merges.txt")


@dataclass(frozen=True)
class Provenance:
    """What was read, by part: path of a file below its folder -> MD5; '' where the MD5 is not known."""

    parts: Mapping[str, Mapping[str, str]]

    def identity(self, *parts: str) -> str:
        """Return a digest of these parts: equal exactly when their files are."""
        rows = [FileDigest(RelativePath(f"{part}/{path}"), 0, md5)
                for part in parts for path, md5 in self.parts.get(part, {}).items()]
        return Manifest(tuple(rows)).digest

    def to_json(self) -> dict[str, dict[str, str]]:
        return {part: dict(found) for part, found in self.parts.items()}

    @classmethod
    def of(cls, folders: Mapping[str, str], limit_bytes: int | None = None) -> Provenance:
        """Read the MD5 of every file of the parts in `folders` (part -> folder). With `limit_bytes`, read no more than
        that; smaller files first. Raise OSError."""
        places = {part: {path: Path(home(part, folder)) / path for path in files_of(part, folder)}
                  for part, folder in folders.items()}
        md5 = digests.remembered((place for at in places.values() for place in at.values()), limit_bytes=limit_bytes)
        return cls({part: {path: md5[place] for path, place in at.items()} for part, at in places.items()})


def read(checkpoint: str | Path) -> Provenance | None:
    """Return what a checkpoint or a run folder keeps; None where it keeps none, as before 2026-11-28. Raise ValueError
    when the file is not one."""
    try:
        stored = fields.loads(files.head_of(Path(checkpoint) / NAME, files.TABLE_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{NAME} cannot be read: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{NAME} must hold a JSON object")
    return Provenance({part: {names.relative_path(path): names.digest(md5) for path, md5 in fields.table(found).items()}
                       for part, found in stored.items() if part in ROLES})


def write(folder: str | Path, found: Provenance) -> None:
    """Write it into a folder, atomically. Raise OSError."""
    files.write_whole(Path(folder) / NAME, json.dumps(found.to_json(), indent=1) + "\n")


def folders(assets: Mapping[str, str], parts: Iterable[str]) -> dict[str, str]:
    """Return the folder of each of `parts`, of those whose asset has one in `assets` (role -> folder)."""
    return {part: assets[ROLES[part]] for part in parts if ROLES[part] in assets}


def home(part: str, folder: str) -> str:
    """Return the folder that a part is read from: `folder`, or the one that it leads to, as a hub's cache."""
    with contextlib.suppress(weight_files.UnreadableWeights):
        return folder if part == DATASET else weight_files.home(folder)
    return folder


def files_of(part: str, folder: str) -> list[RelativePath]:
    """Return the files of a part below its home, sorted; none where the folder does not exist. Raise OSError."""
    at = home(part, folder)
    if not os.path.isdir(at):
        return []
    if part == DATASET:
        return [RelativePath(path) for path in dataset_files.demonstration_files(at)]
    found = [RelativePath(name) for name in sorted(os.listdir(at)) if _counts(at, name)]
    tokenizer = [name for name in found if name.startswith(_TOKENIZERS)]
    return tokenizer if part == TOKENIZER else _with_weights(part, at, [n for n in found if n not in tokenizer])


def _with_weights(part: str, at: str, found: list[RelativePath]) -> list[RelativePath]:
    """Leave out the weight files that no loader reads because it reads others of the folder. Where it reads none of
    those that are known, every file counts."""
    try:
        used = weight_files.found(at, weight_files.NAMES if part == PRETRAINED else weight_files.OF_TRANSFORMERS)
    except weight_files.UnreadableWeights:
        return found
    rest = [name for name in found if not name.endswith((*_WEIGHTS, weight_files.INDEX))]
    return sorted({*rest, *(RelativePath(name) for name in (used.name, *used.parts))})


def difference(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return in words how the files of a part differ from those of the training; '' when none does. A file whose MD5 is
    '' is not compared."""
    changed = [path for path, md5 in then.items() if now.get(path) not in (None, "", md5)]
    gone, new = [path for path in then if path not in now], [path for path in now if path not in then]
    says = []
    if changed:
        shown = [f"{path} (MD5 {then[path][:8]} in training, {now[path][:8]} here)" for path in changed[:SHOWN]]
        says.append(f"{len(changed)} of {_files(len(then))} {_differ(changed)}: {_listed(shown, len(changed))}")
    if gone:
        says.append(f"{len(gone)} of {_files(len(then))} {'is' if len(gone) == 1 else 'are'} missing: "
                    f"{_listed(gone[:SHOWN], len(gone))}")
    if new:
        says.append(f"{len(new)} {'is' if len(new) == 1 else 'are'} new: {_listed(new[:SHOWN], len(new))}")
    return "; ".join(says)


def differences(then: Provenance, now: Provenance, parts: Iterable[str] = HELD) -> dict[str, str]:
    """Return the difference of each part that differs; of parts that both know."""
    found = {part: difference(then.parts[part], now.parts[part]) for part in parts
             if part in then.parts and part in now.parts}
    return {part: says for part, says in found.items() if says}


def words(found: Mapping[str, str], named: object) -> str:
    """Return differences (part -> words) in one line. `named` has the name of each asset as an attribute, by role."""
    return "; ".join(f"{part} {getattr(named, ROLES[part])}: {says}" for part, says in found.items())


def consent(found: Mapping[str, str], named: object) -> str:
    """Return the options by which a user says that these differences are meant, and what else to do."""
    roles = dict.fromkeys(ROLES[part] for part in found)
    options = " ".join(f"--set {role}={getattr(named, role)}" for role in roles)
    return f"{options}   # if that is meant; else put the files of the training back"


def _counts(folder: str, name: str) -> bool:
    return (not name.startswith(".") and not name.endswith(_UNREAD) and hub_cache.counts(folder, name)
            and os.path.isfile(os.path.join(folder, name)))


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _differ(found: list[str]) -> str:
    return "differs" if len(found) == 1 else "differ"


def _listed(shown: list[str], count: int) -> str:
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")
