"""Dataset files: which files of a folder are its demonstrations, and what the folder is when it has none. Checks, MD5,
statistics and training all ask here. Standard library, Python 3.8: sent with host programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from rdtops.hostlib import files, hub_cache

SUFFIXES = (".hdf5", ".h5")  # in any case
_SEEN = 20_000  # paths of a folder of another kind that are looked at
_NOTES = {  # a file that only one kind of dataset has -> the kind
    "meta/info.json": "a LeRobot dataset",
    "dataset_info.json": "an RLDS dataset (TensorFlow Datasets)",
    "features.json": "an RLDS dataset (TensorFlow Datasets)",
    ".zgroup": "a zarr store, as Diffusion Policy writes",
    ".zarray": "a zarr store, as Diffusion Policy writes",
    "zarr.json": "a zarr store, as Diffusion Policy writes",
    "data.mdb": "an LMDB database",
}
_ENDINGS = (  # of a name -> the kind, the more telling first
    (".zarr.zip", "a zarr store, as Diffusion Policy writes"),
    (".parquet", "a Parquet dataset"),
    (".arrow", "an Arrow dataset"),
    (".mcap", "a recording of ROS"),
    (".bag", "a recording of ROS"),
    (".db3", "a recording of ROS"),
    (".pkl", "pickled data"),
    (".pickle", "pickled data"),
    (".npz", "a NumPy dataset"),
    (".npy", "a NumPy dataset"),
    (".mat", "a MATLAB dataset"),
    (".tar", "an archive that is not unpacked"),
    (".tgz", "an archive that is not unpacked"),
    (".gz", "an archive that is not unpacked"),
    (".zip", "an archive that is not unpacked"),
    (".zst", "an archive that is not unpacked"),
    (".mp4", "videos alone"),
    (".bddl", "LIBERO's task definitions, without demonstrations"),
    (".pruned_init", "LIBERO's initial states, without demonstrations"),
)


def demonstration_files(folder: str) -> list[str]:
    """Return the demonstrations of a dataset: the *.hdf5 and *.h5 files at any depth, as sorted paths below the folder.
    Follow links to folders, each folder once. Skip what is hidden (.git, .cache, ._NAME of macOS), and what downloads
    leave. Raise OSError for a folder that cannot be listed."""
    return files.below(folder, lambda path: path.lower().endswith(SUFFIXES) and _counts(folder, path),
                       lambda path: _counts(folder, path))


def other_kind(folder: str) -> str:
    """Return what a folder without demonstrations is, with the file that shows it; '' where that is not known."""
    paths = list(islice(_paths(folder), _SEEN))
    if any(path.lower().endswith(tuple(s + b for s in SUFFIXES for b in (*hub_cache.BEGUN, ".part")))
           for path in paths):
        return "a download that has not ended"
    for note, kind in _NOTES.items():
        for path in paths:
            if f"/{path}".endswith(f"/{note}"):
                return f"{kind} ({path})"
    for path in paths:
        if ".tfrecord" in os.path.basename(path):
            return f"an RLDS dataset (TensorFlow Datasets) ({path})"
    for ending, kind in _ENDINGS:
        for path in paths:
            if path.lower().endswith(ending):
                return f"{kind} ({path})"
    return ""


def _counts(folder: str, path: str) -> bool:
    return not os.path.basename(path).startswith(".") and hub_cache.counts(folder, path)


def _paths(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            yield os.path.relpath(os.path.join(root, name), folder)
