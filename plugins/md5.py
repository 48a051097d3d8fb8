"""Are the files on the host the ones you have here, and are its checkpoints what the trainer wrote? By MD5."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rdtops.api import (
    Checkpoint,
    CheckResult,
    Command,
    Connection,
    Host,
    Plan,
    RdtopsError,
    RunSpec,
    hookimpl,
    plan_upload,
)


@hookimpl
def preflight_check(host: Host, connection: Connection, spec: RunSpec,
                    local_assets: Mapping[str, Path]) -> list[CheckResult]:
    """One finding for each asset of the run. Digests are cached on both sides, so unchanged files cost a stat."""
    return list(_findings(host, connection, spec, local_assets))


@hookimpl
def after_checkpoint(connection: Connection, checkpoint: Checkpoint) -> dict[str, Any]:
    """Read every byte of the checkpoint on the host and hold it against the manifest that the trainer sealed."""
    manifest = json.loads(connection.run(Command("cat", checkpoint.path + "/manifest.json")).out)
    expected = {row["path"]: row["md5"] for row in manifest["files"]}
    found = digests(connection.run(Command("md5sum", "--", *expected, cwd=checkpoint.path), timeout_s=600).out)
    wrong = [path for path, md5 in expected.items() if found.get(path) != md5]
    if wrong:
        raise RdtopsError(f"{checkpoint.name}: {', '.join(wrong[:3])} is not what the trainer wrote",
                          remedy="resume from an earlier checkpoint; check the disk of the host")
    return {"verified": True, "files": len(expected), "digest": checkpoint.digest}


def digests(text: str) -> dict[str, str]:
    """Lines of md5sum as path -> MD5."""
    return {line[34:]: line[:32] for line in text.splitlines() if len(line) > 34}


def compared(role: str, plan: Plan, host: str) -> CheckResult:
    """What a plan that would make the host equal to here says about the host."""
    other = [item for item in plan.items if item.action != "skip"]
    files = f"{len(plan.items)} files" if len(plan.items) != 1 else "1 file"
    if not plan.items:
        return CheckResult.fail(f"md5 {role}", f"{plan.source} is empty here", remedy="check [assets] in hosts.toml")
    if other:
        shown = "; ".join(f"{item.path}: {item.reason}" for item in other[:4])
        more = f"; and {len(other) - 4} more" if len(other) > 4 else ""
        return CheckResult.fail(f"md5 {role}", f"{len(other)} of {files} differ from the ones here", shown + more,
                                f"inv deploy --host {host}")
    return CheckResult.ok(f"md5 {role}", f"{files}, {plan.size_bytes / 1e6:.1f} MB, the same MD5 as here", plan.target)


def _findings(host: Host, connection: Connection, spec: RunSpec,
              local_assets: Mapping[str, Path]) -> Iterator[CheckResult]:
    for role, remote in spec.assets.items():
        if role in local_assets:
            yield compared(role, plan_upload(connection, local_assets[role], remote), host.name)
        else:
            yield CheckResult.skip(f"md5 {role}", "no copy on this laptop to compare with", remote)
