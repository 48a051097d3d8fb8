"""A release holds what the host runs, and only a change of that makes another one."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rdtops.delivery import snapshot
from rdtops.errors import UsageError

ROOT = Path(__file__).parents[2]
LARGEST_RELEASE_BYTES = 1_000_000
LAPTOP_SIDE = ("README.md", "docs/design.md", "plugins/md5.py", "rdtops/ui/cli.py", "tests/test_it.py",
               "pyproject.toml")


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=folder, check=True,
                   capture_output=True)


def commit(tree):
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "one more")


@pytest.fixture
def tree(tmp_path):
    for name in ("rdtops/__init__.py", "rdtops/errors.py", "rdtops/contract/a b.txt", "rdtops/trainer/ema.py",
                 *LAPTOP_SIDE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / ".gitignore").write_text("ignored/\n")
    (tmp_path / "rdtops/trainer/ignored").mkdir()
    (tmp_path / "rdtops/trainer/ignored/big").write_text("big")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


RELEASE = ("rdtops/__init__.py", "rdtops/contract/a b.txt", "rdtops/errors.py", "rdtops/trainer/ema.py")


def test_a_clean_tree_is_named_by_revision_and_digest(tree):
    taken = snapshot.take(tree)
    assert taken.name == f"{taken.revision[:8]}-{taken.manifest.digest[:8]}"
    assert (len(taken.revision), taken.dirty) == (40, ())
    assert taken.files == RELEASE
    assert snapshot.take(tree) == taken


@pytest.mark.parametrize("name", LAPTOP_SIDE)
def test_a_change_of_what_stays_on_the_laptop_makes_no_other_release(tree, name):
    before = snapshot.take(tree)
    (tree / name).write_text("changed\n")
    assert snapshot.take(tree) == before
    commit(tree)
    assert snapshot.take(tree) == before


def test_what_is_changed_new_or_gone_is_what_is_sent(tree):
    clean = snapshot.take(tree)
    (tree / "rdtops/trainer/ema.py").write_text("x = 2\n")
    (tree / "rdtops/trainer/new.py").write_text("")
    git(tree, "mv", "rdtops/errors.py", "rdtops/contract/errors.py")
    taken = snapshot.take(tree)
    assert taken.files == ("rdtops/__init__.py", "rdtops/contract/a b.txt", "rdtops/contract/errors.py",
                           "rdtops/trainer/ema.py", "rdtops/trainer/new.py")
    assert set(taken.dirty) == {"rdtops/trainer/ema.py", "rdtops/trainer/new.py", "rdtops/errors.py",
                                "rdtops/contract/errors.py"}
    assert "-dirty-" in taken.name
    assert taken.manifest.digest != clean.manifest.digest
    assert json.loads(taken.to_json())["revision"] == clean.revision


def test_a_commit_of_what_was_deployed_dirty_has_the_digest_it_had(tree):
    (tree / "rdtops/trainer/ema.py").write_text("x = 2\n")
    dirty = snapshot.take(tree)
    commit(tree)
    clean = snapshot.take(tree)
    assert (clean.dirty, clean.manifest) == ((), dirty.manifest)
    assert clean.revision != dirty.revision


@pytest.mark.parametrize("where", ["without git", "in a folder that git ignores"])
def test_a_tree_that_git_does_not_know_has_a_snapshot_too(tree, tmp_path_factory, where):
    home = tmp_path_factory.mktemp("home") if where == "without git" else tree / "ignored"
    shutil.copytree(tree / "rdtops", home / "rdtops", ignore=shutil.ignore_patterns("ignored"))
    (home / "rdtops/trainer/__pycache__").mkdir()
    (home / "rdtops/trainer/__pycache__/ema.pyc").write_bytes(b"")
    taken = snapshot.take(home)
    assert (taken.files, taken.revision) == (RELEASE, "")
    assert taken.name.startswith("nogit-")


def test_weights_that_git_does_not_ignore_are_refused_not_sent(tree):
    with (tree / "rdtops/trainer/weights.bin").open("wb") as file:
        file.truncate(snapshot.LARGEST_FILE_BYTES + 1)
    with pytest.raises(UsageError, match=r"weights\.bin") as caught:
        snapshot.take(tree)
    assert ".gitignore" in caught.value.remedy


# --- this project's own release ---

def test_a_release_has_less_than_a_megabyte():
    assert snapshot.take().manifest.size_bytes < LARGEST_RELEASE_BYTES


def test_all_that_a_release_imports_is_in_it():
    files = {Path(name) for name in snapshot.take().files}
    wanted = {(file, found) for file in files if file.suffix == ".py" for found in imported(file)}
    assert len(wanted) > 300  # there was something to see
    assert sorted(f"{file}: {found}" for file, found in wanted if found not in files) == []


def imported(file: Path) -> set[Path]:
    """The modules of ours that a module imports, wherever in its text."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = [Path(name.replace(".", "/")) for name in names if name.split(".")[0] in ("rdtops", "plugins", "tests")]
    return {module for place in places for module in (place.with_suffix(".py"), place / "__init__.py")
            if (ROOT / module).is_file()}


IMPORT_EVERYTHING = """\
import importlib, json, sys
from pathlib import Path

release, foreign = Path(sys.argv[1]), {}
sys.path[0] = str(release)
for file in sorted(release.rglob("*.py")):
    name = ".".join(file.relative_to(release).with_suffix("").parts).removesuffix(".__init__")
    try:
        name.endswith("__main__") or importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in ("rdtops", "plugins", "tests", "tasks"):
            raise
        foreign[name] = error.name
ours = {n: m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("rdtops", "plugins", "tests", "tasks")}
print(json.dumps({"ours": ours, "foreign": foreign}))
"""


def test_every_module_of_a_release_can_be_imported_from_it_alone(tmp_path):
    release, empty = tmp_path / "release", tmp_path / "empty"
    empty.mkdir()
    for name in snapshot.take().files:
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, release / name)
    done = subprocess.run([sys.executable, "-B", "-c", IMPORT_EVERYTHING, str(release)], cwd=empty, text=True,
                          capture_output=True, env={"PATH": "/usr/bin:/bin", "HOME": str(empty)}, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["foreign"] == {}
    programs = {"rdtops.trainer.train", "rdtops.supervisor.supervised_program", "rdtops.contract.lease"}
    assert programs <= told["ours"].keys()
    assert [file for file in told["ours"].values() if not file.startswith(str(release))] == []
