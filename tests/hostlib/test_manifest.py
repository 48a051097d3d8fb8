import pytest

from plugins.checkpoint_guard import guard_on_host
from rdtops.hostlib import manifest
from rdtops.on_host import checkpoint_verifier
from rdtops.porter.file_digests import Digests


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ema").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 100)
    (tmp_path / "ema" / "model.safetensors").write_bytes(b"average")
    (tmp_path / "empty").touch()
    return tmp_path


def test_a_sealed_folder_is_read_back_and_has_no_differences(folder):
    sealed = manifest.seal(folder)
    assert manifest.read(folder) == sealed
    assert manifest.differences(folder, sealed) == []
    assert {f.path for f in sealed.files} == {"model.safetensors", "ema/model.safetensors", "empty"}


def test_a_folder_without_a_manifest_does_not_exist(folder):
    assert manifest.read(folder) is None


@pytest.mark.parametrize("damage", ["shortened", "removed", "manifest"])
def test_a_damaged_folder_has_no_valid_manifest(folder, damage):
    manifest.seal(folder)
    weights = folder / "model.safetensors"
    if damage == "shortened":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "removed":
        weights.unlink()
    else:
        text = (folder / manifest.NAME).read_text()
        (folder / manifest.NAME).write_text(text.replace("700", "701"))
    assert manifest.read(folder) is None


def test_a_changed_byte_of_equal_size_is_found_by_reading_all(folder):
    sealed = manifest.seal(folder)
    (folder / "empty").write_bytes(b"")
    (folder / "ema" / "model.safetensors").write_bytes(b"averagf")
    assert manifest.read(folder) == sealed  # sizes alone cannot tell
    assert manifest.differences(folder, sealed) == ["ema/model.safetensors: MD5 differs"]


def test_all_who_look_for_damage_find_the_same(folder):
    """The trainer before it resumes, `inv checkpoints --verify`, and a plugin's copy."""
    sealed = manifest.seal(folder)
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "ema" / "model.safetensors").unlink()
    (folder / "empty").unlink()
    (folder / "empty").symlink_to("empty")
    found = manifest.differences(folder, sealed)
    assert found == ["ema/model.safetensors: missing", "empty: Too many levels of symbolic links",
                     "model.safetensors: 1 bytes instead of 700"]
    assert checkpoint_verifier.state_of(str(folder), Digests(), True) == {"state": "damaged", "wrong": found}
    assert guard_on_host.wrong(str(folder), sealed.digest) == found


def test_what_was_not_read_since_it_was_written_is_neither_well_nor_damaged(folder):
    sealed = manifest.seal(folder)
    assert [manifest.difference(folder, file, lambda _: "") for file in sealed.files] == [None] * 3
    assert checkpoint_verifier.state_of(str(folder), Digests(), False) == {"state": "unverified", "wrong": []}


@pytest.mark.parametrize("text", [
    "", "{}", "[]", '{"files": []}', '{"digest": "x", "files": []}', '{"digest": 1, "files": [1]}'])
def test_what_is_no_manifest_is_a_value_error(text):
    with pytest.raises(ValueError, match="manifest"):
        manifest.Manifest.from_json(text)


def test_the_digest_depends_on_names_and_contents_not_on_order():
    a, b = manifest.FileDigest("a", 1, "11"), manifest.FileDigest("b", 1, "22")
    assert manifest.Manifest((a, b)).digest == manifest.Manifest((b, a)).digest
    assert manifest.Manifest((a,)).digest != manifest.Manifest((b,)).digest
