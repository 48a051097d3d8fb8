"""Parse Slurm's facts of a cluster. Pure: from the output of sinfo, scontrol, sacctmgr and sbatch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rdtops.api import Output


@dataclass(frozen=True)
class Partition:
    name: str
    fields: Mapping[str, str]  # scontrol's own words

    def allows(self, what: str, wanted: str) -> bool:
        """Return whether `wanted` is allowed; `what` is Accounts or Qos. Slurm says ALL when it allows all."""
        allowed = self.fields.get(f"Allow{what}", "ALL")
        denied = self.fields.get(f"Deny{what}", "").split(",")
        return (allowed == "ALL" or wanted in allowed.split(",")) and wanted not in denied

    @property
    def max_s(self) -> float:
        return seconds(self.fields.get("MaxTime", "UNLIMITED"))

    @property
    def default_time(self) -> str:
        """The word of scontrol for the limit of a job that requests none."""
        return "MaxTime" if self.fields.get("DefaultTime", "NONE") == "NONE" else "DefaultTime"

    @property
    def is_up(self) -> bool:
        return self.fields.get("State", "UP") == "UP"


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind."""

    partition: str
    count: int
    state: str
    gres: str
    features: frozenset[str]


def parse_ping(output: Output) -> str:
    """Parse `Slurmctld(primary) at head is UP`. Raises ValueError when no controller is up."""
    if not re.search(r"is UP", output.out):
        raise ValueError(output.excerpt)
    return output.out.strip().splitlines()[0]


def parse_partitions(output: Output) -> dict[str, Partition]:
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in output.out.splitlines() if "PartitionName=" in line]
    if not rows:
        raise ValueError("scontrol shows no partition")
    return {row["PartitionName"]: Partition(row["PartitionName"], row) for row in rows}


def parse_nodes(output: Output) -> tuple[Nodes, ...]:
    rows = [line.split("|") for line in output.out.splitlines() if line.count("|") == 4]
    if not rows:
        raise ValueError("sinfo shows no nodes")
    return tuple(Nodes(name, int(count), state, gres, frozenset(features.split(",")) - {"(null)"})
                 for name, count, state, gres, features in rows)


def parse_test(output: Output) -> tuple[str, str]:
    """Parse when the job would start, or why it would be rejected."""
    start = re.search(r"to start at (\S+)", output.out)
    why = re.findall(r"(?:error: |allocation failure: )(.+)", output.out)
    if start:
        return start[1], ""
    if not why:
        raise ValueError("cannot parse the output of sbatch --test-only")
    return "", "; ".join(dict.fromkeys(why))


def parse_accounts(output: Output) -> dict[str, frozenset[str]]:
    """Parse account -> QOS of this user. Raises ValueError without accounting."""
    if output.code != 0 or "|" not in output.out:
        raise ValueError("the cluster has no accounting")
    rows = [line.split("|") for line in output.out.splitlines() if line.count("|") == 1]
    return {account: frozenset(qos.split(",")) for account, qos in rows}


def parse_filesystem(output: Output) -> tuple[str, bool]:
    """Parse the type of the file system, and whether every node of the cluster is this machine."""
    lines = output.out.split()
    if len(lines) < 2:
        raise ValueError("unexpected answer")
    kind, here, *nodes = lines
    names = {name.partition("=")[2] for name in nodes}
    return kind, bool(names) and names <= {here, here.partition(".")[0], "localhost"}


def seconds(limit: str) -> float:
    """Parse a time as Slurm writes it: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S, UNLIMITED."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return float("inf")
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes, secs = [*parts, 0, 0][:3]
    else:
        hours, minutes, secs = ([0, parts[0], 0] if len(parts) == 1 else [0, *parts] if len(parts) == 2 else parts)
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + secs)


def gpus_of(gres: str, kind: str) -> int:
    """Count the GPUs of a node, in the words of sinfo: `gpu:a100:8(S:0-1),nvme:1` has eight. A type may be digits, as
    in `gpu:3090:2`; what stands in parentheses may have commas."""
    count = 0
    for entry in re.sub(r"\([^()]*\)", "", gres).split(","):
        name, *words = [word for word in entry.strip().split(":") if word != "no_consume"]
        has_count = bool(words) and words[-1].isdigit()
        types = words[:-1] if has_count else words
        if name == "gpu" and (not kind or types == [kind]):
            count += int(words[-1]) if has_count else 1
    return count
