"""The parsers with recorded and broken output, the hooks on a real host, and the rules of rdtops."""

from dataclasses import replace
from pathlib import Path

import pytest
import rdtops_nebula as nebula

from rdtops.api import Command, PreflightVeto
from rdtops.ssh.hosts import Environment
from rdtops.testing import BROKEN, ScriptedConnection, load, make_host, said
from rdtops.testing.conform import judge

pytest_plugins = ["rdtops.testing.fixtures"]
PLUGIN = load(nebula)
MODULES_SH = """\
module() {  # what environment-modules does, in short
    shift
    for name; do
        [ -r "$HOME/modulefiles/$name" ] || { echo "ERROR: Unable to locate a modulefile for '$name'" >&2; return 1; }
        . "$HOME/modulefiles/$name"
    done
}
"""


@pytest.fixture
def cluster(lab_connection):
    """A host with modules and a scratch; the options that fit it."""
    home = Path(lab_connection.home)
    (home / "modulefiles" / "python").mkdir(parents=True, exist_ok=True)
    (home / "modules.sh").write_text(MODULES_SH)
    (home / "modulefiles" / "python" / "3.11").write_text('export NEBULA_LOADED="python/3.11"\n')
    (home / "scratch").mkdir(exist_ok=True)
    host = lab_connection.host
    object.__setattr__(host, "environment", Environment(venv=f"{host.workspace}/nebula-env"))
    return {"modules": ["python/3.11"], "init": "~/modules.sh", "scratch": "~/scratch", "min_free_gb": 0.001}


def statuses(findings):
    return {r.name: r.status.value for r in findings}


def test_modules_that_load_and_a_scratch_with_room_are_good(cluster, lab_connection):
    found = nebula.preflight_check(lab_connection.host, lab_connection, cluster)
    assert statuses(found) == {"nebula modules": "OK", "nebula scratch": "OK"}, found


def test_a_module_that_is_not_there_and_a_scratch_that_is_too_small_fail(cluster, lab_connection):
    wrong = {**cluster, "modules": ["python/9"], "min_free_gb": 1e9}
    found = nebula.preflight_check(lab_connection.host, lab_connection, wrong)
    assert statuses(found) == {"nebula modules": "FAIL", "nebula scratch": "FAIL"}
    assert "python/9" in found[0].summary


def test_the_environment_loads_the_modules(cluster, lab_connection):
    nebula.before_train(lab_connection.host, lab_connection, cluster)
    python = f"{lab_connection.host.environment.venv}/bin/python"
    told = "import os; print(os.environ['NEBULA_LOADED'], os.environ['TMPDIR'])"
    found = lab_connection.run(Command(python, "-c", told)).out.split()
    assert found == ["python/3.11", f"{lab_connection.home}/scratch/tmp"]
    nebula.before_train(lab_connection.host, lab_connection, cluster)  # again: its own is replaced


def test_somebody_else_s_environment_is_left_alone(cluster, lab_connection):
    python = Path(lab_connection.host.environment.venv, "bin", "python")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    with pytest.raises(PreflightVeto, match="was not made by this plugin"):
        nebula.before_train(lab_connection.host, lab_connection, cluster)
    assert python.read_text() == "#!/bin/sh\n"


def test_modules_without_an_environment_are_a_veto(lab_connection):
    host = replace(lab_connection.host, environment=Environment())
    with pytest.raises(PreflightVeto, match="no environment"):
        nebula.before_train(host, lab_connection, {"modules": ["cuda"]})


@pytest.mark.parametrize("answer", BROKEN)
def test_an_unreadable_answer_is_a_finding(answer):
    connection = ScriptedConnection(make_host(), python=BROKEN[answer], scratch=BROKEN[answer])
    options = {name: option.default for name, option in nebula.OPTIONS.items()} | {"modules": ["cuda"]}
    found = nebula.preflight_check(connection.host, connection, options)
    assert statuses(found) == {"nebula modules": "FAIL", "nebula scratch": "FAIL"}


def test_a_module_system_that_fails_with_exit_0_is_seen():
    with pytest.raises(ValueError, match="cannot be loaded"):
        nebula.parse_python(said("Python 3.9.2\n", err="ERROR: Unable to locate a modulefile for 'python/3.11'"))


def test_it_keeps_the_rules_of_rdtops(rdtops_lab, cluster):
    assert [v for v in judge(PLUGIN, rdtops_lab, cluster) if v.holds is False] == []
