"""Small disk: a separate file system that can be filled safely, where this user may mount one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

BALLAST = "ballast"  # a file that takes the space


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[bool]:
    """Mount a tmpfs of that size on `folder`. Return False, with nothing mounted, where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            unmount(folder)


def unmount(folder: Path) -> None:
    while folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left_bytes: int) -> None:
    """Fill the disk except so many bytes."""
    with (disk / BALLAST).open("ab") as file:
        for _ in range(20):  # retried, because others write meanwhile
            taken_bytes = shutil.disk_usage(disk).free - left_bytes
            if taken_bytes <= 0:
                return
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), taken_bytes)


def make_room(disk: Path) -> None:
    (disk / BALLAST).unlink(missing_ok=True)
