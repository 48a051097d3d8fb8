"""Where a secret may come from, and that nothing that shows it is made."""

import subprocess

import pytest

from rdtops.errors import ConfigError
from rdtops.ops import launch, secrets
from rdtops.remote import inventory
from rdtops.remote.hosts import Host
from tests.ops.test_runs import SPEC

VALUE = "s3cr3t'; echo \"$HOME\" #"
HOST = Host(name="h", address="192.0.2.1", secrets=("WANDB_API_KEY", "HF_TOKEN"))


@pytest.fixture(autouse=True)
def laptop(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", VALUE)
    file = tmp_path / "rdtops" / "secrets"
    file.parent.mkdir()
    file.write_text("# of this laptop\nexport HF_TOKEN='of-the-file'\nWANDB_API_KEY=not this one\n")
    file.chmod(0o600)
    return file


def test_the_environment_comes_before_the_file():
    found = secrets.values(HOST.secrets)
    assert found["WANDB_API_KEY"].reveal() == VALUE
    assert found["HF_TOKEN"].reveal() == "of-the-file"
    assert VALUE not in repr(found)


def test_a_file_that_others_may_read_is_refused(laptop):
    laptop.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others") as refused:
        secrets.values(HOST.secrets)
    assert refused.value.remedy == f"chmod 600 {laptop}"


def test_a_secret_that_is_nowhere_is_named(laptop):
    laptop.unlink()
    with pytest.raises(ConfigError, match="does not know HF_TOKEN: neither") as refused:
        secrets.values(HOST.secrets)
    assert "export HF_TOKEN=" in refused.value.remedy
    assert VALUE not in refused.value.message


def test_sh_reads_exactly_the_value(tmp_path):
    sent = secrets.for_the_host("/w", HOST)
    assert sent["path"] == "/w/.secrets/h.sh"
    (tmp_path / "file").write_text(sent["text"])
    read = subprocess.run(["sh", "-c", f'. {tmp_path}/file; printf "%s" "$WANDB_API_KEY"'], capture_output=True,
                          text=True, check=True)
    assert read.stdout == VALUE


def test_the_script_names_the_file_and_not_the_value():
    script = launch.script(HOST, SPEC)
    assert ". /w/.secrets/h.sh" in script
    assert VALUE not in script
    assert "s3cr3t" not in script


def test_hosts_toml_does_not_have_a_variable_twice(tmp_path):
    file = tmp_path / "hosts.toml"
    file.write_text('[hosts.h]\naddress = "192.0.2.1"\nsecrets = ["HF_TOKEN"]\n[hosts.h.env]\nHF_TOKEN = "x"\n')
    with pytest.raises(ConfigError, match="secrets and env both have HF_TOKEN; env is for all to read"):
        inventory.load(file)
