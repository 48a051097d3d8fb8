"""A host that answers what it likes ends a command within seconds, in little memory, with an error that names it."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from rdtops.lab.site import Lab

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[3]
MOST_MB = 500
LISTS = """\
import itertools, json
entry = dict(kind="file", size=1, md5="", mtime_ns=1, executable=True, link="", holes=0)
for number in itertools.count():
    print(json.dumps({"there": dict(entry, path="%0100d" % number)}))
"""
SAYS = {  # scripts for sh
    "floods": "exec yes",
    "floods_a_line": "exec cat /dev/zero",
    "floods_stderr": "exec cat /dev/zero >&2",
    "floods_entries": f"exec python3 -c {shlex.quote(LISTS)}",
    "floods_values": "printf '{\"a\":['; yes '{},' | tr -d '\\n' | head -c 30000000; printf '0]}\\n'",
    "lives": """while :; do echo '{"alive":true}'; sleep 0.2; done""",
    "lives_at_work_no_more": """while :; do echo '{"alive":7}'; sleep 0.2; done""",
    "drips": "while :; do printf x; sleep 0.05; done",
    "promises": """echo '{"bytes":1000000000000}'; sleep 9""",
    "nests": "yes '[' | tr -d '\\n' | head -c 200000; echo",
    "counts": "printf '{\"end\":'; yes 9 | tr -d '\\n' | head -c 5000; echo '}'",
    "number": "echo 5",
    "list": "echo '[]'",
    "nothing": "exit 3",
    "silent_end": "exit 0",
    "other_words": """echo '{"strange":1}'""",
    "other_words_to_the_end": """echo '{"strange":1}'; exec cat >/dev/null""",  # it has read all that we send
    "list_to_the_end": "echo '[]'; exec cat >/dev/null",
    "no_text": "printf '{\"end\": \"\\377\\376\"}\\n'",
    "odd_probe": """echo '{"df":{"code":[],"out":"","err":"","seconds":0}}'""",
    "odd_error": """echo '{"error":["x"],"path":7,"reason":null,"kind":"full","self":0}'""",
    "odd_home": """echo '{"home":"../x"}'""",
    "bomb": "cat bomb.json; exec sleep 9",
}
CASES = {
    "floods:call": ("CommandFailed", "more than 33554432 bytes of output from: the prober program"),
    "floods_a_line:call": ("CommandFailed", "more than 33554432 bytes of output"),
    "floods_stderr:call": ("CommandFailed", "more than 33554432 bytes of output"),
    "floods_values:call": ("CommandFailed", "JSON with more than 2097152 values"),
    "nests:call": ("CommandFailed", "nested too deeply"),
    "counts:call": ("CommandFailed", "digits"),
    "number:call": ("CommandFailed", "the answer of the prober program is not a JSON object"),
    "list:call": ("CommandFailed", "the answer of the prober program is not a JSON object"),
    "nothing:call": ("CommandFailed", "the prober program ended with exit code 3: no output"),
    "silent_end:call": ("CommandFailed", "the prober program ended with exit code 0"),
    "no_text:call": ("CommandFailed", "the prober program"),
    "drips:impatient_call": ("CommandTimeout", "timed out after 2 s: the prober program"),
    "nothing:shell": ("CommandFailed", "more than 16777216 bytes of output from: exec yes"),
    "other_words:probes": ("CommandFailed", "the answer of the prober program has no 'df'"),
    "odd_probe:probes": ("CommandFailed", "no exit code"),
    "floods:plan": ("TransferError", "not a message of rdtops: b'y'"),
    "floods_a_line:plan": ("TransferError", "a line of more than 33554432 bytes"),
    "floods_entries:plan": ("TransferError", "the list of files is longer than 67108864 bytes"),
    "floods_values:plan": ("TransferError", "not a message of rdtops"),
    "lives:plan": ("TransferError", "is alive but made no progress for 0.8 s"),
    "lives_at_work_no_more:plan": ("TransferError", "is alive but made no progress for 0.8 s"),
    "drips:plan": ("TransferError", "is alive but made no progress for 0.8 s"),
    "nests:plan": ("TransferError", "not a message of rdtops"),
    "counts:plan": ("TransferError", "not a message of rdtops"),
    "number:plan": ("TransferError", "not a message of rdtops"),
    "other_words:plan_up": ("TransferError", "the program on the host ended unexpectedly"),
    "odd_error:plan": ("TransferError", "/there"),
    "promises:piece": ("TransferError", "the size of a piece must be"),
    "nothing:plan": ("TransferError", "the program on the host ended unexpectedly: lab: exit 3 from: the porter"),
    "lives:plan_by_ssh": ("TransferError", "is alive but made no progress for 0.8 s"),
    "floods_a_line:plan_by_ssh": ("TransferError", "a line of more than 33554432 bytes"),
    "floods_stderr:plan_by_ssh": ("ConnectionLost", "more than 16777216 bytes on stderr"),
    "odd_home:home_by_ssh": ("CommandFailed", "not an absolute path: '../x'"),
    "drips:home_by_ssh": ("CommandFailed", "is alive but made no progress for 0.8 s"),
    "bomb:news": ("CommandFailed", "more than 50331648 bytes of JSON"),
    "floods_a_line:news": ("CommandFailed", "a line of more than 33554432 bytes"),
    "drips:news": ("CommandTimeout", "is alive but made no progress for 0.8 s"),
    "other_words_to_the_end:news": ("CommandFailed", "expected 'shrunk'"),
    "list_to_the_end:news": ("CommandFailed", "not a message of rdtops"),
}


@pytest.fixture(scope="module")
def ends(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How each case ended: all of them in one process."""
    folder = tmp_path_factory.mktemp("hostile")
    packer = zlib.compressobj(1)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(768)) + packer.flush()
    (folder / "bomb.json").write_text(json.dumps({"shrunk": base64.b85encode(bomb).decode()}) + "\n")
    for name, script in SAYS.items():
        (folder / name).write_text(f"#!/bin/sh\ncd {shlex.quote(str(folder))}\n{script}\n")
        (folder / name).chmod(0o755)
    lab.up()
    lab.write_inventory(folder / "hosts.toml", {})
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.hostile.hostile_answers", str(folder / "hosts.toml"), str(folder), *CASES],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return {row["case"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES)
def test_whatever_a_host_answers_is_an_error_that_names_it_soon_and_in_little_memory(
        ends: dict[str, dict[str, Any]], case: str) -> None:
    kind, words = CASES[case]
    end = ends[case]
    assert (end["kind"], words in end["message"]) == (kind, True), end
    assert "lab" in end["message"], end
    assert end["seconds"] < 30, end
    assert end["peak_mb"] < MOST_MB, end
