import sys
import textwrap

import pytest

from rdtops.checks import Status
from rdtops.errors import PluginError
from rdtops.ops import registry
from rdtops.remote.probe import together

OK = """
    '''Says that all is well.'''
    from rdtops.api import CheckResult, hookimpl
    @hookimpl
    def preflight_check(spec):
        return CheckResult.ok("fine", spec)
"""
HOOK = "from rdtops.api import hookimpl\n@hookimpl\n"
CASES = {
    "a_good": OK,
    "b_raises": HOOK + "def preflight_check(host):\n    raise ValueError('broken ' + host)\n",
    "c_exits": HOOK + "def preflight_check():\n    raise SystemExit(3)\n",
    "d_nonsense": HOOK + "def preflight_check():\n    return 42\n",
    "e_syntax": "def f(:\n",
    "f_exit_at_import": "raise SystemExit('no')\n",
    "g_misspelt": HOOK + "def preflight_chek():\n    return None\n",
    "h_argument": HOOK + "def preflight_check(hosst):\n    return None\n",
    "i_no_hook": "x = 1\n",
    "z_good_too": OK,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's plugin folder, and no bundled plugins beside it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "bundled_folder", lambda: tmp_path / "none")
    monkeypatch.delenv("RDTOPS_DISABLED_PLUGINS", raising=False)
    made = tmp_path / "rdtops" / "plugins"
    made.mkdir(parents=True)
    yield made
    for name in [m for m in sys.modules if m.startswith("rdtops_plugin_")]:
        del sys.modules[name]


def findings(loaded, host=None, spec=None):
    works = loaded.preflight_works(host=host, connection=None, spec=spec, local_assets={})
    return [result for found in together(None, works) for result in found]


def write(folder, **plugins):
    for name, text in plugins.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))


def test_the_bundled_plugins_load_and_take_part():
    loaded = registry.load()
    assert not loaded.broken, loaded.broken
    assert {"md5", "gpu", "disk", "encoder_mirror"} <= {p.name for p in loaded.loaded}
    assert all(p.summary for p in loaded.loaded)


def test_one_bad_plugin_never_takes_another_down_and_is_named(folder):
    write(folder, **CASES)
    loaded = registry.load()
    assert {p.name for p in loaded.broken} == {"e_syntax", "f_exit_at_import", "g_misspelt", "h_argument", "i_no_hook"}
    found = {r.source: r for r in findings(loaded, host="h", spec="s")}
    assert {n for n, r in found.items() if r.status is Status.OK} == {"a_good", "z_good_too"}
    assert {n for n, r in found.items() if r.status is Status.FAIL} == set(CASES) - {"a_good", "z_good_too"}
    assert "ValueError: broken h" in found["b_raises"].summary
    assert "SystemExit" in found["c_exits"].summary
    assert "42" in found["d_nonsense"].summary


def test_a_plugin_can_be_left_out_by_name(folder, monkeypatch):
    write(folder, good=OK, bad="raise ValueError\n")
    monkeypatch.setenv("RDTOPS_DISABLED_PLUGINS", "bad, other")
    assert [p.name for p in registry.load().plugins] == ["good"]


def test_a_required_plugin_that_is_missing_or_broken_is_an_error(folder):
    write(folder, good=OK, bad="raise ValueError('why')\n")
    loaded = registry.load()
    loaded.require(["good"])
    with pytest.raises(PluginError, match="did you mean 'good'"):
        loaded.require(["goood"])
    with pytest.raises(PluginError, match="why"):
        loaded.require(["bad"])


def test_two_plugins_of_one_name_are_told_apart(folder, monkeypatch, tmp_path):
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    write(bundled, good=OK)
    write(folder, good=OK)
    monkeypatch.setattr(registry, "bundled_folder", lambda: bundled)
    loaded = registry.load()
    assert [p.name for p in loaded.loaded] == ["good"]
    assert str(bundled) in loaded.broken[0].problem


def test_no_plugin_at_all_is_not_a_finding_of_the_registry(folder):
    assert findings(registry.load()) == []
