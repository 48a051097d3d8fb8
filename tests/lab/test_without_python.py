"""A host on whose PATH there is no Python: every command that needs it says the same way on."""

import pytest

from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.mark.parametrize("command", ["check", "status"])
def test_a_host_without_python_is_told_with_the_remedy(lab: Lab, named_assets, tmp_path, command):
    lab.write_inventory(tmp_path / "hosts.toml", named_assets)
    text = (tmp_path / "hosts.toml").read_text()
    (tmp_path / "hosts.toml").write_text(text.replace("[hosts.lab]\n", '[hosts.lab]\npython = "python3.99"\n'))
    done = CommandLine(tmp_path, tmp_path / "hosts.toml")(f"{command} --host lab")
    said = " ".join((done.out + done.err).split())
    assert "python3.99: not found" in said
    assert "set hosts.lab.python in hosts.toml to a Python 3.8 or newer" in said
