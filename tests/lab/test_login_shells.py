"""Every login shell runs our commands unharmed, whatever its start-up files print; one that does not is named."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdtops.errors import CommandFailed, HostError, LoginShellError, RdtopsError, RemoteError
from rdtops.on_host import prober
from rdtops.ssh.command import Command
from rdtops.ssh.connection import Connection
from rdtops.ssh.openssh_client import SshClient
from tests.lab.commandline import CommandLine
from tests.lab.login_shells import NEEDS, SHELLS, Account, account_of
from tests.lab.moves import download, upload

pytestmark = [pytest.mark.lab, NEEDS]

WORDS = ("", "two words", "new\nline", "\n\n", "!x", "!!", "back\\slash\\n\\", "it's", '"$HOME"', "`id`", "$(id)", "~",
         "*?[a]", "{a,b}", "a;b&&c|d>e<f", "#c", "^a^b", "%s%%", "-n", "tab\t", "\\\n", "'\"'\\''!\n", "数据集", "ñ",
         "\U0001f916", "\udcff\udcb0", "\x1b[2J", "@", "(", "=zsh", "x" * 20_000)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    yield from account_of(tmp_path_factory.mktemp("account"))


@pytest.fixture
def small(tmp_path: Path, home: None) -> Path:
    (tmp_path / "small").write_bytes(bytes(range(256)) * 100)
    return tmp_path / "small"


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_passes_on_every_word_its_input_and_its_exit_code(account: Account, shell: str) -> None:
    account.has(shell)
    with Connection(account.host) as connection:
        line = Command("printf", "%s\\0", *WORDS).shell()
        with connection.stream(line) as stream:
            out, err = stream.finish(b"", 20)
            assert [word.decode("utf-8", "surrogateescape") for word in out.split(b"\0")[:-1]] == list(WORDS)
            assert (stream.code(), err) == (0, b"")
        result = connection.run_shell('cat; umask; echo "it failed" >&2; exit 7', check=False, stdin=b"exit 97\n\0\xff")
        assert (result.code, result.out, result.err) == (7, "exit 97\n\0�0022\n", "it failed\n")
        assert connection.home == str(account.home)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh", "csh"])
def test_what_start_up_files_print_is_no_answer(account: Account, shell: str, small: Path, tmp_path: Path) -> None:
    account.has(shell, "echo 'Welcome to node 7'; echo 'rdtops:$((61*71))'; sh -c 'echo oh >&2; printf no-newline'")
    with Connection(account.host) as connection:
        assert connection.home == str(account.home)
        result = connection.run_shell("echo out; echo err >&2")
        assert (result.out, result.err) == ("out\n", "err\n")
        probe = {"shell": "echo seen", "timeout_s": 5}
        assert connection.call(prober, {"probes": {"p": probe}})["p"]["out"] == "seen\n"
        if shell not in ("bash", "tcsh"):  # two are enough for what takes long
            return
        upload(connection, small, account.home / "there")
    with SshClient(account.host) as client:
        assert client.absolute("~/there") == str(account.home / "there")
        download(client, account.home / "there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == small.read_bytes()


EXECS_ZSH = "exec zsh -l"
READ = "read the input of the command"
NEVER = {  # shell, start-up file -> words of the error, and of its remedy
    "another shell": ("bash", EXECS_ZSH, "exit 97", "`exec` of another shell"),
    "it exits": ("bash", 'case $- in *i*) ;; *) echo "no terminal"; exit 1;; esac', "no terminal", "~/.bashrc"),
    "it exits with 0": ("bash", "exit 0", "exit 0", "`exit`"),
    "it reads": ("bash", "read x", READ, "`read`"),
    "it reads a line in fish": ("fish", "read x", READ, "config.fish"),
    "a menu": ("bash", 'echo "1) GPU 2) CPU"; while :; do read choice || exit; [ "$choice" = 1 ] && break; done',
               "1) GPU 2) CPU", "a menu"),
    "it prints megabytes": ("zsh", "yes 'no end' | head -c 5000000", "more than 1048576 bytes", ".zshenv"),
    "it prints megabytes of errors": ("bash", "yes 'no end' | head -c 5000000 >&2", "more than 1048576 bytes", "bash"),
    "another shell of tcsh": ("tcsh", EXECS_ZSH, "exit 97", "`exec` of another shell"),
    "it writes to the terminal": ("bash", r"printf '\033]0;title\007\033[2Jgone\n'; exit 1",
                                  r"\x1b]0;title\x07\x1b[2Jgone", "~/.bashrc"),
    "nologin": ("nologin", "", "not available", "the account has no shell"),
    "rbash": ("rbash", "", "restricted", "a restricted shell"),
}


@pytest.mark.parametrize("case", NEVER)
def test_a_shell_that_never_runs_our_command_is_named_with_its_words(account: Account, case: str) -> None:
    shell, start_up, words, remedy = NEVER[case]
    account.has(shell, start_up)
    with_input = (lambda c: c.call(prober, {"probes": {}}), lambda c: c.run(Command("cat"), stdin=b"x", check=False))
    without = (lambda c: c.home, lambda c: c.run(Command("true"), check=False))
    with Connection(account.host) as connection:
        for ask in with_input + (() if words in ("exit 97", READ) else without):
            begun_s = time.monotonic()
            with pytest.raises(LoginShellError, match=re.escape(words)) as raised:
                ask(connection)
            assert "bastion: the login shell of" in raised.value.message
            assert remedy in raised.value.remedy
            assert raised.value.exit_code == 3
            assert "\x1b" not in raised.value.message
            assert time.monotonic() - begun_s < 10
        assert connection.alive
    if case in ("another shell", "it reads", "it prints megabytes", "nologin"):
        with SshClient(account.host) as client, pytest.raises(LoginShellError, match=re.escape(words)):
            client.absolute("~/x")


def test_a_command_without_input_loses_none_and_is_not_taken_for_one_that_ran(account: Account) -> None:
    account.has("bash", "read x")
    with Connection(account.host) as connection:
        assert connection.home == str(account.home)
    account.has("bash", EXECS_ZSH)
    with Connection(account.host) as connection, pytest.raises(LoginShellError, match="it printed nothing") as raised:
        connection.run(Command("test", "-e", "/nowhere"), check=False)
    assert "`exec`" in raised.value.remedy


def test_the_words_of_a_shell_are_shown_escaped_and_the_exit_code_is_3(account: Account, tmp_path: Path) -> None:
    account.has(*NEVER["it writes to the terminal"][:2])
    (tmp_path / "hosts.toml").write_text("[hosts.bastion]\n" + "".join(
        f"{key} = {getattr(account.host, key)!r}\n" for key in ("address", "port", "identity_file", "known_hosts")))
    inv = CommandLine(tmp_path, tmp_path / "hosts.toml")
    done = inv.refused("gpu --host bastion", 3, "the login shell of", r"\x1b]0;title\x07\x1b[2Jgone", "~/.bashrc")
    assert "\x1b]0" not in done.err


def test_a_start_up_file_that_never_ends_is_named_in_time(account: Account) -> None:
    account.has("bash", "echo waiting for the licence; sleep 30")
    with Connection(account.host) as connection, pytest.raises(LoginShellError, match="for the licence") as raised:
        connection.run(Command("true"), timeout_s=1)
    assert "no answer within 1 s" in raised.value.message


def test_a_shell_that_takes_our_input_for_commands_executes_none_of_it(account: Account, tmp_path: Path) -> None:
    account.has("bash", EXECS_ZSH)
    with Connection(account.host) as connection, pytest.raises(HostError):
        connection.run(Command("cat"), stdin=f"touch {tmp_path}/harm\n".encode() * 1000)
    assert not (tmp_path / "harm").exists()


def test_a_command_that_is_killed_on_the_host_is_no_lost_connection(account: Account) -> None:
    account.has("bash")
    with Connection(account.host) as connection:
        with pytest.raises(CommandFailed, match="killed by a signal: kill -9"):
            connection.run_shell("kill -9 $$")
        assert connection.run(Command("echo", "alive")).out == "alive\n"


# --- what a host may lack ---

@pytest.mark.parametrize("lines", ["export PATH=", "unset PATH", "export HOME=/proc/nowhere", "umask 077; cd /",
                                   "set -e"])
def test_a_host_that_lacks_something_runs_commands_all_the_same(account: Account, lines: str) -> None:
    account.has("bash", before=lines)
    with Connection(account.host) as connection:
        assert connection.run_shell("ls -d / | cat").out == "/\n"
        probe = {"shell": "echo seen", "timeout_s": 5}
        assert connection.call(prober, {"probes": {"p": probe}})["p"]["out"] == "seen\n"


@pytest.mark.parametrize("lines", ["unset HOME", "export HOME=here"])
def test_a_home_that_is_none_is_named(account: Account, lines: str) -> None:
    account.has("bash", before=lines)
    with Connection(account.host) as connection, pytest.raises(RemoteError, match=r"bastion: \$HOME is") as raised:
        connection.absolute("~/rdtops")
    assert "what changes HOME" in raised.value.remedy


def test_a_host_that_starts_no_more_processes_is_named(account: Account) -> None:
    """As an ordinary user, whom the limit holds."""
    account.has("bash", before="export line=\"$SSH_ORIGINAL_COMMAND\"\nexec setpriv --reuid 64321 --regid 64321 "
                               "--clear-groups bash -c 'ulimit -u 1; eval \"$line\"'")
    asks = (lambda c: c.home, lambda c: c.run(Command("echo", "new\nline")),
            lambda c: c.call(prober, {"probes": {"p": {"shell": "true", "timeout_s": 5}}}))
    with Connection(account.host) as connection:
        for ask in asks:
            with pytest.raises(RdtopsError, match=r"fork|new thread") as raised:
                ask(connection)
            assert "it starts no more processes" in raised.value.remedy
            assert "Traceback" not in raised.value.message
