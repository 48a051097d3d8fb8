import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdtops.ssh.command import GREETING, READY, Command, Secret, for_the_host

words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=40)


@given(st.lists(words, min_size=1, max_size=5))
def test_any_word_reaches_the_program_as_it_is(arguments):
    line = Command("printf", "%s\\0", *arguments).shell()
    out = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout
    assert out.split(b"\0")[:-1] == [a.encode() for a in arguments]


@given(words, words)
def test_values_and_folders_are_data_never_shell(value, folder_name):
    line = Command("sh", "-c", 'printf %s "$VALUE"', env={"VALUE": value}).shell()
    assert subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout == value.encode()
    missing = Command("true", cwd="/nowhere/" + folder_name).shell()
    assert subprocess.run(["sh", "-c", missing], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("name", ["", "A B", "A=1;rm", "1A", "Ä", "A\n"])
def test_a_bad_variable_name_is_refused(name):
    with pytest.raises(ValueError, match="environment variable"):
        Command("true", env={name: "x"}).shell()


def test_a_nul_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        Command("echo", "a\0b").shell()


def test_a_secret_neither_prints_nor_becomes_part_of_a_line():
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r}"
    with pytest.raises(ValueError, match=r"\*\*\*"):
        Command("login", secret).shell()
    assert secret.reveal() == "hunter2"


@pytest.mark.parametrize("shell", [s for s in ("sh", "bash", "zsh", "fish", "tcsh", "mksh") if shutil.which(s)])
@settings(max_examples=25)
@given(st.lists(words, min_size=1, max_size=5))
def test_any_word_reaches_the_program_through_any_login_shell(shell, arguments):
    line = for_the_host(Command("printf", "%s\\0", *arguments).shell())
    done = subprocess.run([shell, "-c", line], capture_output=True, check=True, input=GREETING, env={"HOME": "/none"})
    assert done.stdout.removeprefix(READY).split(b"\0")[:-1] == [a.encode() for a in arguments]
    assert done.stderr == READY


def test_a_line_that_no_host_takes_is_refused_here():
    with pytest.raises(ValueError, match="too long, send it over stdin"):
        for_the_host(Command("echo", "x" * 131_072).shell())


def test_a_login_shell_needs_no_process_beside_ours():
    line = for_the_host("exec cat /proc/$$/comm")
    for login_shell in ("sh", "bash"):
        assert subprocess.run([login_shell, "-c", line], input=GREETING, capture_output=True, check=True).stdout == \
            READY + b"cat\n"


@pytest.mark.parametrize(("umask", "modes"), [
    (0o000, [0o755, 0o644]), (0o022, [0o755, 0o644]), (0o077, [0o700, 0o600])])
def test_what_is_made_on_a_host_is_for_its_user_alone_to_write(umask, modes, tmp_path):
    line = for_the_host("mkdir 'a folder' && : > file")
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True, umask=umask, input=GREETING)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a folder", "file")] == modes
