"""What tests of transfers share: large files, and both directions planned and carried out in one go."""

from __future__ import annotations

import os
from pathlib import Path

from rdtops.transfer import transfer
from rdtops.transfer.porter_session import OpenPorter
from rdtops.transfer.transfer import Outcome, plan_download, plan_upload

MIB = 1 << 20


def random_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(MIB) * (size // MIB))
    return path


def upload(way: OpenPorter, source: Path, target: Path, watch: transfer.Watcher | None = None) -> Outcome:
    return transfer.upload(way, plan_upload(way, source, str(target)), watch)


def download(way: OpenPorter, source: Path, target: Path, watch: transfer.Watcher | None = None) -> Outcome:
    return transfer.download(way, plan_download(way, str(source), target), watch)
