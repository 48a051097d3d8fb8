"""The bundled plugins as the registry loads them, and a connection that answers probes from a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdtops.contract.config import override, preset
from rdtops.contract.run import RunSpec
from rdtops.ops import registry
from rdtops.remote.hosts import Host
from rdtops.remote.probe import Output

DATA = Path(__file__).parent / "data"


class ScriptedConnection:
    """Answers `ask` by the probes' names; a name that is not scripted answers like a program that is not there."""

    def __init__(self, host: Host, **answers: Output) -> None:
        self.host = host
        self.answers = answers
        self.asked: list[str] = []

    def call(self, program: object, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        self.asked += [p["shell"] for p in request["probes"].values()]
        return {n: vars(self.answers.get(n, Output(127, "", f"sh: 1: {n}: not found"))) for n in request["probes"]}


@pytest.fixture(scope="session")
def plugins() -> dict[str, Any]:
    return {p.name: p.module for p in registry.load().loaded}


@pytest.fixture
def host() -> Callable[..., Host]:
    return lambda **values: Host(name="h", address="192.0.2.1", **values)


@pytest.fixture
def spec() -> Callable[..., RunSpec]:
    def make(*settings: str, name: str = "libero_single_task") -> RunSpec:
        train = override(preset(name), settings)
        roles = {"dataset": train.dataset, "pretrained": train.pretrained, "text_encoder": train.text_encoder,
                 "vision_encoder": train.vision_encoder}
        return RunSpec("20261124-101530-x-3fa9", "h", "now", "/w", "/w/releases/s", "s",
                       {role: f"/w/assets/{n}" for role, n in roles.items()}, train)
    return make


def said(text: str, code: int | None = 0, err: str = "") -> Output:
    return Output(code, text, err)


def recorded(name: str) -> Output:
    return said((DATA / name).read_text())


def as_json(values: object) -> str:
    return json.dumps(values)


BROKEN = {
    "empty": said(""),
    "garbage": said("\x00\ufffd### ,,,, \n\n,"),
    "truncated": said("0, NVIDIA A8"),
    "chinese": said("NVIDIA-SMI 失败，因为它无法与 NVIDIA 驱动程序通信。\n", 9),
    "very long": said("x," * 100_000),
    "timed out": said("", None),
}
