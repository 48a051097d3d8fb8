"""The conformance kit sees what breaks a rule; a kit that passes everything would be worse than none."""

import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from rdtops.ssh.connection import Connection
from rdtops.testing import conform, load

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

BAD = """
    from rdtops.api import CheckResult, Command, hookimpl
    from rdtops.errors import RdtopsError
    import plugins.disk
    @hookimpl
    def preflight_check(connection, spec):
        connection.run(Command("touch", "I was here"), check=False)
        try:
            space = connection.run_shell("df -kP /").out
        except RdtopsError:
            space = ""
        return CheckResult.ok("blind", "all is well")
    @hookimpl
    def before_train(connection):
        try:
            connection.run(Command("uname"))
        except Exception as error:
            raise KeyError(str(error))
    @hookimpl
    def after_checkpoint():
        return 42
    @hookimpl
    def after_run(connection):
        import time
        try:
            connection.run(Command("uname"))
        except Exception as error:
            time.sleep(60 if "timed out after" in str(error) else 0)
"""


@pytest.fixture
def verdicts(tmp_path, rdtops_lab, monkeypatch):
    monkeypatch.setattr(conform, "LIMIT_S", 3.0)
    (tmp_path / "bad.py").write_text(textwrap.dedent(BAD))
    return {v.rule: v for v in conform.judge(load(tmp_path / "bad.py"), rdtops_lab)}


def test_every_broken_rule_is_named(verdicts):
    broken = {rule for rule, v in verdicts.items() if v.holds is False}
    assert broken == {
        "of rdtops it imports rdtops.api only", "its docstring says in one line what it does",
        "preflight_check: changes nothing on the host", "preflight_check: garbage for an answer",
        "before_train: the host is gone", "before_train: commands hang",
        "after_checkpoint: a healthy host", "after_checkpoint: the host is gone", "after_checkpoint: commands hang",
        "after_checkpoint: garbage for an answer", "after_checkpoint: the disk is full",
        "after_run: the host is gone", "after_run: commands hang"} - _untried(verdicts)
    assert "rdtops.errors.RdtopsError; bad.py:4: plugins.disk" in verdicts["of rdtops it imports rdtops.api only"].words
    assert "I was here" in verdicts["preflight_check: changes nothing on the host"].words
    assert "KeyError" in verdicts["before_train: commands hang"].words
    assert "not done after 3 s" in verdicts["after_run: commands hang"].words


def _untried(verdicts):
    return {rule for rule, v in verdicts.items() if v.holds is None}


def test_the_program_says_what_it_is_asked_and_ends_with_a_code(tmp_path):
    said = []
    assert conform.main([str(tmp_path / "none.py")], said.append) == 2
    assert "FileNotFoundError" in said[-1]
    assert conform.main(["no_such_plugin"], said.append) == 2
    assert "No module named 'no_such_plugin'" in said[-1]


BUNDLED = {"md5": {}, "gpu": {}, "disk": {"min_free_gb": 0.1}, "encoder_mirror": {}, "notify": {},
           "checkpoint_guard": {"verify": True, "prune": True, "copy_to_folder": "~/archive"},
           "video_download": {"into": "TMP"}}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_plugins_keep_the_rules(name, rdtops_lab, tmp_path):
    options = {key: str(tmp_path) if value == "TMP" else value for key, value in BUNDLED[name].items()}
    assert [v for v in conform.judge(load(name), rdtops_lab, options) if v.holds is False] == []


def test_a_connection_that_several_threads_open_at_once_has_one_chain(lab_host):
    """As checks do that run side by side, when the link they share was lost."""
    connection = Connection(lab_host)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: connection.open(), range(4)))
    try:
        assert len(connection._link.links) == len(lab_host.route)
        assert connection.ping() > 0
    finally:
        connection.close()
