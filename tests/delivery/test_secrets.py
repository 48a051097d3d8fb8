"""Where a secret may come from, and that nothing that shows it is made."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from rdtops.delivery import secrets
from rdtops.errors import ConfigError
from rdtops.runs import inquiries, launch
from rdtops.ssh import inventory
from rdtops.ssh.connection import Result
from rdtops.ssh.hosts import Host
from rdtops.testing.scripted import ScriptedConnection
from tests.runs.test_runs import SPEC

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
    with pytest.raises(ConfigError, match="but HF_TOKEN is neither in the environment") as refused:
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
    with pytest.raises(ConfigError, match="secrets and env both contain HF_TOKEN; env is not secret"):
        inventory.load(file)


IN_ENV = Host(name="h", address="192.0.2.1", env={
    "HF_ENDPOINT": "http://ann:s3cret-word@mirror:8080", "http_proxy": "http://u:s3cret-word@192.0.2.9:3128",
    "MY_TOKEN": "s3cret-word", "NCCL_DEBUG": "INFO"})


def test_what_of_env_is_a_secret_goes_into_the_file_as_well():
    sent = secrets.for_the_host("/w", IN_ENV)
    assert sent["path"] == "/w/.secrets/h.sh"
    read = subprocess.run(["sh", "-c", 'eval "$(cat)"; echo "$HF_ENDPOINT $http_proxy $MY_TOKEN $NCCL_DEBUG"'],
                          input=sent["text"], capture_output=True, text=True, check=True, env={})
    assert read.stdout == "http://ann:s3cret-word@mirror:8080 http://u:s3cret-word@192.0.2.9:3128 s3cret-word \n"
    script = launch.script(IN_ENV, SPEC)
    assert "s3cret-word" not in script
    assert "export NCCL_DEBUG=INFO" in script
    assert ". /w/.secrets/h.sh" in script


def test_an_inquiry_says_the_environment_over_stdin():
    class Listening(ScriptedConnection):
        def run_shell(self, line, *, timeout_s=30.0, check=True, stdin=b""):
            program = " -c 'import json, os; print(json.dumps(dict(os.environ)))'"
            here = line.replace("cd /r ", "cd / ").replace(" -m rdtops.trainer.x", program)
            done = subprocess.run(["sh", "-c", here], input=stdin, check=True, capture_output=True,
                                  env={"PATH": os.environ["PATH"]})
            self.asked.append(line)
            return Result(line, 0, done.stdout.decode(), "")

    connection = Listening(replace(IN_ENV, python=sys.executable))
    answer = inquiries.ask(connection, "/r", "x", [])
    assert {name: answer[name] for name in IN_ENV.env} == IN_ENV.env
    assert "s3cret-word" not in "".join(connection.asked)
