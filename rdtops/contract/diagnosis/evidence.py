"""Evidence: the facts that the host reports of a run at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rdtops.contract.config import TrainConfig
from rdtops.contract.diagnosis.messages import Line, Message, parse
from rdtops.contract.journal import Event
from rdtops.contract.run import RunSpec
from rdtops.errors import ConfigError
from rdtops.hostlib import fields

FILES = (("journal", "journal.jsonl"), ("log", "train.log"), ("kernel", "kernel log"))


@dataclass(frozen=True)
class Evidence:
    """`journal` and `log` are those of the last attempt, oldest first, shortened at their beginning."""

    run_id: str
    host: str
    train: TrainConfig | None  # None when config.json cannot be read
    journal: tuple[Line, ...]
    log: tuple[Line, ...]
    kernel: tuple[Line, ...]  # of dmesg or journalctl -k: out of memory, Xid
    exit_code: int | None
    alive: bool
    launched: bool
    stop_requested: bool
    same_boot: bool  # False: the host was rebooted since
    oom_kills: int | None  # by the kernel since the attempt began, on this host; None where not known
    disk_free_bytes: int | None
    disk_free_inodes: int | None
    gpus: tuple[Mapping[str, Any], ...]  # index, used_mib, utilisation_percent, throttled, others (pids, not ours)
    gpu_problem: str  # the error of nvidia-smi; '' without one, or without nvidia-smi
    ranks: tuple[Mapping[str, Any], ...]  # rank, pid, state (R, S, D, T), cpu_share
    now_s: float  # Unix time of the host
    log_age_s: float = 0.0  # since train.log was written
    ended_by: Mapping[str, Any] | None = None  # what the supervisor wrote of the attempt's end

    @cached_property
    def events(self) -> tuple[tuple[Line, Event], ...]:
        found = []
        for line in self.journal:
            try:
                found.append((line, Event.from_line(line.text)))
            except ValueError:
                continue
        return tuple(found)

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """What the log says, in its order."""
        return parse(self.log)

    def of_kind(self, *kinds: str) -> list[tuple[Line, Event]]:
        return [(line, event) for line, event in self.events if event.kind in kinds]

    @classmethod
    def of(cls, host: str, facts: Mapping[str, Any]) -> Evidence:
        """Parse the answer of rdtops/supervisor/evidence_on_host.py. The host is untrusted: a value of a wrong type is
        unknown."""
        try:
            train = RunSpec.from_json(fields.text(facts.get("config"))).train
        except ConfigError:
            train = None
        journal, log, kernel = (_lines(file, facts.get(name)) for name, file in FILES)
        ended_by = facts.get("ended_by")
        return cls(
            run_id=fields.text(facts.get("run_id")), host=host, train=train, journal=journal, log=log, kernel=kernel,
            exit_code=fields.whole(facts.get("exit_code")), alive=facts.get("alive") is True,
            launched=facts.get("launched") is True, stop_requested=facts.get("stop_requested") is True,
            same_boot=facts.get("same_boot") is not False, oom_kills=fields.whole(facts.get("oom_kills")),
            disk_free_bytes=fields.whole(facts.get("disk_free_bytes")),
            disk_free_inodes=fields.whole(facts.get("disk_free_inodes")),
            gpus=tuple(map(_gpu, fields.rows(facts.get("gpus")))), gpu_problem=fields.text(facts.get("gpu_problem")),
            ranks=tuple(map(_rank, fields.rows(facts.get("ranks")))),
            now_s=fields.number(facts.get("now_s")) or 0.0, log_age_s=fields.number(facts.get("log_age_s")) or 0.0,
            ended_by=_ended(ended_by) if isinstance(ended_by, dict) else None)


def _lines(file: str, value: object) -> tuple[Line, ...]:
    pairs = value if isinstance(value, list) else []
    return tuple(Line(file, fields.whole(pair[0]) or 0, fields.text(pair[1])) for pair in pairs
                 if isinstance(pair, (list, tuple)) and len(pair) == 2)


def _gpu(row: Mapping[str, Any]) -> dict[str, Any]:
    others = row.get("others")
    return {"index": fields.text(row.get("index")), "throttled": fields.text(row.get("throttled")),
            "used_mib": fields.whole(row.get("used_mib")),
            "utilisation_percent": fields.whole(row.get("utilisation_percent")),
            "others": [pid for pid in others if fields.whole(pid) is not None] if isinstance(others, list) else []}


def _rank(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"rank": fields.whole(row.get("rank")) or 0, "pid": fields.whole(row.get("pid")) or 0,
            "state": fields.text(row.get("state")), "cpu_share": fields.number(row.get("cpu_share")) or 0.0}


def _ended(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: fields.text(row.get(name)) for name in ("cause", "summary", "next")}
    return {**texts, "restart_in_s": fields.number(row.get("restart_in_s")),
            "evidence": fields.words(row.get("evidence"))}
