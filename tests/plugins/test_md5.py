import hashlib
from pathlib import Path

import pytest

from rdtops.contract import manifest
from rdtops.contract.run import Checkpoint
from rdtops.errors import RdtopsError
from rdtops.lab.site import Lab
from rdtops.remote import hosts
from rdtops.remote.connection import Connection
from tests.lab.conftest import lab  # noqa: F401  # the fixture


@pytest.fixture
def connection(lab: Lab, tmp_path: Path):  # noqa: F811
    lab.write_inventory(tmp_path / "hosts.toml", {})
    with Connection(hosts.load(tmp_path / "hosts.toml").host("lab")) as opened:
        yield opened


@pytest.fixture
def checkpoint(lab: Lab):  # noqa: F811
    folder = lab.home("lab") / "step_000010"
    (folder / "ema").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "ema" / "name with space").write_bytes(b"average")
    sealed = manifest.seal(folder)
    return Checkpoint(10, folder.name, str(folder), sealed.size_bytes, sealed.digest)


@pytest.mark.lab
def test_a_whole_checkpoint_is_recorded_as_verified(plugins, connection, checkpoint):
    record = plugins["md5"].after_checkpoint(connection, checkpoint)
    assert record == {"verified": True, "files": 2, "digest": checkpoint.digest}


@pytest.mark.lab
def test_a_changed_byte_is_named(plugins, connection, checkpoint):
    Path(checkpoint.path, "ema", "name with space").write_bytes(b"avarage")
    with pytest.raises(RdtopsError, match="ema/name with space is not what the trainer wrote"):
        plugins["md5"].after_checkpoint(connection, checkpoint)


def test_lines_of_md5sum_are_read_with_spaces_in_names(plugins):
    md5 = hashlib.md5(b"").hexdigest()
    assert plugins["md5"].digests(f"{md5}  a b/c\n{md5}  d\n\n") == {"a b/c": md5, "d": md5}
