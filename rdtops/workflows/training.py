"""Training: run every check, then launch exactly one training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rdtops.checks import CheckResult, Report, Status
from rdtops.contract.config import TrainConfig
from rdtops.contract.run import RunSpec, RunState
from rdtops.delivery import secrets
from rdtops.delivery.plan import Request
from rdtops.errors import PluginError, PreflightFailed, PreflightVeto, RunError
from rdtops.launcher import Submitted
from rdtops.plugging.bounded import raised
from rdtops.plugging.registry import Registry, Works
from rdtops.preflight import core_checks
from rdtops.runs import admission, jobs, launchers, overview
from rdtops.runs.jobs import Launched
from rdtops.runs.overview import RunView
from rdtops.ssh.connection import Connection
from rdtops.ssh.probe import together
from rdtops.ssh.redaction import redacted


def check(connection: Connection, registry: Registry, spec: RunSpec, local: Mapping[str, Path], *,
          resumes: bool = False, fresh: bool = False) -> Report:
    """Run every check of the host, first ours, then the plugins'. Their questions travel together. `fresh`: import the
    packages there even if the environment is that of an earlier check."""
    plugins = registry.preflight_works(host=connection.host, connection=connection, spec=spec, local_assets=local,
                                       traits=launchers.traits(connection.host))
    ours: Works = [lambda: core_checks(connection, spec, local, resumes=resumes, fresh=fresh)]
    seconds: dict[str, float] = {}
    hidden = secrets.all_of(connection.host)
    results = [_redacted(result, hidden) for findings in together(connection, [*ours, *plugins], seconds)
               for result in findings]
    asked = [p.name for p in registry.with_hook("preflight_check")]
    if not asked:
        results.append(CheckResult.fail("plugins", "no plugin has a check",
                                        remedy="inv plugins   # the loaded ones, and errors"))
    return Report(connection.host.name, tuple(results), tuple(asked), seconds)


def _redacted(result: CheckResult, hidden: set[str]) -> CheckResult:
    """Remove secrets from a result: a host may repeat whatever it was sent."""
    return replace(result, summary=redacted(result.summary, hidden), evidence=redacted(result.evidence, hidden),
                   remedy=redacted(result.remedy, hidden))


def train(connection: Connection, registry: Registry, spec: RunSpec, local: Mapping[str, Path],
          report: Report, *, again: bool = False) -> Launched:
    """Launch `spec` after a passed report, unless the same training is running (with `again`: even then).
    Raises PreflightFailed, PreflightVeto, PluginError or RunError."""
    require_pass(report)
    _before_train(connection, registry, spec, local)
    return jobs.launched(connection, *admission.admit(connection, spec, again=again))


def adopted(connection: Connection, duplicate: RunView) -> Launched:
    """Return the running training that the same command started before."""
    assert duplicate.spec
    return jobs.launched(connection, duplicate.spec, Submitted("", already=True))


def excused(report: Report, duplicate: RunView | None) -> Report:
    """Turn failures into warnings when the same training is running, since it uses the GPUs and the disk."""
    if duplicate is None or duplicate.state is not RunState.RUNNING:
        return report
    while_it_runs = f"(while {duplicate.run_id}, the same training, runs)"
    results = [replace(r, status=Status.WARN, summary=f"{r.summary} {while_it_runs}")
               if r.status is Status.FAIL else r for r in report.results]
    return replace(report, results=tuple(results))


def resumed_config(run: RunView, request: Request) -> TrainConfig:
    """Return the values of a resumed run: its own, and `--set` on top."""
    if run.spec is None:
        raise RunError(f"{run.host}: the config.json of {run.run_id} cannot be read, so it cannot be resumed")
    return request.config_resumed(run.spec.train)


def resumed_spec(run: RunView, fresh: RunSpec) -> RunSpec:
    """Return `fresh`, the spec of a new training with the values of the resumed run, as the spec of that run."""
    assert run.spec
    spec = replace(fresh, run_id=run.run_id, created_at=run.spec.created_at)
    if run.state is RunState.RUNNING and admission.request_key(spec) != admission.request_key(run.spec):
        raise RunError(f"{run.host}: {run.run_id} is running with other settings, code or data",
                       remedy=f"inv stop --host {run.host} --run {run.run_id}   # then resume it")
    return spec


def resume(connection: Connection, registry: Registry, run: RunView, spec: RunSpec, local: Mapping[str, Path],
           report: Report) -> Launched:
    """Resume a run from its newest valid checkpoint."""
    whole, _ = overview.checkpoints(connection, run)
    if whole and whole[-1].step >= spec.train.max_steps:
        raise RunError(f"{run.host}: {run.run_id} is at step {whole[-1].step}, and max_steps is {spec.train.max_steps}",
                       remedy=f"inv train --host {run.host} --resume {run.run_id} --set max_steps={whole[-1].step * 2}")
    launched = train(connection, registry, spec, local, report, again=True)  # this run, even beside a duplicate
    return replace(launched, resumed_from=whole[-1].name if whole else "")


def require_pass(report: Report) -> None:
    if report.passed:
        return
    lines = [f"{r.name}: {r.summary}" + (f" ({r.evidence})" if r.evidence else "") for r in report.failures]
    lines = lines or ["no check was run"]
    first = next((r.remedy for r in report.failures if r.remedy), f"inv check --host {report.host}")
    raise PreflightFailed(f"{report.host}: not started, {len(lines)} check(s) failed\n  " + "\n  ".join(lines),
                          remedy=first)


def _before_train(connection: Connection, registry: Registry, spec: RunSpec, local: Mapping[str, Path]) -> None:
    for call in registry.call("before_train", host=connection.host, connection=connection, run=spec,
                              local_assets=local):
        if isinstance(call.error, PreflightVeto):
            raise PreflightVeto(f"{spec.host}: the plugin {call.plugin} stopped the launch: "
                                + redacted(call.error.message, secrets.all_of(connection.host)),
                                remedy=call.error.remedy) from call.error
        if call.error is not None:
            raise PluginError(
                f"{spec.host}: the plugin {call.plugin} raised in before_train: "
                + redacted(raised(call.error), secrets.all_of(connection.host)),
                remedy=f"RDTOPS_DISABLED_PLUGINS={call.plugin} inv train --host {spec.host}   # without it",
            ) from call.error
