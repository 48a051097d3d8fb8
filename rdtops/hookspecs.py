"""Hookspecs: the hooks. A plugin implements any of them and names only the arguments it needs.

All run on the laptop: a plugin cannot kill an 8-GPU run and needs nothing installed on the host. Each call is isolated
and has a time limit; one that raises or hangs is reported with its plugin's name and does not affect the others.
`options` are the plugin's own, for this host, with their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pluggy

from rdtops.checks import CheckResult
from rdtops.contract.evaluation import Evaluation
from rdtops.contract.run import Checkpoint, RunEnd, RunSpec
from rdtops.launcher import Launcher, Traits
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host

PROJECT = "rdtops"
API_VERSION = 1  # of rdtops.api and of these hooks; raised when something that a plugin may use changes or is removed
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def preflight_check(host: Host, connection: Connection, spec: RunSpec,
                    local_assets: Mapping[str, Path], options: Mapping[str, Any], traits: Traits,
                    ) -> CheckResult | Sequence[CheckResult] | None:
    """Check a host before anything is started.

    Moment: `inv check`, and again at the start of `inv train`.
    Veto: a FAIL keeps `inv train` from launching; a WARN does not.
    Rule: read only. A check changes nothing on the host. It runs in a thread beside those of the other plugins, and
    its `ask` shares their round trips.

        @hookimpl
        def preflight_check(connection, spec):
            answer = ask(connection, [SCRATCH_FREE])["scratch"]
            return CheckResult.ok("scratch", f"{answer.value} GB free")

    `spec.assets` maps dataset, pretrained, text_encoder and vision_encoder to their folders on the host;
    `local_assets` maps those of them that are also on the laptop; `traits` are those of the host's launcher: for a
    training that runs on other machines (`not traits.is_local`) the GPUs and memory of this one do not matter.
    """


@hookspec
def before_train(host: Host, connection: Connection, run: RunSpec, local_assets: Mapping[str, Path],
                 options: Mapping[str, Any]) -> None:
    """Prepare the host.

    Moment: after deploy and a passed preflight, before the launch.
    Veto: raise PreflightVeto(reason, remedy="the next command"). Any other exception stops the launch as well, because
    the host is not fully prepared.

        @hookimpl
        def before_train(connection, run):
            connection.run(Command("mkdir", "-p", run.workspace + "/scratch"))
    """


@hookspec
def after_checkpoint(host: Host, connection: Connection, run: RunSpec, checkpoint: Checkpoint,
                     options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """React to a checkpoint that is complete on the host.

    Moment: the laptop sees the checkpoint in the run's Journal: during `inv watch`, `inv train --follow`,
    `inv checkpoints` or `inv fetch-results`. Once for each checkpoint, in order; a laptop that slept catches up.
    Veto: none. A failure is recorded beside the checkpoint and shown by `inv checkpoints`.
    Return a mapping to be stored in the same record, or None.

        @hookimpl
        def after_checkpoint(checkpoint):
            return {"size_gb": checkpoint.size_bytes / 1e9}
    """


@hookspec
def after_eval(host: Host, connection: Connection, run: RunSpec, evaluation: Evaluation,
               options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """React to an evaluation that has ended on the host; its report and videos are complete.

    Moment: the laptop sees it in the run's Journal: during `inv eval --follow` and wherever after_checkpoint is called.
    Once for each report, in order; a laptop that slept catches up.
    Veto: none. A failure is recorded, and shown where the evaluation is followed.
    Return a mapping to be stored in the same record, or None.

        @hookimpl
        def after_eval(evaluation):
            return {"success_rate": evaluation.successes / evaluation.trials}
    """


@hookspec
def after_run(host: Host, connection: Connection, run: RunSpec, end: RunEnd,
              options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """React to the end of a run: finished, failed, stopped or lost.

    Moment: the laptop sees that the run has ended, in the same commands as after_checkpoint and after its last
    checkpoint. Once for each end: a run that is resumed has another one.
    Veto: none. A failure is recorded and shown by `inv watch`.

        @hookimpl
        def after_run(run, end):
            return {"told": f"{run.run_id} {end.state.value} at step {end.step}"}
    """


@hookspec
def register_launchers(host: Host, options: Mapping[str, Any]) -> Sequence[Launcher] | None:
    """Return launchers beside tmux and setsid: for a scheduler.

    Moment: whenever a job is started on a host whose `launcher` in hosts.toml is not a bundled one, or its state is
    asked for. Do not contact the host here; the launcher's methods get a connection.
    Veto: none. hosts.toml chooses by `name`; a name that no plugin has is an error that lists the known ones.

        @hookimpl
        def register_launchers(options):
            return [Slurm(options)]
    """


HOOKS = tuple(name for name, value in list(globals().items()) if hasattr(value, PROJECT + "_spec"))
# seconds; a plugin may set its own limit (TIME_LIMIT_S), and hosts.toml overrides both (time_limit_s). The probes of a
# check share a round trip with those of others, the longest of which may take two minutes
TIME_LIMIT_S = dict.fromkeys(HOOKS, 600.0) | {"preflight_check": 300.0, "after_run": 60.0}
