"""Admission: start exactly one training for a request, or find the one that is running.

Two requests are the same when settings, code and assets are. Repeated after a laptop died, a request finds the run that
it started before; the host decides that under a lock (training_starter), so two laptops get one training as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rdtops import answers
from rdtops.contract.run import RunSpec
from rdtops.delivery import secrets
from rdtops.errors import RunError
from rdtops.launcher import Submitted
from rdtops.on_host import training_starter
from rdtops.runs import detached, jobs, launch, launchers, overview
from rdtops.runs.overview import RunView
from rdtops.ssh.connection import Connection

_PATIENCE_S = 120.0  # to wait for another launch in the workspace, and for this one


def duplicate_of(spec: RunSpec, found: Sequence[RunView]) -> RunView | None:
    """Return the newest run that has not ended and was requested with the same settings, code and assets."""
    key = request_key(spec)
    alike = [r for r in found if r.spec and not r.state.ended and _is_run(r) and request_key(r.spec) == key]
    return alike[-1] if alike else None


def find_duplicate(connection: Connection, spec: RunSpec) -> RunView | None:
    """Return the same for the runs of the host."""
    return duplicate_of(spec, overview.list_runs(connection))


def admit(connection: Connection, spec: RunSpec, *, again: bool = False) -> tuple[RunSpec, Submitted]:
    """Ensure that one training of `spec` runs on the host, started now or before. `again` starts another one beside a
    duplicate.

    Raises RunError naming who holds its GPUs or folder, or why it did not start."""
    for _ in range(3):  # a duplicate may end in between
        answer = _asked(connection, spec, again)
        if answer.get("launcher"):
            return spec, Submitted(str(answer["launcher"]), note=str(answer["note"]))
        if "launcher" in answer:  # everything is prepared
            return spec, jobs.submit(connection, spec)
        if "duplicate" not in answer:
            raise refusal(connection.host.name, spec, answer)
        spec = replace(spec, run_id=answers.run_id(connection.host.name, answer["duplicate"]))
        if answer["state"] == "running":
            return spec, Submitted("", already=True)
    raise RunError(f"{connection.host.name}: {spec.run_id} is prepared and does not start",
                   remedy=f"inv status --host {connection.host.name} --all")


def request_key(spec: RunSpec) -> dict[str, Any]:
    """Return the request key, equal for two runs of the same training, by the rule of the host."""
    return training_starter.request_key({"train_digest": spec.train.digest, "snapshot": spec.snapshot,
                                       "assets": dict(spec.assets)})


def refusal(host: str, spec: RunSpec, answer: dict[str, Any]) -> RunError:
    """Return the error for a run that the host did not start."""
    if answer.get("problem") == "release":
        return RunError(f"{host}: the code {spec.snapshot} is not deployed, or no longer: {spec.release}",
                        remedy=f"inv deploy --host {host} --only code")
    if answer.get("problem") == "busy":
        return RunError(f"{host}: another launch in {spec.workspace} is still in progress",
                        remedy=f"fuser -v {answer['lock']}   # on {host}: which process it is")
    return detached.refusal(host, str(spec.paths.script), answer)


def _asked(connection: Connection, spec: RunSpec, again: bool) -> dict[str, Any]:
    host = connection.host
    answer: dict[str, Any] = connection.call(training_starter, {
        "op": "train", "workspace": spec.workspace, "run_id": spec.run_id, "release": spec.release,
        "key": request_key(spec), "again": again,
        "files": launch.files(host, spec), "secrets": secrets.for_the_host(spec.workspace, host),
        "start": detached.start(jobs.job_of(spec), launchers.traits(host).detaches_with)}, timeout_s=_PATIENCE_S)
    return answer


def _is_run(run: RunView) -> bool:
    return not run.run_id.startswith("00000000-")  # those stand in for an evaluated file
