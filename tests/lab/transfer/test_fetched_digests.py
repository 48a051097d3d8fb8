"""A fetched checkpoint is compared with its manifest by the MD5 sums that were taken while it was written."""

import hashlib
import os
from pathlib import Path

import pytest

from rdtops.contract.journal import Journal
from rdtops.errors import DigestMismatch
from rdtops.hostlib import manifest
from rdtops.runs import overview, results
from rdtops.ssh.connection import Connection
from tests.lab.watched import RUN

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("home")]
WEIGHTS = os.urandom(3_000_000)


@pytest.fixture
def saved(journal: Journal) -> Path:
    """A checkpoint on the host."""
    folder = journal.path.parent / "checkpoints" / "step_000010"
    (folder / "ema").mkdir(parents=True)
    (folder / "ema" / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_text("{}\n")
    manifest.seal(folder)
    return folder


@pytest.fixture
def digested(monkeypatch) -> list[int]:
    """The sizes of all that this process takes the MD5 of."""
    sizes: list[int] = []
    md5, file_digest = hashlib.md5, hashlib.file_digest

    class Counted:
        def __init__(self, data: bytes = b"") -> None:
            self._digest = md5(data)
            sizes.append(len(data))

        def update(self, data: bytes) -> None:
            self._digest.update(data)
            sizes.append(len(data))

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    def of_file(file, name):
        sizes.append(os.fstat(file.fileno()).st_size)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "md5", Counted)
    monkeypatch.setattr(hashlib, "file_digest", of_file)
    return sizes


def fetched(connection: Connection, into: Path) -> results.Fetched:
    return results.fetch(connection, overview.find(connection, RUN), into)


def test_every_byte_is_digested_once(connection, saved, digested, tmp_path):
    home = fetched(connection, tmp_path / "home").folder / "checkpoints" / "step_000010"
    assert len(WEIGHTS) <= sum(digested) < 1.5 * len(WEIGHTS)
    assert (home / "ema" / "model.safetensors").read_bytes() == WEIGHTS
    digested.clear()
    again = fetched(connection, tmp_path / "home")  # at most once again: a file this young may change unseen
    assert (again.sent_files, sum(digested) < 1.5 * len(WEIGHTS)) == (0, True)


@pytest.mark.parametrize("when", ["before", "since"])
def test_a_checkpoint_that_is_not_what_was_sealed_is_refused_by_name(connection, saved, tmp_path, when):
    weights = saved / "ema" / "model.safetensors"
    if when == "since":
        fetched(connection, tmp_path / "home")
    weights.write_bytes(bytes(len(WEIGHTS)))  # as long as before
    for _ in range(2):  # the second time nothing is sent
        with pytest.raises(DigestMismatch, match=r"step_000010: ema/model\.safetensors: MD5 differs"):
            fetched(connection, tmp_path / "home")


def test_a_manifest_that_was_exchanged_is_refused(connection, saved, tmp_path, monkeypatch):
    listed = overview.checkpoints(connection, overview.find(connection, RUN))
    (saved / "config.json").write_text("[]\n")
    manifest.seal(saved)
    monkeypatch.setattr(overview, "checkpoints", lambda *_: listed)
    with pytest.raises(DigestMismatch, match=r"manifest\.json differs"):
        fetched(connection, tmp_path / "home")
