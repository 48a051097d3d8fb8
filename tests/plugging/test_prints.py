"""What plugins print: on stderr, with their names, whatever else prints at the same time."""

from __future__ import annotations

import sys
import threading

import pytest

from rdtops.plugging.bounded import bounded


def test_what_a_plugin_prints_goes_to_stderr_by_name_and_results_stay_on_stdout(
        capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    both = threading.Barrier(3, timeout=10)

    def plugin(word: str) -> None:
        both.wait()
        sys.stdout.write(f"{word} ")
        both.wait()
        sys.stdout.write("and more\nlast")

    threads = [threading.Thread(target=bounded, args=(name, lambda name=name: plugin(f"I am {name}"), 10))
               for name in ("disk", "gpu")]
    for thread in threads:
        thread.start()
    both.wait()
    sys.stdout.write("a result\n")
    both.wait()
    for thread in threads:
        thread.join()
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert sorted(err.splitlines()) == ["[disk] I am disk and more", "[disk] last", "[gpu] I am gpu and more",
                                        "[gpu] last"]
    assert sys.stdout is before
