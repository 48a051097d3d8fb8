"""A plugin in its own distribution: built, installed into a fresh environment, found there and used."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "rdtops-nebula"


def run(*words, **settings):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The Python of an environment that has what rdtops needs, and the example from its wheel. No network."""
    folder = tmp_path_factory.mktemp("nebula")
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, EXAMPLE)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    ours = sysconfig.get_path("purelib")
    (packages / "rdtops-needs.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    return python


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RDTOPS_DISABLED_PLUGINS")}
    return {**kept, **more}


def test_the_plugin_is_found_with_its_version_hooks_and_options(fresh, tmp_path):
    (tmp_path / "hosts.toml").write_text('[hosts.nebula]\naddress = "192.0.2.1"\n[hosts.nebula.plugins.nebula]\n'
                                         'modules = ["cuda/12.4"]\n')
    listed = run(fresh, "-m", "invoke", "plugins", "--json", cwd=ROOT,
                 env=environment(RDTOPS_HOSTS=str(tmp_path / "hosts.toml")))
    (row,) = [r for r in json.loads(listed.stdout) if r["name"] == "nebula"]
    assert (row["source"], row["version"], row["healthy"]) == ("rdtops-nebula 0.1.0", "0.1.0", True)
    assert row["hooks"] == ["preflight_check", "before_train"]
    assert {o["name"]: o["set"] for o in row["options"]}["modules"] == {"nebula": ["cuda/12.4"]}


@pytest.mark.lab
def test_its_own_tests_pass_there_against_a_real_host(fresh):
    run(fresh, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not rules", cwd=EXAMPLE, env=environment())


@pytest.mark.lab
def test_it_conforms_there(fresh):
    done = run(fresh, "-m", "rdtops.testing.conform", "nebula", cwd=EXAMPLE, env=environment())
    assert "nebula: conforms" in done.stdout
