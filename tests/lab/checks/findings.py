"""What the tests of checks share: findings by name, files to look at."""

from __future__ import annotations

from pathlib import Path

from rdtops.checks import CheckResult


def by_name(found: list[CheckResult]) -> dict[str, CheckResult]:
    return {r.name: r for r in found}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
