import json
import subprocess

import pytest

from rdtops.delivery import snapshot
from rdtops.errors import UsageError


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=folder, check=True,
                   capture_output=True)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "name with space.txt").write_text("a")
    (tmp_path / ".gitignore").write_text("ignored/\n")
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored" / "big").write_text("big")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_tree_is_named_by_revision_and_digest(tree):
    taken = snapshot.take(tree)
    assert taken.name == f"{taken.revision[:8]}-{taken.manifest.digest[:8]}"
    assert (len(taken.revision), taken.dirty) == (40, ())
    assert taken.files == (".gitignore", "code.py", "name with space.txt")
    assert snapshot.take(tree) == taken


def test_what_is_changed_new_or_gone_is_what_is_sent(tree):
    clean = snapshot.take(tree)
    (tree / "code.py").write_text("x = 2\n")
    (tree / "new.py").write_text("")
    (tree / "name with space.txt").unlink()
    taken = snapshot.take(tree)
    assert taken.files == (".gitignore", "code.py", "new.py")
    assert set(taken.dirty) == {"code.py", "new.py", "name with space.txt"}
    assert "-dirty-" in taken.name
    assert taken.manifest.digest != clean.manifest.digest
    assert json.loads(taken.to_json())["revision"] == clean.revision


def test_a_tree_without_git_has_a_snapshot_too(tmp_path):
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "code.pyc").write_bytes(b"")
    taken = snapshot.take(tmp_path)
    assert (taken.files, taken.revision) == (("code.py",), "")
    assert taken.name.startswith("nogit-")


def test_weights_that_git_does_not_ignore_are_refused_not_sent(tree):
    with (tree / "weights.bin").open("wb") as file:
        file.truncate(snapshot.LARGEST_FILE_BYTES + 1)
    with pytest.raises(UsageError, match=r"weights\.bin") as caught:
        snapshot.take(tree)
    assert ".gitignore" in caught.value.remedy
