"""What `inv gpu` makes of an nvidia-smi that fails."""

from types import SimpleNamespace

import pytest

from rdtops.errors import CommandTimeout, RunError
from rdtops.ssh.probe import Output
from rdtops.testing import ScriptedConnection, make_host
from rdtops.workflows import gpu_usage

LOST = "Unable to determine the device handle for GPU0000:4E:00.0: GPU is lost.\n"


class Hanging(ScriptedConnection):
    def run_shell(self, line, **_):
        raise CommandTimeout(f"h: timed out after 60 s: {line}")


def shown(answer, kind=ScriptedConnection):
    connection = kind(make_host(), **{"nvidia-smi": answer})
    session = SimpleNamespace(host=connection.host, connect=lambda: connection)
    return list(gpu_usage.gpu(session, again_every_s=0))


def test_the_gpus_that_are_left_are_shown_whatever_the_exit_code():
    (output,) = shown(Output(15, f"0, GPU-5c1f0c2e-0000, A800, 4, 81920, 0, 31\n{LOST}", ""))
    assert [row["index"] for row in output.rows] == ["0"]
    assert "GPU is lost" in output.text


@pytest.mark.parametrize(("answer", "words"), [
    (Output(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", ""),
     "h: nvidia-smi ended with exit code 9: NVIDIA-SMI has failed"),
    (Output(127, "", "sh: 1: nvidia-smi: not found\n"), "exit code 127: sh: 1: nvidia-smi: not found")])
def test_without_a_gpu_the_error_quotes_it(answer, words):
    with pytest.raises(RunError, match=words) as raised:
        shown(answer)
    assert raised.value.remedy == "inv check --host h"


def test_one_that_hangs_is_told_with_what_to_look_for():
    with pytest.raises(RunError, match="h: no answer of nvidia-smi within 60 s: a driver or GPU fault") as raised:
        shown(Output(None, "", ""), Hanging)
    assert raised.value.remedy.startswith("sudo dmesg | grep -i xid   # on h")
