"""An asset as huggingface_hub has left it on this laptop: each layout is made by huggingface_hub itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rdtops.errors import TransferError
from rdtops.hostlib import hub_cache
from rdtops.transfer.transfer import plan_asset, plan_upload, upload
from tests.model_hub import BEGUN_BYTES, T5, download, model_hub
from tests.transfer.test_transfer import LocalConnection, contents

FILES = {"config.json": b"{}", "tokenizer/spiece.model": b"words", "model.safetensors": b"w" * (BEGUN_BYTES + 1)}
HALF = {name: content for name, content in FILES.items() if name != "model.safetensors"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: whole and half downloads, into the cache and beside it."""
    folder = tmp_path_factory.mktemp("hub")
    with model_hub({T5: FILES}) as endpoint:
        download(endpoint, cache_dir=folder / "whole")
        download(endpoint, local_dir=folder / "whole-local")
    with model_hub({T5: FILES}, endless="model.safetensors") as endpoint:
        download(endpoint, cache_dir=folder / "half", killed=True)
        download(endpoint, local_dir=folder / "half-local", killed=True)
    return folder


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME", str(tmp_path))
    return LocalConnection()


def snapshot_of(cache: Path) -> Path:
    (repository,) = cache.glob("models--google--*")
    found = hub_cache.snapshot(str(repository))
    assert found
    return Path(found.folder)


def sent(connection: Any, source: Path, target: Path) -> tuple[dict[bytes, bytes | str], tuple[str, ...]]:
    plan = plan_asset(connection, source, str(target))
    upload(connection, plan)
    assert plan_asset(connection, source, str(target)).to_do == ()  # the host has it now
    return contents(target), plan.left_out


def of(files: dict[str, bytes]) -> dict[bytes, bytes]:
    return {name.encode(): content for name, content in files.items()}


def test_a_snapshot_goes_up_as_the_files_that_its_links_lead_to(hub: Path, connection: Any, tmp_path: Path) -> None:
    snapshot = snapshot_of(hub / "whole")
    assert all(path.is_symlink() for path in snapshot.rglob("*") if path.is_file())
    assert sent(connection, snapshot, tmp_path / "there") == (of(FILES), ())
    part = plan_upload(connection, snapshot / "tokenizer", str(tmp_path / "part"))  # a dataset may be a part of one
    assert [item.entry.kind for item in part.items] == ["file"]


@pytest.mark.parametrize(("folder", "files"), [("whole-local", FILES), ("half-local", HALF)])
def test_the_notes_and_remains_of_a_download_stay_here_and_are_named(hub: Path, connection: Any, tmp_path: Path,
                                                                     folder: str, files: dict[str, bytes]) -> None:
    assert sent(connection, hub / folder, tmp_path / "there") == (of(files), (".cache/huggingface",))


def test_of_a_half_download_only_whole_files_go_up(hub: Path, connection: Any, tmp_path: Path) -> None:
    assert list((hub / "half").rglob("*.incomplete"))
    assert sent(connection, snapshot_of(hub / "half"), tmp_path / "there") == (of(HALF), ())


def test_neither_the_history_of_a_clone_nor_a_file_that_still_comes_is_sent(connection: Any, tmp_path: Path) -> None:
    for name in ("config.json", ".git/lfs/objects/a", ".gitattributes", "a.bin.lock", "a.bin", "b.bin", "b.bin.aria2"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).write_text("x")
    found, left_out = sent(connection, tmp_path / "clone", tmp_path / "there")
    assert sorted(found) == [b".gitattributes", b"a.bin", b"config.json"]
    assert left_out == (".git", "a.bin.lock", "b.bin", "b.bin.aria2")  # aria2 gives a file its whole size at once


@pytest.mark.parametrize("link", ["/etc/passwd", "../../refs/main", "../../blobs", "../../blobs/../refs/main",
                                  "../../../models--other/blobs/0", "../../blobs/out"])
def test_no_other_link_of_a_snapshot_is_followed(hub: Path, connection: Any, tmp_path: Path, link: str) -> None:
    shutil.copytree(hub / "whole", tmp_path / "cache", symlinks=True)
    other = tmp_path / "cache" / "models--other" / "blobs"
    other.mkdir(parents=True)
    (other / "0").write_text("secret")
    snapshot = snapshot_of(tmp_path / "cache")
    (snapshot.parents[1] / "blobs" / "out").symlink_to(other / "0")
    (snapshot / "leads-out").symlink_to(link)
    with pytest.raises(TransferError, match=r"leads-out: it is a link to .*, which is outside of the folder"):
        plan_asset(connection, snapshot, str(tmp_path / "there"))


def test_links_of_a_folder_that_is_no_snapshot_are_not_followed(connection: Any, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0").write_text("secret")
    (tmp_path / "snapshots" / "main").mkdir(parents=True)
    (tmp_path / "snapshots" / "main" / "config.json").symlink_to("../../blobs/0")
    with pytest.raises(TransferError, match="which is outside of the folder"):
        plan_asset(connection, tmp_path / "snapshots" / "main", str(tmp_path / "there"))


def test_a_snapshot_whose_blob_is_gone_says_that_it_is_incomplete(hub: Path, connection: Any, tmp_path: Path) -> None:
    shutil.copytree(hub / "whole", tmp_path / "cache", symlinks=True)
    snapshot = snapshot_of(tmp_path / "cache")
    (snapshot / "model.safetensors").resolve().unlink()
    with pytest.raises(TransferError, match="missing: its download is incomplete") as raised:
        plan_asset(connection, snapshot, str(tmp_path / "there"))
    assert raised.value.remedy.startswith("hf download ")


def test_of_several_snapshots_refs_main_is_meant(hub: Path, tmp_path: Path) -> None:
    shutil.copytree(hub / "whole", tmp_path / "cache", symlinks=True)
    with model_hub({T5: {"config.json": b"{}"}}, revision="b" * 40) as endpoint:
        download(endpoint, cache_dir=tmp_path / "cache")
    (repository,) = (tmp_path / "cache").glob("models--google--*")
    found = hub_cache.snapshot(str(repository))
    assert found == (str(repository / "snapshots" / ("b" * 40)), 1)
    (repository / "refs" / "main").unlink()
    with pytest.raises(ValueError, match=f"has 2 snapshots: {'a' * 40}, {'b' * 40}"):
        hub_cache.snapshot(str(repository))
    assert hub_cache.snapshot(str(repository / "snapshots" / ("a" * 40))) is None
