"""Verify checkpoints on the host, copy them elsewhere, delete old ones: each only where hosts.toml enables it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rdtops.api import (
    Checkpoint,
    CheckResult,
    Command,
    Connection,
    Host,
    Option,
    Output,
    Probe,
    RdtopsError,
    Retention,
    RunSpec,
    ask,
    download,
    fields,
    hookimpl,
    manifest,
    names,
    plan_download,
)

from . import guard_on_host

API_VERSION = 1
NAME = "checkpoint_guard"
OPTIONS = {
    "verify": Option(bool, "read every byte of each on the host, as md5 also does; prune always does", False),
    "copy_to_folder": Option(str, "a folder on the host, such as one on another file system, for a copy of each",
                             pattern="[/~].*"),
    "copy_to_laptop": Option(str, "a folder on this laptop, such as results, for a copy, as by fetch-results"),
    "prune": Option(bool, "delete checkpoints of the run that no keep_ option keeps", False),
    "keep_last": Option(int, "how many of the newest are kept", 3, least=1),
    "keep_every_steps": Option(int, "also keep those whose step is a multiple of this; 0: none", 0, least=0),
    "keep_best": Option(int, "how many with the lowest validation loss are kept", 1, least=1),
}
TIME_LIMIT_S = {"after_checkpoint": 12 * 3600}  # a checkpoint of rdt-1b over a slow line
READ_BYTES_PER_S = 20e6  # a slow network disk


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec,
                    options: Mapping[str, Any]) -> CheckResult | None:
    folder = options["copy_to_folder"]
    if not folder:
        return CheckResult.ok(NAME, policy(options)) if _has_work(options) else None
    path = connection.absolute(folder)
    table = f"edit copy_to_folder under [hosts.{host.name}.plugins.checkpoint_guard] in hosts.toml"
    if PurePosixPath(path).is_relative_to(spec.paths.root.parent):
        return CheckResult.fail(NAME, f"{folder} is inside the runs folder; copies must be outside it", "", table)
    writable = ask(connection, [probe(path)])["writable"]
    if writable.value is None:
        return CheckResult.warn(NAME, f"not known whether {folder} is writable", writable.problem, table)
    if not writable.value:
        return CheckResult.fail(NAME, f"{folder} is not writable on the host", "", table)
    return CheckResult.ok(NAME, policy(options))


@hookimpl(trylast=True)  # after other plugins: this one may delete the checkpoint
def after_checkpoint(connection: Connection, run: RunSpec, checkpoint: Checkpoint,
                     options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Verify, copy, prune: each only when the step before it succeeded."""
    if not _has_work(options):
        return None
    record: dict[str, Any] = {}
    if options["verify"] or options["prune"]:
        verify(connection, checkpoint)
        record["verified"] = True
    record |= copy(connection, run, checkpoint, options)
    if options["prune"]:
        record |= prune(connection, run, checkpoint, options)
    return record


def policy(options: Mapping[str, Any]) -> str:
    parts = ["verifies"] if options["verify"] else []
    parts += [f"copies to {options[way]}" for way in ("copy_to_folder", "copy_to_laptop") if options[way]]
    if options["prune"]:
        every = f", every {options['keep_every_steps']} steps" if options["keep_every_steps"] else ""
        parts.append(f"keeps the last {options['keep_last']}{every}, the best {options['keep_best']}; deletes the rest")
    return "; ".join(parts)


def verify(connection: Connection, checkpoint: Checkpoint) -> None:
    """Compare every byte on the host with the manifest, and the manifest with the Journal. Raises RdtopsError."""
    wrong = _there(connection, checkpoint.size_bytes, op="wrong", folder=checkpoint.path, digest=checkpoint.digest)
    if wrong:
        raise RdtopsError(f"{checkpoint.name}: {'; '.join(wrong[:3])}: not what the trainer wrote",
                          remedy=f"inv checkpoints --host {connection.host.name}   # resume from an earlier one")


def copy(connection: Connection, run: RunSpec, checkpoint: Checkpoint, options: Mapping[str, Any]) -> dict[str, Any]:
    """Make verified copies where the options request them; an existing copy is verified again."""
    record = {}
    if options["copy_to_folder"]:
        target = str(PurePosixPath(connection.absolute(options["copy_to_folder"])) / run.run_id / checkpoint.name)
        problem = _there(connection, 3 * checkpoint.size_bytes, op="copy", folder=checkpoint.path, target=target,
                         digest=checkpoint.digest)
        if problem:
            raise RdtopsError(f"{checkpoint.name} was not copied to {target}: {problem}",
                              remedy=f"df -h {options['copy_to_folder']}   # on {connection.host.name}")
        record["copied"] = target
    if options["copy_to_laptop"]:
        target_here = (Path(options["copy_to_laptop"]).expanduser() / Path(connection.host.name) / run.run_id
                       / "checkpoints" / checkpoint.name)
        _download(connection, checkpoint, target_here)
        record["downloaded"] = str(target_here)
    return record


def prune(connection: Connection, run: RunSpec, newest: Checkpoint, options: Mapping[str, Any]) -> dict[str, Any]:
    """Delete checkpoints that no option keeps: only when `newest`, which was verified, is the newest one, so that a
    resume uses it; never one that a process has open; with copies enabled, only one with a verified copy."""
    answer = _there(connection, 0, op="list", folder=str(run.paths.checkpoints))
    found = sorted((_listed(run, row) for row in fields.rows(answer)), key=lambda c: c.step)
    if not found or found[-1].digest != newest.digest:
        return {"pruned": "nothing: a newer checkpoint exists and is handled next"}
    keep = Retention(options["keep_last"], options["keep_every_steps"], options["keep_best"])
    pruned: list[str] = []
    used: list[str] = []
    for old in keep.surplus(found):
        copy(connection, run, old, options)
        gone = _there(connection, old.size_bytes, op="delete", folder=old.path, digest=old.digest)
        (pruned if gone else used).append(old.name)
    return {key: ", ".join(which) for key, which in (("pruned", pruned), ("in_use", used)) if which}


def _listed(run: RunSpec, row: Mapping[str, Any]) -> Checkpoint:
    """Parse a checkpoint. Raises names.BadName."""
    names.digest(row.get("digest"))
    return Checkpoint.told(row, run.paths.checkpoints)


def probe(path: str) -> Probe[bool]:
    """Return a probe for whether a folder, or its nearest existing parent, is writable."""
    line = f'd={Command(path).shell()}; while [ ! -e "$d" ]; do d=$(dirname "$d"); done; [ -d "$d" ] && [ -w "$d" ]'
    return Probe("writable", f"{line} && echo yes || echo no", parse_writable, timeout_s=15)


def parse_writable(output: Output) -> bool:
    answer = output.out.strip()
    if answer not in ("yes", "no"):
        raise ValueError("neither yes nor no")
    return answer == "yes"


def _download(connection: Connection, checkpoint: Checkpoint, target: Path) -> None:
    download(connection, plan_download(connection, checkpoint.path, target))
    sealed = manifest.read(target)
    wrong = ["manifest.json"] if sealed is None or sealed.digest != checkpoint.digest else manifest.differences(
        target, sealed)
    if wrong:
        raise RdtopsError(f"{target}: {'; '.join(wrong[:3])}: not what the trainer wrote",
                          remedy=f"rm -r {target}; inv checkpoints --host {connection.host.name}")


def _has_work(options: Mapping[str, Any]) -> bool:
    return any(options[name] for name in ("verify", "copy_to_folder", "copy_to_laptop", "prune"))


def _there(connection: Connection, read_bytes: int, **request: Any) -> Any:
    return connection.call(guard_on_host, request, timeout_s=120 + read_bytes / READ_BYTES_PER_S)["answer"]
