"""docs/hosts.md and the JSON schema say what hosts.toml may hold."""

from __future__ import annotations

import tomllib
from pathlib import Path

from rdtops.contract.config import CHOICES
from rdtops.ssh.inventory import hosts_reference
from rdtops.ssh.inventory.hosts_schema import EnvironmentTable, HopTable, HostsFile, HostTable, RecoveryTable

DOCS = Path(__file__).parents[3] / "docs"
RENEW = "python -m rdtops.ssh.inventory.hosts_reference docs"


def test_the_document_has_the_tables_of_the_schema() -> None:
    assert hosts_reference.markdown() in (DOCS / "hosts.md").read_text(encoding="utf-8"), RENEW


def test_the_schema_for_editors_is_that_of_the_code() -> None:
    assert (DOCS / "hosts.schema.json").read_text(encoding="utf-8") == hosts_reference.schema_text(), RENEW


def test_every_key_has_a_meaning() -> None:
    for table in (HostsFile, HopTable, HostTable, EnvironmentTable, RecoveryTable):
        assert [name for name, key in table.model_fields.items() if not key.description] == []


def test_the_example_of_the_document_is_a_file_that_is_read(tmp_path: Path) -> None:
    text = (DOCS / "hosts.md").read_text(encoding="utf-8")
    example = "\n".join(line[4:] for line in text.split("\n") if line.startswith("    "))
    tables = HostsFile.model_validate(tomllib.loads(example.partition("#:schema")[0]))
    assert set(tables.presets) == {"drawer"}
    assert tables.hosts["gpu7"].set == {"num_processes": 4}


def test_an_editor_is_told_the_values_of_a_setting() -> None:
    settings = hosts_reference.json_schema()["$defs"]["Settings"]["properties"]
    assert settings["codec"]["enum"] == list(CHOICES["codec"])
    assert settings["state_noise_snr_db"]["anyOf"] == [{"type": "number"}, {"enum": ["none", "off"]}]
