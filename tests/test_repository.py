"""Promises of the repository itself: its imports, its lint, its types, its command line, its documents."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from proofs.benches import BENCHES
from proofs.drills import DRILLS
from rdtops import api, hookspecs
from rdtops.lab.doors import DOORS, OPEN
from rdtops.ssh import bundle

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent

TASKS = [
    "attach", "bench", "check", "checkpoints", "demo", "deploy", "drill", "eval", "fetch-results", "gpu", "hosts",
    "lint", "logs", "normfit", "replay", "report", "rollback", "stats", "status", "stop", "test", "train", "trust",
    "watch", "why", "lab.down", "lab.status", "lab.up", "plugins", "plugins.new"]


def run(*words, cwd=ROOT):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


def inv(*words, cwd=ROOT):
    return run(sys.executable, "-m", "invoke", *words, cwd=cwd)


# --- the command line is frozen: people's scripts rely on it ---

def test_the_list_of_tasks_is_frozen():
    listed = json.loads(inv("--list", "--list-format=json").stdout)
    names = [t["name"] for t in listed["tasks"]]
    names += [c["name"] if t["name"] == c["default"] else f"{c['name']}.{t['name']}"
              for c in listed["collections"] for t in c["tasks"]]
    assert names == TASKS


@pytest.mark.parametrize(("task", "options"), [
    ("deploy", "dry-run env from-scratch host json only preset set"),
    ("rollback", "host json to"),
    ("check", "all fresh from-scratch host json preset set"),
    ("train", "again dry-run follow from-scratch host json preset resume set"),
    ("status", "all host json run"),
    ("logs", "eval follow host lines run"),
    ("why", "host json run"),
    ("gpu", "host json watch"),
    ("checkpoints", "host json run verify"),
    ("stop", "eval grace host run"),
    ("watch", "host plain run"),
    ("fetch-results", "checkpoint host into json run"),
    ("report", "compare host into json run"),
    ("eval", ("benchmark checkpoint codec device dry-run exec-horizon follow host json max-steps preset processes "
              "record-video run seed set tasks trials")),
    ("replay", "checkpoint device host json run step"),
    ("normfit", "host json preset samples set"),
    ("stats", "host json preset recompute set"),
    ("hosts", "host json ping"),
    ("trust", "host yes"),
    ("plugins", "json"),
    ("plugins.new", "json name package"),
    ("bench", "host json name only quick"),
    ("drill", "door folder json kills name only"),
    ("lab.up", "backend door"),
])
def test_the_options_of_a_task_are_frozen(task, options):
    assert sorted(re.findall(r"^  (?:-\w, )?--([a-z-]+)", inv("--help", task).stdout, re.MULTILINE)) == options.split()


@pytest.mark.parametrize(("task", "table"), [("bench", BENCHES), ("drill", DRILLS)])
def test_the_help_of_bench_and_drill_names_each_of_them_and_each_is_there(task, table):
    named = re.search(r"which one: ([\w, -]+)", " ".join(inv("--help", task).stdout.split())).group(1)
    assert [name for name in table if name not in named] == []
    work = {"bench": "measure", "drill": "drill"}[task]
    assert [name for name, module in table.items() if not hasattr(importlib.import_module(module), work)] == []


@pytest.mark.parametrize("words", [["--list"], ["--help", "train"]])
def test_start_up_imports_nothing_heavy(words):
    done = run(sys.executable, "-X", "importtime", "-m", "invoke", *words)
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    heavy = {"fabric", "paramiko", "torch", "pydantic", "pluggy", "rich", "matplotlib", "numpy", "asyncssh"}
    assert not imported & heavy
    assert "rdtops.ui.cli" in imported


# --- imports, lint, types ---

def lint_imports(root):
    return run(str(SCRIPTS / "lint-imports"), "--no-cache", cwd=root)


def test_the_import_contracts_hold():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


VIOLATIONS = {
    "Imports go one way": ("rdtops/contract/run.py", "import rdtops.ssh.hosts"),
    "The product knows no proofs": ("rdtops/lab/keys.py", "import proofs.drills"),
    "Programs of the host bring hostlib along": ("rdtops/on_host/prober.py", "import rdtops.contract.run"),
    "The trainer knows nothing": ("rdtops/trainer/loop/ema.py", "import rdtops.ssh.command"),
    "The supervisor knows only": ("rdtops/supervisor/pulse.py", "import rdtops.checks"),
    "What is supervised does not know it": ("rdtops/trainer/loop/ema.py", "import rdtops.supervisor.family"),
    "The lab knows only": ("rdtops/lab/keys.py", "import rdtops.checks"),
    "The laptop does not import the trainer": ("rdtops/delivery/plan.py", "import rdtops.trainer.loop.ema"),
    "Plugins take the public road": ("plugins/md5.py", "import rdtops.errors"),
    "Plugins do not see each other": ("plugins/md5.py", "import plugins.disk"),
    "The folders of the trainer know only": ("rdtops/trainer/data/split.py", "import rdtops.trainer.model.rdt"),
}


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """Heading -> what lint-imports says below it, of a copy of the tree with every violation."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("rdtops", "plugins", "proofs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.hdf5"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for file, line in VIOLATIONS.values():
        with (root / file).open("a") as module:
            module.write(f"\n{line}\n")
    done = run(sys.executable, "-c", "import sys; sys.path.insert(0, '.'); from importlinter.cli import "
               "lint_imports_command; lint_imports_command(['--no-cache'])", cwd=root)
    assert done.returncode == 1, done.stdout + done.stderr
    _, *parts = re.split(r"^(\w.*)\n-{5,}$", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_each_import_contract_bites(contract, sections):
    file, line = VIOLATIONS[contract]
    module, imported = file.removesuffix(".py").replace("/", "."), line.removeprefix("import ")
    (broken,) = [text for heading, text in sections.items() if heading.startswith(contract)]
    assert f"{module} -> {imported} (l." in broken


def test_ruff_has_no_findings():
    done = run(str(SCRIPTS / "ruff"), "check", ".")
    assert done.returncode == 0, done.stdout


def test_the_types_hold():
    done = run(str(SCRIPTS / "mypy"))
    assert done.returncode == 0, done.stdout


def imported_roots(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


def modules():
    return [file for root in ("rdtops", "plugins", "proofs") for file in (ROOT / root).rglob("*.py")]


def test_every_module_and_public_class_has_a_name_of_its_own():
    names = Counter(file.stem for file in modules() if not file.stem.startswith("__"))
    names.update(node.name for file in modules() for node in ast.parse(file.read_text()).body
                 if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_folder_is_too_large_to_find_a_module_in():
    assert {folder: count for folder, count in Counter(file.parent for file in modules()).items() if count > 18} == {}


@pytest.mark.parametrize("folder", ["rdtops/contract", "rdtops/contract/diagnosis", "rdtops/supervisor",
                                    "rdtops/hostlib", "rdtops/on_host", "rdtops/porter", "rdtops/errors.py",
                                    "rdtops/checks.py"])
def test_what_crosses_to_the_host_needs_the_standard_library_only(folder):
    path = ROOT / folder
    for file in [path] if path.is_file() else path.glob("*.py"):
        foreign = set(imported_roots(file)) - set(sys.stdlib_module_names) - {"rdtops"}
        assert not foreign, f"{file}: {foreign}"


def test_json_is_read_by_one_function():
    """json.loads raises RecursionError, too, for what a host or a broken file says."""
    reading = set()
    for file in [*(ROOT / "rdtops").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        nodes = ast.walk(ast.parse(file.read_text()))
        if any(isinstance(n, ast.Attribute) and ast.unparse(n) in ("json.loads", "json.load") for n in nodes):
            reading.add(str(file.relative_to(ROOT)))
    ours = {file for file in reading if not file.startswith("rdtops/lab/")}
    assert ours == {"rdtops/hostlib/fields.py"}


def test_a_far_side_program_imports_nothing_of_ours_but_its_neighbours():
    for file in [*(ROOT / "rdtops/on_host").glob("*.py"), *(ROOT / "rdtops/porter").glob("*.py")]:
        imports = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
        assert all(bundle._imported(node) for node in imports if "rdtops" in ast.unparse(node)), file


def test_only_the_screen_prints_and_exits():
    for file in (ROOT / "rdtops").rglob("*.py"):
        if file.name not in ("screen.py", "__main__.py") and not {"lab", "trainer"} & set(file.parts):
            text = file.read_text().partition('if __name__ == "__main__":\n')[0]
            assert not re.search(r"^\s*print\(|sys\.exit\(", text, re.MULTILINE), file


# --- documents ---

def test_the_hooks_of_the_plugin_document_are_the_hooks_of_the_code():
    documented = set(re.findall(r"^### `(\w+)\(", (ROOT / "docs/plugins.md").read_text(), re.MULTILINE))
    in_code = {n for n, f in vars(hookspecs).items() if hasattr(f, hookspecs.PROJECT + "_spec")}
    assert documented == in_code


def test_the_plugin_document_names_everything_a_plugin_may_import():
    text = (ROOT / "docs/plugins.md").read_text()
    assert [n for n in api.__all__ if f"`{n}`" not in text] == []


def findings_of_the_code():
    """Name of a check -> the words of the findings that the code can make of it."""
    files = [*(ROOT / "rdtops/preflight").glob("*.py"), *(ROOT / "plugins").rglob("*.py"),
             ROOT / "rdtops/workflows/training.py"]
    found = {}
    for call in (n for f in files for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, ast.Call)):
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "CheckResult":
            written = ast.unparse(call.args[0])
            names = {"role": ["text_encoder", "vision_encoder"], "f'md5 {role}'": ["md5 <role>"],
                     "NAME": ["checkpoint_guard"], "result.name": []}.get(written, [written.strip("'")])
            for name in names:
                found.setdefault(name, set()).add(call.func.attr)
    return found


def test_the_page_of_checks_names_every_check_and_what_it_can_say():
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.+) \| (.+) \| (.+) \|$", (ROOT / "docs/checks.md").read_text(),
                      re.MULTILINE)
    documented = {name: {word for word, cell in (("warn", warn), ("fail", fail)) if cell != "—"}
                  for name, _, warn, fail, _ in rows}
    assert documented == {name: words & {"warn", "fail"} for name, words in findings_of_the_code().items()}
    assert all(remedy.strip() for *_, remedy in rows)


def skeleton(name):
    """Headings by level, commands, table sizes, the map, links: what two languages of one document share."""
    text = (ROOT / name).read_text()
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {"levels": re.findall(r"^(#+) ", prose, re.MULTILINE),
            "commands": re.findall(r"^    \S.*", prose, re.MULTILINE),
            "rows": [r for r in re.findall(r"^\| `?([\w.-]+)`? ", prose, re.MULTILINE)
                     if r.isascii() and r not in ("task", "plugin", "preset")],
            "map": re.findall(r"^(\S+)  ", "".join(blocks), re.MULTILINE),
            "links": re.findall(r"\]\(([^)]+)\)", prose)}


def test_the_chinese_readme_has_the_same_content():
    ours, theirs = skeleton("README.md"), skeleton("README.zh-CN.md")
    same = {"README.md": "README.zh-CN.md", "docs/logins.zh-CN.md": "docs/logins.md"}
    assert [same.get(link, link) for link in theirs.pop("links")] == ours.pop("links")
    assert theirs == ours


def test_the_page_of_logins_is_the_same_in_chinese_and_its_links_lead_somewhere():
    ours, theirs = skeleton("docs/logins.md"), skeleton("docs/logins.zh-CN.md")
    for name, page in (("docs/logins.md", ours), ("docs/logins.zh-CN.md", theirs)):
        headings = re.findall(r"^## (.+)$", (ROOT / name).read_text(), re.MULTILINE)
        anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert {link for link in page.pop("links") if link.startswith("#")} == anchors
    assert theirs == ours
    for door in DOORS:
        assert door == OPEN or f"`{door}`" in (ROOT / "docs/logins.md").read_text()


def test_the_readme_lists_every_task():
    readme = (ROOT / "README.md").read_text()
    assert [t for t in TASKS if f"`{t}`" not in readme] == []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_map_of_the_readme_is_that_of_the_folders(name):
    drawn = re.search(r"^```\n(tasks\.py .*?)^```$", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)
    shown = set()
    for line in drawn[1].splitlines():
        first, *others = re.split(r" {2,}", line)[0].split()
        shown |= {first, *(f"rdtops/{other}" for other in others)}
    tracked = [path.split("/") for path in run("git", "ls-files").stdout.split()]
    there = {f"{path[0]}/" for path in tracked if len(path) > 1 and not path[0].startswith(".")} - {"rdtops/"}
    there |= {f"rdtops/{path[1]}/" for path in tracked if path[0] == "rdtops" and len(path) > 2}
    assert shown == there | {"tasks.py", "hosts.toml"}


def test_every_command_that_deploys_a_part_names_one_that_there_is():
    from rdtops.delivery.deploy import PARTS

    files = [*(ROOT / "rdtops").rglob("*.py"), *(ROOT / "plugins").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
    named = [part for file in files for part in re.findall(r"inv deploy [^`\n\"]*--only ([a-z]+)", file.read_text())]
    assert len(named) > 5
    assert set(named) <= set(PARTS)


def test_every_link_of_a_document_leads_somewhere():
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_every_section_of_a_document_that_a_message_names_is_there():
    named = {found for file in modules() for found in re.findall(r"docs/(\w+)\.md, ([A-Z][\w ]+)", file.read_text())}
    assert ("training", "Demonstrations") in named
    for document, section in named:
        headings = re.findall(r"^## (.+)$", (ROOT / "docs" / f"{document}.md").read_text(), re.MULTILINE)
        assert section in headings, (document, section)


def test_every_dependency_is_pinned_to_the_tested_version():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pins["torch"] == "2.13.0"
    assert (pins["fabric"], pins["invoke"].split(".")[0]) == ("3.2.3", "2")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for e in project["optional-dependencies"].values() for d in e)]
    names = {re.split(r"[<>=\[ ]", w)[0] for w in wanted} - {"rdtops"}
    assert names <= set(pins)


def opened_by_the_locale(path):
    """Yield the lines that read or write text with the encoding of the locale."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        given = {keyword.arg: keyword.value for keyword in node.keywords} if isinstance(node, ast.Call) else {}
        if not isinstance(node, ast.Call) or "encoding" in given:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        words = [word.value for word in (*node.args, *given.values())
                 if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        text_mode = any(re.fullmatch(r"[rwax]\+?", word) for word in words)
        if name in ("read_text", "write_text") or (name in ("open", "fdopen", "NamedTemporaryFile") and text_mode) or \
                getattr(given.get("text"), "value", None) is True:
            yield node.lineno


def test_text_is_utf_8_whatever_the_locale():
    product = [file for root in ("rdtops", "plugins") for file in (ROOT / root).rglob("*.py")]
    found = [f"{file.relative_to(ROOT)}:{line}" for file in product for line in opened_by_the_locale(file)]
    assert found == []
