import os
import subprocess
import sys
import textwrap
import time

import pluggy
import pytest

from rdtops.checks import Status
from rdtops.errors import PluginError
from rdtops.launcher import Traits
from rdtops.plugging import catalog, discovery, registry
from rdtops.ssh.probe import together
from rdtops.testing import ScriptedConnection, make_host, said

OK = """
    '''Says that all is well.'''
    from rdtops.api import CheckResult, hookimpl
    @hookimpl
    def preflight_check(spec):
        return CheckResult.ok("fine", str(spec))
"""
HOOK = "from rdtops.api import hookimpl\n@hookimpl\n"
CASES = {
    "a_good": OK,
    "b_raises": HOOK + "def preflight_check(host):\n    raise ValueError('broken ' + host.name)\n",
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
    monkeypatch.setattr(discovery, "bundled_folder", lambda: tmp_path / "none")
    monkeypatch.delenv("RDTOPS_DISABLED_PLUGINS", raising=False)
    made = tmp_path / "rdtops" / "plugins"
    made.mkdir(parents=True)
    yield made
    for name in [m for m in sys.modules if m.startswith("rdtops_plugin_")]:
        del sys.modules[name]


def findings(loaded, host=None, spec=None):
    works = loaded.preflight_works(host=host or make_host(), connection=None, spec=spec, local_assets={},
                                   traits=Traits())
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
    found = {r.source: r for r in findings(loaded, spec="s")}
    assert {n for n, r in found.items() if r.status is Status.OK} == {"a_good", "z_good_too"}
    assert {n for n, r in found.items() if r.status is Status.FAIL} == set(CASES) - {"a_good", "z_good_too"}
    assert "ValueError: broken h" in found["b_raises"].summary
    assert "SystemExit" in found["c_exits"].summary
    assert "42" in found["d_nonsense"].summary


def test_a_plugin_can_be_left_out_by_name(folder, monkeypatch):
    write(folder, good=OK, bad="raise ValueError\n")
    monkeypatch.setenv("RDTOPS_DISABLED_PLUGINS", "bad, other")
    loaded = registry.load()
    assert [p.name for p in loaded.loaded] == ["good"]
    assert {p.name: p.problem for p in loaded.plugins if p.disabled} == {
        "bad": "left out by RDTOPS_DISABLED_PLUGINS", "other": "no such plugin"}
    assert loaded.broken == ()  # leaving one out is no fault


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
    monkeypatch.setattr(discovery, "bundled_folder", lambda: bundled)
    loaded = registry.load()
    assert [p.name for p in loaded.loaded] == ["good"]
    assert str(bundled) in loaded.broken[0].problem


def test_no_plugin_at_all_is_not_a_finding_of_the_registry(folder):
    assert findings(registry.load()) == []


# --- time ---

def preflight(loaded, **plugins):
    return {r.source: r for r in findings(loaded, make_host(plugins=plugins), "s")}


def test_a_hanging_plugin_is_named_in_its_time_and_the_others_are_heard(folder):
    write(folder, a_hangs=HOOK + "def preflight_check():\n    import time\n    time.sleep(30)\n", b_good=OK)
    start = time.monotonic()
    found = preflight(registry.load(), a_hangs={"time_limit_s": 1})
    assert time.monotonic() - start < 5
    assert found["a_hangs"].status is Status.FAIL
    assert "a_hangs was not done after 1 s in preflight_check" in found["a_hangs"].summary
    assert "[hosts.h.plugins.a_hangs]" in found["a_hangs"].remedy
    assert found["b_good"].status is Status.OK


def test_a_plugin_that_hangs_for_ever_does_not_keep_the_process(folder):
    write(folder, hangs="TIME_LIMIT_S = {'preflight_check': 1}\n" + HOOK
          + "def preflight_check():\n    import threading\n    threading.Event().wait()\n")
    program = ("from rdtops.plugging import registry; from rdtops.testing import make_host\n"
               "from rdtops.ssh.probe import together\n"
               "works = registry.load().preflight_works(host=make_host(), connection=None, spec=None,"
               " local_assets={}, traits=None)\n"
               "print([r.summary for found in together(None, works) for r in found])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True,
                          env={**os.environ, "RDTOPS_DISABLED_PLUGINS": "md5,gpu,disk,encoder_mirror"})
    assert "not done after 1 s" in done.stdout


def test_a_plugin_that_hangs_while_it_is_loaded_is_named(folder, monkeypatch):
    monkeypatch.setattr(discovery, "LOAD_TIME_LIMIT_S", 0.5)
    write(folder, a_hangs="import time\ntime.sleep(20)\n", b_good=OK)
    loaded = registry.load()
    assert [(p.name, p.problem) for p in loaded.broken] == [("a_hangs", "not done after 0.5 s")]
    assert [p.name for p in loaded.loaded] == ["b_good"]


def test_a_keyboard_interrupt_within_a_plugin_is_the_plugin_s(folder):
    write(folder, a_bad=HOOK + "def preflight_check():\n    raise KeyboardInterrupt\n", b_good=OK)
    found = preflight(registry.load())
    assert "KeyboardInterrupt" in found["a_bad"].summary
    assert found["b_good"].status is Status.OK


# --- versions, order, packages ---

@pytest.mark.parametrize(("version", "words"), [("2", "update rdtops"), ("0", "update the plugin")])
def test_a_plugin_for_another_version_of_the_api_is_refused_with_the_way_out(folder, version, words):
    write(folder, other=f"API_VERSION = {version}\n" + HOOK + "def preflight_check():\n    return None\n")
    (broken,) = registry.load().broken
    assert broken.problem.startswith(f"it needs version {version} of rdtops.api, this is 1")
    assert words in broken.problem


def test_tryfirst_and_trylast_order_the_calls(folder):
    hook = "from rdtops.api import hookimpl\n@hookimpl({})\ndef before_train():\n    pass\n"
    write(folder, a=hook.format("trylast=True"), b=hook.format(""), c=hook.format("tryfirst=True"), d=hook.format(""))
    called = registry.load().call("before_train", host=make_host(), connection=None, run=None, local_assets={})
    assert [c.plugin for c in called] == ["c", "b", "d", "a"]


def test_a_wrapper_is_refused_because_there_is_nothing_to_wrap(folder):
    write(folder, wraps="from rdtops.api import hookimpl\n@hookimpl(wrapper=True)\n"
          "def before_train():\n    return (yield)\n")
    (broken,) = registry.load().broken
    assert "wraps a hook, which is not supported" in broken.problem


def test_one_manager_is_made_whatever_is_called(folder, monkeypatch):
    made = []

    class Counted(pluggy.PluginManager):
        def __init__(self, project):
            super().__init__(project)
            made.append(self)

    monkeypatch.setattr(pluggy, "PluginManager", Counted)
    write(folder, **CASES)
    loaded = registry.load()
    findings(loaded)
    (manager,) = made
    assert [name for name, _ in manager.list_name_plugin()] == [p.name for p in loaded.loaded]  # the refused are gone


def test_a_hook_may_have_a_function_of_another_name(folder):
    write(folder, named="from rdtops.api import CheckResult, hookimpl\n@hookimpl(specname='preflight_check')\n"
          "def look(host):\n    return CheckResult.ok('named', host.name)\n")
    assert preflight(registry.load())["named"].status is Status.OK


def test_a_folder_can_be_a_plugin_and_tests_beside_it_are_none(folder):
    (folder / "large").mkdir()
    (folder / "large" / "__init__.py").write_text(textwrap.dedent(OK) + "from . import parts\n")
    (folder / "large" / "parts.py").write_text("x = 1\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "__init__.py").write_text("raise ValueError\n")
    write(folder, test_large="raise ValueError\n", conftest="raise ValueError\n")
    assert [(p.name, p.problem) for p in registry.load().plugins] == [("large", "")]


# --- options ---

TUNED = """
    from rdtops.api import CheckResult, Option, hookimpl
    OPTIONS = {"gb": Option(float, "how many", default=1.0, least=0), "only": Option(list, "which", choices=("a", "b")),
               "url_file": Option(str, "a path", pattern="[^:]+"), "fast": Option(bool, "not the slow way")}
    @hookimpl
    def preflight_check(options):
        return CheckResult.ok("tuned", f"{options['gb']:g} {options['only']}")
"""


def test_options_come_with_their_defaults(folder):
    write(folder, tuned=TUNED)
    loaded = registry.load()
    assert preflight(loaded)["tuned"].summary == "1 None"
    assert preflight(loaded, tuned={"gb": 3, "only": ["a"]})["tuned"].summary == "3 ['a']"


@pytest.mark.parametrize(("options", "words"), [
    ({"gib": 1}, "unknown option 'gib'; did you mean 'gb'?"),
    ({"gb": "many"}, "gb must be a number, not str"),
    ({"gb": True}, "gb must be a number, not bool"),
    ({"gb": float("nan")}, "gb must be a number"),
    ({"gb": -1}, "gb must be at least 0"),
    ({"only": ["a", "c"]}, "only must be some of a, b"),
    ({"only": "a"}, "only must be a list of strings, not str"),
    ({"fast": 1}, "fast must be true or false, not int"),
    ({"time_limit_s": 0}, "time_limit_s must be at least 1"),
])
def test_a_wrong_option_is_one_finding_with_its_table(folder, options, words):
    write(folder, tuned=TUNED)
    loaded = registry.load()
    (found,) = findings(loaded, make_host(plugins={"tuned": options}))
    assert (found.status, found.source) == (Status.FAIL, "tuned")
    assert words in found.summary
    assert "[hosts.h.plugins.tuned]" in found.summary


def test_a_secret_in_the_wrong_place_is_never_repeated(folder):
    write(folder, tuned=TUNED)
    loaded, host = registry.load(), make_host(plugins={"tuned": {"url_file": "https://hook/s3cret", "only": "s3cret"}})
    found = findings(loaded, host)
    rows = list(catalog.rows(loaded, [host], []))
    assert "url_file does not match the expected format" in found[0].summary
    assert "s3cret" not in repr(found) + repr(rows)


def test_options_for_an_absent_and_for_a_disabled_plugin_are_said_by_name(folder, monkeypatch):
    write(folder, tuned=TUNED, off=OK)
    monkeypatch.setenv("RDTOPS_DISABLED_PLUGINS", "off")
    found = preflight(registry.load(), tund={"gb": 1}, off={"x": 1})
    assert (found["tund"].status, found["off"].status) == (Status.FAIL, Status.WARN)
    assert found["tund"].summary == "[hosts.h.plugins.tund] is for an unknown plugin; did you mean 'tuned'?"
    assert "RDTOPS_DISABLED_PLUGINS" in found["off"].summary


@pytest.mark.parametrize("declared", ["{'gb': 'how many'}", "3", "{'gb': Option(float, 'how many', default='x')}",
                                      "{'time_limit_s': Option(float, 'mine')}"])
def test_options_that_are_declared_wrongly_break_the_plugin(folder, declared):
    write(folder, odd="from rdtops.api import Option\nOPTIONS = " + declared + "\n" + HOOK
          + "def preflight_check():\n    return None\n")
    assert [p.name for p in registry.load().broken] == ["odd"]


def test_wrong_options_stop_a_launch_and_a_missing_plugin_is_in_the_catalog(folder):
    write(folder, tuned=TUNED.replace("preflight_check(options)", "before_train(options)"))
    loaded, host = registry.load(), make_host(plugins={"tuned": {"gib": 1}})
    (call,) = loaded.call("before_train", host=host, connection=None, run=None, local_assets={})
    assert "unknown option 'gib'" in str(call.error)
    rows = {row.plugin.name: row for row in catalog.rows(loaded, [host], ["md6"])}
    assert {name: row.passed for name, row in rows.items()} == {"tuned": False, "md6": False}


def test_what_plugins_ask_side_by_side_travels_in_one_trip(folder):
    """Although each is called in a thread of its own, to be left behind when it hangs."""
    asks = """
        from rdtops.api import CheckResult, Probe, ask, hookimpl
        @hookimpl
        def preflight_check(connection):
            answer = ask(connection, [Probe("NAME", "echo", lambda output: output.out)])["NAME"]
            return CheckResult.ok("NAME", answer.value)
    """
    write(folder, a=asks.replace("NAME", "a"), b=asks.replace("NAME", "b"))
    trips = []

    class Counted(ScriptedConnection):
        def call(self, program, request, *, timeout_s=60.0):
            trips.append(sorted(request["probes"]))
            return super().call(program, request, timeout_s=timeout_s)

    connection = Counted(make_host(), a=said("1"), b=said("2"))
    works = registry.load().preflight_works(host=connection.host, connection=connection, spec=None, local_assets={},
                                            traits=Traits())
    found = [result for results in together(connection, works) for result in results]
    assert [(r.name, r.summary) for r in found] == [("a", "1"), ("b", "2")]
    assert trips == [["a", "b"]]
