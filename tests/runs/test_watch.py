"""A host that always has more of a Journal is not asked for it without end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rdtops import answers
from rdtops.errors import RunError
from rdtops.hostlib import names
from rdtops.plugging.registry import Registry
from rdtops.runs import overview, watch
from rdtops.runs.poller import Chunk, Cursor, FileLine, Question, Update
from rdtops.testing import ScriptedConnection, make_host

RUN = overview.view("h", answers.run("h", {"run_id": "20261124-101530-tiny-3fa9", "exit_code": 0, "launched": True}))


class Talkative:
    """A poller whose host says at each look that there is more, `step` bytes behind the last one."""

    def __init__(self, step: int) -> None:
        self.connection, self.step, self.looks = ScriptedConnection(make_host()), step, 0

    def __enter__(self) -> Talkative:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def poll(self, run_id: names.RunId, files: Mapping[str, Question], **_: Any) -> Update:
        self.looks += 1
        behind = Cursor(1, 5 + self.looks * self.step, "x")
        return Update(RUN, {watch.JOURNAL: Chunk((FileLine(b'{"kind": "step"}\n', behind),), behind, "", True)}, ())


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("RDTOPS_STATE", str(tmp_path))


def test_more_of_the_same_is_no_more(monkeypatch):
    host = Talkative(0)
    monkeypatch.setattr(watch, "RunPoller", lambda _: host)
    watch.catch_up(host.connection, Registry([]), RUN)
    assert host.looks == 2


def test_a_journal_without_end_is_an_error(monkeypatch):
    host = Talkative(10)
    monkeypatch.setattr(watch, "RunPoller", lambda _: host)
    with pytest.raises(RunError, match="h: the Journal of 20261124-101530-tiny-3fa9 has no end"):
        watch.catch_up(host.connection, Registry([]), RUN)
    assert host.looks == watch.LOOKS
