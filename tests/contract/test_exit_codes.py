"""Exit codes in words: of real processes, as Python and as a shell counts them."""

import signal
import subprocess
import sys

import pytest

from rdtops.contract import exit_codes
from rdtops.errors import RunError
from rdtops.runs import inquiries
from rdtops.views import words


@pytest.mark.parametrize(("number", "said"), [
    (signal.SIGSEGV, "SIGSEGV (exit 139): a native library crashed"),
    (signal.SIGABRT, "SIGABRT (exit 134): a native library crashed"),
    (signal.SIGILL, "SIGILL (exit 132): a native library has instructions that this processor lacks"),
    (signal.SIGKILL, "SIGKILL (exit 137): killed, by somebody or by the kernel for its memory"),
    (signal.SIGTERM, "SIGTERM (exit 143)")])
def test_a_signal_is_named_however_its_code_is_counted(number, said):
    program = f"import os; os.kill(os.getpid(), {int(number)})"
    by_python = subprocess.run([sys.executable, "-c", program], check=False).returncode
    by_shell = subprocess.run(["sh", "-c", f"{sys.executable} -c '{program}'; exit $?"], check=False,
                              capture_output=True).returncode
    assert by_python != by_shell
    assert {exit_codes.words(by_python), exit_codes.words(by_shell)} == {said}
    assert exit_codes.is_crash(by_shell) is (number not in (signal.SIGKILL, signal.SIGTERM))


@pytest.mark.parametrize(("code", "said"), [(0, "exit code 0"), (2, "exit code 2"), (255, "exit code 255"),
                                            (-999, "exit code -999"), (None, "no exit code")])
def test_what_is_no_signal_is_its_number(code, said):
    assert exit_codes.words(code) == said
    assert not exit_codes.is_signal(code)
    assert not exit_codes.is_crash(code)


def test_a_crash_is_told_in_a_sentence_where_a_user_sees_it():
    with pytest.raises(RunError, match=r"evaluate failed with SIGSEGV \(exit 139\): a native library crashed: words"):
        inquiries._answer("h", "evaluate", 139, "", "words", "inv deploy")
    assert words.exit_words(139) == "SIGSEGV (exit 139): a native library crashed"
    assert (words.exit_words(1), words.exit_words(143)) == ("exit 1", "SIGTERM (exit 143)")
