"""Compare by MD5 the files on the host with those here, and its checkpoints with what the trainer wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdtops.api import (
    Answer,
    Checkpoint,
    CheckResult,
    Command,
    Connection,
    Host,
    Output,
    Plan,
    Probe,
    RdtopsError,
    RunSpec,
    ask,
    hookimpl,
    manifest,
    plan_asset,
)

SIDE_BY_SIDE = 4  # channels of the one connection; MaxSessions is 10
UNREACHABLE = 3  # exit code of connection errors, which are not a finding about a file
READ_BYTES_PER_S = 20e6  # a slow network disk
TIME_LIMIT_S = {"preflight_check": 7200, "after_checkpoint": 7200}  # 45 GB of encoders, read for the first time
GONE = "gone"
_PYTHON = """\
import hashlib, os
for folder, _, names in os.walk("."):
    for name in names:
        path = os.path.join(folder, name)
        digest = hashlib.md5()
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        print(digest.hexdigest() + "  " + path)
"""


@dataclass(frozen=True)
class Sealed:
    """The content of a checkpoint's manifest.json."""

    digest: str
    size_bytes: int
    md5_by_path: Mapping[str, str]


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec,
                    local_assets: Mapping[str, Path]) -> list[CheckResult]:
    """Return a finding for each asset of the run. Digests are cached on both sides, so unchanged files cost a stat."""
    return list(_findings(host, connection, spec, local_assets))


@hookimpl
def after_checkpoint(connection: Connection, checkpoint: Checkpoint) -> dict[str, Any]:
    """Read every byte of the checkpoint on the host and compare it with the manifest that the trainer wrote."""
    answers = ask(connection, probes(connection.host, checkpoint))
    if answers["manifest"].output.out.strip() == GONE:  # deleted by retention, before this laptop came to look
        return {"skipped": "it was deleted before it was read"}
    sealed: Sealed = _value(answers["manifest"], checkpoint)
    found: Mapping[str, str] = _value(answers["digests"], checkpoint)
    wrong = [path for path, md5 in sealed.md5_by_path.items() if found.get(path) != md5]
    if sealed.digest != checkpoint.digest:
        wrong.append("manifest.json")
    if wrong:
        raise RdtopsError(f"{checkpoint.name}: {', '.join(wrong[:3])} is not what the trainer wrote",
                          remedy="resume from an earlier checkpoint; check the disk of the host")
    return {"verified": True, "files": len(sealed.md5_by_path), "size_bytes": sealed.size_bytes,
            "digest": checkpoint.digest}


def probes(host: Host, checkpoint: Checkpoint) -> list[Probe[Any]]:
    there = f"cd {Command(checkpoint.path).shell()}"
    digests = (f"{there} && if command -v md5sum >/dev/null; then find . -type f -exec md5sum -- {{}} +; "
               f"else {Command(host.python, '-c', _PYTHON).shell()}; fi")
    folder = Command(checkpoint.path).shell()
    return [Probe("manifest", f"[ -d {folder} ] || {{ echo {GONE}; exit; }}; {there} && cat manifest.json",
                  parse_manifest),
            Probe("digests", digests, parse_digests, timeout_s=60 + checkpoint.size_bytes / READ_BYTES_PER_S)]


def parse_manifest(output: Output) -> Sealed:
    """Parse manifest.json. Raises ValueError for anything else."""
    sealed = manifest.Manifest.from_json(output.out)
    return Sealed(sealed.digest, sealed.size_bytes, {file.path: file.md5 for file in sealed.files})


def parse_digests(output: Output) -> dict[str, str]:
    """Parse lines of md5sum as path -> MD5."""
    if output.code != 0:
        raise ValueError("not every file can be read")
    return {line[34:].removeprefix("./"): line[:32] for line in output.out.splitlines() if len(line) > 34}


def compared(role: str, plan: Plan, host: Host, asset: str) -> CheckResult:
    """Return the finding of a plan that would make the host equal to this laptop."""
    other = [item for item in plan.items if item.action != "skip"]
    files = f"{len(plan.items)} files" if len(plan.items) != 1 else "1 file"
    if not plan.items:
        return CheckResult.fail(f"md5 {role}", f"{plan.source} is empty on this laptop",
                                remedy="check [assets] in hosts.toml")
    if role.endswith("_encoder") and all(item.reason == "missing on the host" for item in plan.items):
        return CheckResult.warn(f"md5 {role}", "not on the host yet, so not compared", plan.target,
                                _remedy(host, asset))  # not a FAIL: before_train of encoder_mirror can still fetch it
    if other:
        shown = "; ".join(f"{item.path}: {item.reason}" for item in other[:4])
        more = f"; and {len(other) - 4} more" if len(other) > 4 else ""
        return CheckResult.fail(f"md5 {role}", f"{len(other)} of {files} differ from those here", shown + more,
                                _remedy(host, asset))
    return CheckResult.ok(f"md5 {role}", f"{files}, {_size(plan.size_bytes)}, the same MD5 as here", plan.target)


def _findings(host: Host, connection: Connection, spec: RunSpec,
              local_assets: Mapping[str, Path]) -> Iterator[CheckResult]:
    """Yield the findings; the folders are compared in parallel, since each mostly waits for the connection."""
    def finding(role: str) -> CheckResult:
        if role not in local_assets:
            return CheckResult.skip(f"md5 {role}", "no copy on this laptop to compare with", spec.assets[role])
        try:
            plan = plan_asset(connection, local_assets[role], spec.assets[role])
        except RdtopsError as error:
            if error.exit_code == UNREACHABLE:
                raise
            return CheckResult.fail(f"md5 {role}", "cannot be compared", error.message, error.remedy)
        return compared(role, plan, host, getattr(spec.train, role))

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield from pool.map(finding, spec.assets)


def _remedy(host: Host, asset: str) -> str:
    """Return the remedy; deploy does not touch a folder that hosts.toml names on the host."""
    if asset in host.assets:
        return f"edit {asset!r} under [hosts.{host.name}.assets] or [assets] in hosts.toml: one of the two is outdated"
    return f"inv deploy --host {host.name}"


def _value(answer: Answer[Any], checkpoint: Checkpoint) -> Any:
    if answer.value is None:
        raise RdtopsError(f"{checkpoint.name} cannot be verified: {answer.problem}",
                          remedy=f"ls -l {checkpoint.path}   # on the host; checkpoints_total_limit removes old ones")
    return answer.value


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
