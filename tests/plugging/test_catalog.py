"""`inv plugins` and `inv plugins.new` as they are typed, above all when something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def inv(tmp_path, monkeypatch):
    """Runs inv with a configuration folder and a hosts.toml of its own."""
    (tmp_path / "config" / "rdtops" / "plugins").mkdir(parents=True)

    def inv(*words, hosts="", **variables):
        (tmp_path / "hosts.toml").write_text(hosts)
        env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config"), "RDTOPS_HOSTS": str(tmp_path / "hosts.toml"),
               **variables}
        return subprocess.run([sys.executable, "-m", "invoke", *words], cwd=ROOT, env=env, capture_output=True,
                              text=True, check=False)
    return inv


def rows(done):
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_all_is_well_and_everything_of_a_plugin_is_shown(inv):
    host = '[hosts.a]\naddress = "192.0.2.1"\n[hosts.a.plugins.disk]\nmin_free_gb = 45\n'
    done = inv("plugins", "--json", hosts=host)
    disk = rows(done)["disk"]
    assert done.returncode == 0
    assert (disk["hooks"], disk["healthy"], disk["version"] != "") == (["preflight_check"], True, True)
    assert [(o["name"], o["kind"], o["default"], o["set"]) for o in disk["options"]] == [
        ("min_free_gb", "float", 0.0, {"a": 45})]


def test_a_required_plugin_that_is_missing_is_shown_and_not_only_complained_about(inv):
    done = inv("plugins", "--json", hosts='required_plugins = ["md6", "gpu"]\n', RDTOPS_DISABLED_PLUGINS="gpu")
    assert done.returncode == 1
    assert rows(done)["md6"]["problem"] == "not found; did you mean 'md5'?"
    assert "hosts.toml requires it" in rows(done)["gpu"]["problems"]
    assert rows(done)["md5"]["healthy"]


def test_wrong_options_and_a_broken_plugin_are_told_with_exit_1(inv, tmp_path):
    (tmp_path / "config" / "rdtops" / "plugins" / "mine.py").write_text("raise SystemExit('no')\n")
    host = '[hosts.a]\naddress = "192.0.2.1"\n[hosts.a.plugins.disk]\nmin_free_gib = 45\n[hosts.a.plugins.dsk]\nx = 1\n'
    done = inv("plugins", "--json", hosts=host)
    assert done.returncode == 1
    assert "SystemExit: no" in rows(done)["mine"]["problem"]
    assert "unknown option 'min_free_gib'; did you mean 'min_free_gb'?" in rows(done)["disk"]["problems"][0]
    assert rows(done)["dsk"]["problem"] == ("[hosts.a.plugins.dsk] is for an unknown plugin; "
                                            "did you mean 'disk'?")
    assert "min_free_gib" in inv("plugins", hosts=host).stdout  # for people too


def test_it_works_where_hosts_toml_cannot_be_read(inv):
    done = inv("plugins", "--json", hosts="= nonsense")
    assert "is not valid TOML" in done.stderr
    assert rows(done)["md5"]["healthy"]


def test_a_new_plugin_is_among_them(inv):
    written = inv("plugins.new", "mine", "--json")
    assert [Path(row["file"]).name for row in json.loads(written.stdout)] == ["mine.py", "test_mine.py"]
    assert rows(inv("plugins", "--json"))["mine"]["healthy"]
    again = inv("plugins.new", "mine")
    assert (again.returncode, "a plugin 'mine' exists already" in again.stderr) == (2, True)
