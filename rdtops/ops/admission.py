"""Admission: whether what is requested runs already, and how exactly one training of it begins.

Two requests are the same when settings, code and assets are. Typed again after a laptop died, a request finds the run
that it made before; the host decides that under a lock (launch_on_host), so that two laptops get one training as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rdtops.contract import lease
from rdtops.contract.evaluation import EvalSpec
from rdtops.contract.run import RunSpec
from rdtops.errors import RunError
from rdtops.ops import answers, jobs, launch, launch_on_host, launchers, runs, secrets
from rdtops.ops.detached import STARTED_WITHIN_S
from rdtops.ops.runs import RunView
from rdtops.remote.connection import Connection

_PATIENCE_S = 120.0  # for another launch of the workspace, and for this one


@dataclass(frozen=True)
class Admitted:
    """The run that there is now. `launcher` is tmux or setsid, '' for one that was running already."""

    spec: RunSpec
    launcher: str
    note: str = ""


def duplicate_of(spec: RunSpec, found: Sequence[RunView]) -> RunView | None:
    """Return the newest run that has not ended and was requested with the same settings, code and assets."""
    key = request_key(spec)
    alike = [r for r in found if r.spec and not r.state.ended and _is_run(r) and request_key(r.spec) == key]
    return alike[-1] if alike else None


def find_duplicate(connection: Connection, spec: RunSpec) -> RunView | None:
    """The same, asked of the host."""
    return duplicate_of(spec, runs.list_runs(connection))


def admit(connection: Connection, spec: RunSpec, *, again: bool = False) -> Admitted:
    """One training of `spec` runs on the host after this, begun now or before. `again` begins another one beside a
    duplicate. Raises RunError naming who holds what it needs, or why it did not begin."""
    for _ in range(3):  # a duplicate may end while we look
        answer = _asked(connection, spec, again)
        if "launcher" in answer and connection.host.trains_elsewhere:
            return _submitted(connection, spec)
        if "launcher" in answer:
            return Admitted(spec, str(answer["launcher"]), str(answer["note"]))
        if "duplicate" not in answer:
            raise refusal(connection.host.name, spec, answer)
        spec = replace(spec, run_id=answers.run_id(connection.host.name, answer["duplicate"]))
        if answer["state"] == "running":
            return Admitted(spec, "")
    raise RunError(f"{connection.host.name}: {spec.run_id} is prepared and does not begin",
                   remedy=f"inv status --host {connection.host.name} --all")


def start_script(connection: Connection, spec: RunSpec) -> str:
    """Start launch.sh as it lies there, detached, and return the launcher that was used."""
    start = _start(connection, spec.workspace, str(spec.paths.script), spec.run_id, f"RDTOPS_RUN={spec.run_id}")
    answer = connection.call(launch_on_host, {"op": "start", "start": start}, timeout_s=_PATIENCE_S)
    if "launcher" not in answer:
        raise _not_begun(connection.host.name, str(spec.paths.script), answer)
    return str(answer["launcher"])


def start_evaluation(connection: Connection, spec: EvalSpec) -> str:
    """Start eval.sh so that it outlives us, and return by what: tmux, setsid, or the job of a cluster."""
    sent = secrets.for_the_host(spec.workspace, connection.host)
    job = jobs.of_evaluation(spec)
    if sent:
        connection.call(launch_on_host, {"op": "secrets", "secrets": sent})
    return launchers.of(connection.host).submit(connection, job).words


def _submitted(connection: Connection, spec: RunSpec) -> Admitted:
    submitted = launchers.of(connection.host).submit(connection, jobs.of_run(spec.paths, spec))
    return Admitted(spec, "" if submitted.already else submitted.words)


def request_key(spec: RunSpec) -> dict[str, Any]:
    """Return what makes two runs the same training, by the rule of the host."""
    return launch_on_host.request_key({"train_digest": spec.train.digest, "snapshot": spec.snapshot,
                                       "assets": dict(spec.assets)})


def in_the_way(host: str, holders: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Who holds the lease, or that a lock of it cannot be used, in a few words; and what to do."""
    others = f"other GPUs: CUDA_VISIBLE_DEVICES under [hosts.{host}.env]"
    if any(holder.get("problem") for holder in holders):
        return "it cannot lock what it needs", (f"remove on {host} what is named, as its owner or as root   # or "
                                                f"{others}; {lease.LOCKS} there names another folder for locks")
    run_id = lease.run_of(holders)
    stop = f"inv stop --host {host} --run {run_id}" if run_id else f"inv status --host {host} --all"
    return f"{run_id or 'another run'} is running here", f"{stop}   # or {others}"


def refusal(host: str, spec: RunSpec, answer: dict[str, Any]) -> RunError:
    """Why the host did not begin the run, in words."""
    if "in_the_way" in answer:
        return _held(host, answer["in_the_way"])
    if answer["problem"] == "release":
        return RunError(f"{host}: the code {spec.snapshot} is not deployed (any more): {spec.release}",
                        remedy=f"inv deploy --host {host} --only code")
    if answer["problem"] == "busy":
        return RunError(f"{host}: another launch in {spec.workspace} does not come to its end",
                        remedy=f"fuser -v {answer['lock']}   # on {host}: who is it?")
    return _not_begun(host, str(spec.paths.script), answer)


def _asked(connection: Connection, spec: RunSpec, again: bool) -> dict[str, Any]:
    paths, host = spec.paths, connection.host
    answer: dict[str, Any] = connection.call(launch_on_host, {
        "op": "train", "workspace": spec.workspace, "run_id": spec.run_id, "release": spec.release,
        "key": request_key(spec), "again": again,
        "files": launch.files(host, spec),
        "start": _start(connection, spec.workspace, str(paths.script), spec.run_id, f"RDTOPS_RUN={spec.run_id}"),
    }, timeout_s=_PATIENCE_S)
    return answer


def _start(connection: Connection, workspace: str, script: str, session: str, tag: str) -> dict[str, Any]:
    return {"script": script, "session": session, "tag": tag,
            "launcher": "" if connection.host.trains_elsewhere else connection.host.launcher,
            "within_s": STARTED_WITHIN_S, "secrets": secrets.for_the_host(workspace, connection.host)}


def _held(host: str, holders: Sequence[dict[str, Any]]) -> RunError:
    summary, remedy = in_the_way(host, holders)
    return RunError(f"{host}: not started, {summary}: " + "; ".join(lease.words(h) for h in holders), remedy=remedy)


def _not_begun(host: str, script: str, answer: dict[str, Any]) -> RunError:
    said = f": {answer['said']}" if answer.get("said") else ""
    if answer["problem"] == "launcher":
        return RunError(f"{host}: the launcher that hosts.toml wants refused{said}",
                        remedy=f'launcher = "auto" under [hosts.{host}]')
    return RunError(f"{host}: {script} was started through {answer['launched_by']} but did not begin within "
                    f"{STARTED_WITHIN_S:g} s{said}", remedy=f"ssh there and run: sh {script}")


def _is_run(run: RunView) -> bool:
    return not run.run_id.startswith("00000000-")  # those stand in for an evaluated file
