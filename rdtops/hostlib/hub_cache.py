"""Hub cache: how huggingface_hub lays out what it downloads, and which files of a download count. Standard library,
Python 3.8: sent with host programs.

    models--google--t5-v1_1-xxl/refs/main              the revision of the newest download
    models--google--t5-v1_1-xxl/snapshots/REVISION/    links to ../../blobs/HASH: the files by their names
    models--google--t5-v1_1-xxl/blobs/                 the files by their content, HASH.incomplete while they come

`hf download --local-dir` keeps its own files in .cache/huggingface beside the others, `git clone` in .git.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from rdtops.hostlib import files

REPOSITORIES = ("models--", "datasets--")
BEGUN = (".incomplete", ".aria2")  # suffixes of what lies beside a file while it comes
_LITTER_FOLDERS = (".cache/huggingface", ".git", ".hfd", ".ipynb_checkpoints", "__MACOSX")
_LITTER = (*BEGUN, ".lock", ".part", ".crdownload", "~")  # suffixes of files
_OF_MACOS = ("._", ".DS_Store")  # beginnings of what Finder and its archives leave beside every file


class HubSnapshot(NamedTuple):
    """A snapshot of a repository in the cache."""

    folder: str
    others: int  # more snapshots of the repository


def counts(folder: str, path: str) -> bool:
    """Return whether a file or folder below an asset is a part of it: not left by a download, and not coming yet (aria2
    gives a file its whole size at once)."""
    return not is_litter(path) and not any(os.path.lexists(os.path.join(folder, path + suffix)) for suffix in BEGUN)


def is_litter(path: str) -> bool:
    """Return whether a file or folder below an asset was left by a download, an editor or macOS, or holds a download's
    own notes.

    >>> [is_litter(p) for p in ("config.json", "model.safetensors.incomplete", ".cache/huggingface", "a/.git", "._a")]
    [False, True, True, True, True]
    """
    return (path.endswith(_LITTER) or os.path.basename(path).startswith(_OF_MACOS)
            or any(f"/{path}/".endswith(f"/{folder}/") for folder in _LITTER_FOLDERS))


def snapshot(folder: str) -> HubSnapshot | None:
    """Return the snapshot of a repository in the cache: that of refs/main, else the only one. Return None for any other
    folder. Raise ValueError where there is none, or several without refs/main."""
    within = os.path.join(folder, "snapshots")
    if not os.path.basename(os.path.abspath(folder)).startswith(REPOSITORIES) or not os.path.isdir(within):
        return None
    names = sorted(os.listdir(within))
    main = files.text_of(os.path.join(folder, "refs", "main")).strip()
    if main not in names and len(names) != 1:
        raise ValueError(f"{folder} has {len(names) or 'no'} snapshots{': ' if names else ''}{', '.join(names)}")
    return HubSnapshot(os.path.join(within, main if main in names else names[0]), len(names) - 1)


def blobs(folder: str) -> str:
    """Return the real folder to which the links of a snapshot lead; '' for a folder that is not of a snapshot."""
    at = os.path.realpath(folder)
    while os.path.dirname(at) != at:
        at, name = os.path.split(at)
        if name == "snapshots" and os.path.basename(at).startswith(REPOSITORIES):
            return os.path.realpath(os.path.join(at, "blobs"))
    return ""
