"""Launch: one readable script in the run folder, started so that it outlives the connection.

The script is what runs, whoever starts it; `inv train --dry-run` prints it. It records its process, keeps every log
line and the exit code, and tags the environment so that every process of the run can be found.
"""

from __future__ import annotations

from collections.abc import Mapping

from rdtops.contract import variables
from rdtops.contract.evaluation import EvalSpec
from rdtops.contract.run import RunSpec
from rdtops.delivery import secrets
from rdtops.launcher import Spread
from rdtops.runs import jobs, launchers
from rdtops.ssh import environment
from rdtops.ssh.command import Command, quoted
from rdtops.ssh.hosts import Host

_SCRIPT = """\
#!/bin/sh
# {title}
umask go-w
cd {root} || exit 1
{exports}
{begin}rm -f exit stop
printf '%s %s %s\\n' "$$" "$(cut -d' ' -f22 /proc/$$/stat)" "$(cat /proc/sys/kernel/random/boot_id)" > process.tmp
mv process.tmp process
{launched}touch {log}
if [ -t 1 ]; then env -u RDTOPS_RUN tail -n 0 -F {log} & viewer=$!; fi
starts=0
while
(
cd {release} || exit 1
{activation}exec {program}
) >> {log} 2>&1
code=$?
{again}
do starts=$((starts + 1)); sleep 1; done
[ -n "${{viewer:-}}" ] && kill "$viewer"
[ -e exit ] || {{ echo "$code" > exit.tmp && mv exit.tmp exit; }}
exit "$code"
"""
# what was dropped is told by the program, in the log; a script that takes the lease comes here twice
_DROP = f"""\
for name in {{names}}; do
    eval "[ -z \\"\\${{{{$name+set}}}}\\" ]" || {variables.DROPPED}="${{{{{variables.DROPPED}:-}}}} $name"
    unset "$name"
done
export {variables.DROPPED}
"""
_LEASE = """\
[ "${{RDTOPS_LEASE:-}}" = {run_id} ] || exec {lease}  # lock its GPUs and this folder, or do not start
"""
_TRAPS = """\
trap '' USR1 HUP  # Slurm sends USR1 before a time limit; the trainer handles it, its launcher would die
trap : TERM INT  # the supervisor handles them; this shell stays to write the exit code
"""
_LAUNCHED = """\
printf '{"kind": "launched", "time_s": %s, "launcher": "%s", "pid": %s}\\n' \\
    "$(date +%s)" "${RDTOPS_LAUNCHER:-hand}" "$$" >> journal.jsonl
"""
SUPERVISOR_STARTS = 100  # a killed supervisor is started again at most this often
_AGAIN = (f'[ ! -e exit ] && [ "$code" -gt 128 ] && [ "$starts" -lt {SUPERVISOR_STARTS} ]'
          "  # the supervisor itself was killed")


def script(host: Host, spec: RunSpec) -> str:
    """Return the text of launch.sh."""
    return _SCRIPT.format(
        title=f"Run {spec.run_id}: written by `inv train`. Started by hand, it does the same in the foreground.",
        root=quoted(str(spec.paths.root)), launched=_LAUNCHED, log=spec.paths.log.name, again=_AGAIN,
        begin=_lease(host, spec) + _TRAPS,
        exports=_environment(host, spec.workspace, spec.release, {"RDTOPS_RUN": spec.run_id}),
        release=quoted(spec.release), activation=_activation(host), program=supervised(host, spec).shell())


def _lease(host: Host, spec: RunSpec) -> str:
    """Return the line that takes the lease; '' with a scheduler, which assigns GPUs and allows one job of a name."""
    if launchers.traits(host).is_scheduled:
        return ""
    return _LEASE.format(run_id=quoted(spec.run_id), lease=lease_command(host, spec).shell())


def evaluation_script(host: Host, spec: EvalSpec) -> str:
    """Return the text of eval.sh. It lacks the run's tag, so `inv stop` of the training does not stop it."""
    program = Command("nice", "-n", "10", environment.python(host), "-m", "rdtops.trainer.evaluate",
                      str(spec.paths.spec))
    return _SCRIPT.format(
        title=f"Evaluation {spec.name}: written by `inv eval`. Started by hand, it continues where it stopped.",
        root=quoted(str(spec.paths.root)), begin="", launched="", log=spec.paths.log.name, again="false  # once",
        exports=_environment(host, spec.workspace, spec.release, {"RDTOPS_EVAL": f"{spec.run_id}/{spec.name}"}),
        release=quoted(spec.release), activation=_activation(host), program=program.shell())


def files(host: Host, spec: RunSpec) -> dict[str, str]:
    """Return the files of a new run, by name."""
    return {spec.paths.config.name: spec.to_json() + "\n", spec.paths.script.name: script(host, spec),
            **launchers.launcher(host).files(jobs.job_of(spec), _spread(host, spec))}


def evaluation_files(host: Host, spec: EvalSpec) -> dict[str, str]:
    return {spec.paths.spec.name: spec.to_json() + "\n", spec.paths.script.name: evaluation_script(host, spec),
            **launchers.launcher(host).files(jobs.job_of(spec), None)}


def start_line(host: Host, spec: RunSpec | EvalSpec) -> str:
    """Return the line that starts it by hand, once its files exist."""
    return launchers.launcher(host).start_line(jobs.job_of(spec))


def _environment(host: Host, workspace: str, release: str, tag: Mapping[str, str]) -> str:
    """Return the lines that drop what must not come from the account, and export our variables, env of hosts.toml, and
    the secrets from their private file."""
    hidden = secrets.in_env(host)
    shown = {name: value for name, value in {**tag, **exported(host, release)}.items() if name not in hidden}
    lines = _DROP.format(names=" ".join(variables.to_unset())) + secrets.exports(shown)
    file = secrets.host_file(workspace, host)
    if not file:
        return lines.rstrip("\n")
    missing = quoted(f"{', '.join([*host.secrets, *hidden])}: {file} is gone; inv train --resume sends it again")
    return f"{lines}[ -r {quoted(file)} ] || {{ echo {missing} >&2; exit 1; }}\n. {quoted(file)}"


def exported(host: Host, release: str) -> dict[str, str]:
    """Return the variables with which a run's programs are started on the host."""
    return variables.of_a_launch(release, host.env, has_environment=environment.is_declared(host))


def lease_command(host: Host, spec: RunSpec) -> Command:
    """Return the command that takes the lease, then runs launch.sh again."""
    return Command(host.python, "-I", f"{spec.release}/rdtops/contract/lease.py", str(spec.paths.config),
                   "sh", str(spec.paths.script))


def supervised(host: Host, spec: RunSpec) -> Command:
    """Return `rdtops.supervisor config.json … -- rdtops.trainer.process_group …`, which restarts when that helps."""
    return Command(environment.python(host), "-m", "rdtops.supervisor", str(spec.paths.config),
                   *host.recovery.words(), "--", *trainer_command(host, spec).argv)


def trainer_command(host: Host, spec: RunSpec) -> Command:
    """Return `rdtops.trainer.process_group … -m rdtops.trainer.train config.json`, for the launcher's machines."""
    return launchers.launcher(host).spread(jobs.job_of(spec), _spread(host, spec))


def _spread(host: Host, spec: RunSpec) -> Spread:
    return Spread(Command(environment.python(host), "-m", "rdtops.trainer.process_group",
                          "--num_processes", str(spec.train.num_processes)),
                  Command("-m", "rdtops.trainer.train", str(spec.paths.config)))


def _activation(host: Host) -> str:
    line = environment.activation(host)
    return f"{line.removesuffix(' && ')} || exit 1\n" if line else ""
