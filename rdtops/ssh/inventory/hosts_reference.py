"""Reference of hosts.toml, made from its schema: the tables of docs/hosts.md, and docs/hosts.schema.json for editors.

    python -m rdtops.ssh.inventory.hosts_reference docs
"""

from __future__ import annotations

import json
import re
import sys
import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from rdtops.contract import config as train_config
from rdtops.contract.recovery import Recovery
from rdtops.ssh.hosts import Environment, Hop, Host
from rdtops.ssh.inventory.hosts_schema import EnvironmentTable, HopTable, HostsFile, HostTable, RecoveryTable

TABLES: tuple[tuple[str, type[BaseModel], type | None], ...] = (  # title, schema, the class with the defaults
    ("the file", HostsFile, None), ("[hosts.NAME]", HostTable, Host), ("[jumps.NAME]", HopTable, Hop),
    ("[hosts.NAME.environment]", EnvironmentTable, Environment), ("[hosts.NAME.recovery]", RecoveryTable, Recovery))
BEGIN, END = "<!-- made by rdtops.ssh.inventory.hosts_reference: begin -->", "<!-- end -->"
KINDS = {str: "string", int: "integer", float: "number", bool: "true or false", tuple: "list of strings"}


def markdown() -> str:
    """Return every key of hosts.toml as tables, one for each kind of TOML table."""
    return "\n\n".join(_table(*row) for row in TABLES)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of hosts.toml, with the training settings of presets and of `set`."""
    schema = HostsFile.model_json_schema()
    settings = _settings()
    schema["$defs"]["Settings"] = {"type": "object", "additionalProperties": False, "properties": settings}
    base = {"base": {"type": "string", "description": "a bundled preset, or another one of this file"}}
    preset = {"type": "object", "additionalProperties": False, "required": ["base"], "properties": {**base, **settings}}
    schema["properties"]["presets"]["additionalProperties"] = preset
    schema["$defs"]["HostTable"]["properties"]["set"] = {
        "$ref": "#/$defs/Settings", "description": HostTable.model_fields["set"].description}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "title": "hosts.toml of rdtops"}


def write(folder: Path) -> None:
    """Write the tables into hosts.md between its marks, and hosts.schema.json."""
    page = folder / "hosts.md"
    made = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{markdown()}\n{END}", page.read_text(encoding="utf-8"),
                  flags=re.DOTALL)
    page.write_text(made, encoding="utf-8")
    (folder / "hosts.schema.json").write_text(schema_text(), encoding="utf-8")


def schema_text() -> str:
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _table(title: str, schema: type[BaseModel], defaults: type | None) -> str:
    stated = {f.name: f for f in fields(defaults)} if defaults else {}
    rows = [f"### {title}", "", " ".join((schema.__doc__ or "").split()), "", "| key | value | default | meaning |",
            "|---|---|---|---|"]
    for name, key in schema.model_fields.items():
        known = stated.get(name)
        default = "required" if key.is_required() else _default(known) if known else ""
        rows.append(f"| `{name}` | {_kind(key.annotation)} | {default} | {key.description} |")
    return "\n".join(rows)


def _default(known: Any) -> str:
    value = known.default if known.default is not MISSING else None
    return "" if value in (None, "", (), False) or not isinstance(value, (str, int, float)) else f"`{value}`"


def _kind(annotation: Any) -> str:
    """Return the kind of a value in words, or its choices."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return _kind(next(kind for kind in inner if kind is not type(None)))
    if origin is typing.Annotated:
        return _kind(inner[0])
    return KINDS.get(origin or annotation, "table")


def _settings() -> dict[str, Any]:
    """Return the JSON schema of each training setting."""
    found: dict[str, Any] = TypeAdapter(train_config.TrainConfig).json_schema()["properties"]
    for name, choices in train_config.CHOICES.items():
        kinds = found[name].get("anyOf", [found[name]])
        next(kind for kind in kinds if kind["type"] == "string")["enum"] = list(choices)
    for key in found.values():
        if {"type": "null"} in key.get("anyOf", ()):  # TOML has no null
            key["anyOf"] = [*(kind for kind in key["anyOf"] if kind != {"type": "null"}),
                            {"enum": list(train_config.NULLS)}]
    return {name: key for name, key in found.items() if name != "preset"}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
