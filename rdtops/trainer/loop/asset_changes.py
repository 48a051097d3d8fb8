"""Asset changes: a checkpoint keeps which files it was trained on. What goes on from it or measures it reads the same
files, or those that the user said are meant (`--set dataset=NAME` at that resume; `accept_changed` in config.json).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rdtops.contract.config import accepted_roles
from rdtops.contract.journal import Journal
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError, WeightsError
from rdtops.hostlib import digests, fields, provenance
from rdtops.hostlib.provenance import Provenance
from rdtops.trainer.data import libero

log = logging.getLogger("rdtops.trainer")
_LARGE_BYTES = 2 << 30
UNKNOWN = "which files it was trained on is not known: it was saved before checkpoints kept that"


def of_training(spec: RunSpec, dataset: libero.Dataset, resumed: Path | None) -> Provenance:
    """Return what a training reads: the files of `dataset`, the encoders, and the first weights, which a resumed
    training knows from its checkpoint. Raise OSError."""
    first = () if resumed else (provenance.PRETRAINED,)
    parts = {provenance.DATASET: dataset.md5, **_read(spec.assets, (*provenance.ENCODERS, *first)).parts}
    before = recorded(resumed) if resumed else None
    if before and provenance.PRETRAINED in before.parts:
        parts[provenance.PRETRAINED] = before.parts[provenance.PRETRAINED]
    return Provenance(parts)


def of_encoders(assets: Mapping[str, str]) -> Provenance:
    """Return the files of both encoders and the tokenizer. Raise OSError."""
    return _read(assets, provenance.ENCODERS)


def recorded(checkpoint: Path) -> Provenance | None:
    """Return what a checkpoint was trained on; None for one that was saved before 2026-11-28. Raise WeightsError."""
    try:
        return provenance.read(checkpoint)
    except ValueError as error:
        raise WeightsError(f"{checkpoint}: {error}", remedy="inv checkpoints --verify") from error


def check_resume(spec: RunSpec, checkpoint: Path, now: Provenance, warn: Callable[..., None]) -> None:
    """Compare what a training goes on with and what its checkpoint was trained on. Warn of what is accepted; raise
    ConfigError for the rest. What is accepted is the content that lay there when the launch began: a restart of the
    same launch that finds yet other files is refused."""
    then = recorded(checkpoint)
    if then is None:
        warn(f"{checkpoint.name}: {UNKNOWN}")
        return
    found = provenance.differences(then, now)
    meant = accepted_parts(spec.train.accept_changed)
    before = _accepted_in_this_launch(spec) if meant and found else None
    if before is not None:
        meant = [part for part in meant if before.get(part) == now.identity(part)]
    refuse(spec.train, checkpoint, {part: says for part, says in found.items() if part not in meant},
           "inv train --resume RUN")
    if found:
        warn(f"resumed from {checkpoint.name} with other files, as accepted: {provenance.words(found, spec.train)}",
             accepted={part: now.identity(part) for part in found})


def refuse(named: object, checkpoint: Path, found: Mapping[str, str], command: str) -> None:
    """Raise ConfigError where there are differences (part -> words). `named`: as for `provenance.words`."""
    if found:
        raise ConfigError(f"{checkpoint.name} was trained on other files than those here: "
                          f"{provenance.words(found, named)}", remedy=f"{command} {provenance.consent(found, named)}")


def accepted_parts(accept_changed: str) -> list[str]:
    roles = accepted_roles(accept_changed)
    return [part for part in provenance.HELD if provenance.ROLES[part] in roles]


def _accepted_in_this_launch(spec: RunSpec) -> Mapping[str, object] | None:
    """Return part -> identity of what this launch has accepted already; None where it has accepted nothing yet."""
    found = None
    for event in Journal(Path(spec.paths.journal)).events():
        if event.kind == "launched":
            found = None
        elif event.kind == "warning" and "accepted" in event.data:
            found = fields.table(event.data["accepted"])
    return found


def _read(assets: Mapping[str, str], parts: Iterable[str]) -> Provenance:
    folders = provenance.folders(assets, parts)
    _announce([Path(folder) / path for part, folder in folders.items() for path in provenance.files_of(part, folder)])
    return Provenance.of(folders)


def _announce(paths: list[Path]) -> None:
    """Say it before minutes of reading."""
    known = digests.known(paths)
    size_bytes = sum(path.stat().st_size for path in paths if path not in known)
    if size_bytes > _LARGE_BYTES:
        log.info("reading %.1f GB of encoders and weights for their MD5, once", size_bytes / 1e9)
