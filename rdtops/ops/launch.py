"""Launch: one readable script in the run folder, started so that it outlives the connection.

The script is what runs, whoever starts it; `inv train --dry-run` prints it. It records its process, keeps every log
line and the exit code, and tags the environment so that every process of the run can be found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from rdtops.contract.config import TrainConfig
from rdtops.contract.evaluation import EvalSpec
from rdtops.contract.run import RunSpec
from rdtops.errors import RunError
from rdtops.remote import environment
from rdtops.remote.command import Command, quoted, variable
from rdtops.remote.connection import Connection
from rdtops.remote.hosts import Host

TMUX_SOCKET = "rdtops"  # a tmux server of our own: an old one of the user keeps a stale environment
STARTED_WITHIN_S = 20.0

_SCRIPT = """\
#!/bin/sh
# {title}
cd {root} || exit 1
{first}rm -f exit stop
printf '%s %s %s\\n' "$$" "$(cut -d' ' -f22 /proc/$$/stat)" "$(cat /proc/sys/kernel/random/boot_id)" > process.tmp
mv process.tmp process
{told}{exports}
touch {log}
if [ -t 1 ]; then tail -n 0 -F {log} & viewer=$!; fi
(
cd {release} || exit 1
{activation}exec {program}
) >> {log} 2>&1
code=$?
[ -n "${{viewer:-}}" ] && kill "$viewer"
echo "$code" > exit.tmp && mv exit.tmp exit
exit "$code"
"""
_FIRST = """\
trap '' USR1  # Slurm sends it to all before a time limit; the trainer hears it, its launcher would die of it
"""
_TOLD = """\
printf '{"kind": "launched", "time_s": %s, "launcher": "%s", "pid": %s}\\n' \\
    "$(date +%s)" "${RDTOPS_LAUNCHER:-hand}" "$$" >> journal.jsonl
"""


def script(host: Host, spec: RunSpec) -> str:
    """What launch.sh holds."""
    return _SCRIPT.format(
        title=f"Run {spec.run_id}: written by `inv train`. Started by hand, it does the same in the foreground.",
        root=quoted(str(spec.paths.root)), first=_FIRST, told=_TOLD, log=spec.paths.log.name,
        exports=_exports({"RDTOPS_RUN": spec.run_id, **_variables(host, spec.release)}),
        release=quoted(spec.release), activation=_activation(host), program=trainer_command(host, spec).shell())


def evaluation_script(host: Host, spec: EvalSpec) -> str:
    """What eval.sh holds. Not the run's tag: `inv stop` of the training is to leave it alone."""
    program = Command("nice", "-n", "10", environment.python(host), "-m", "rdtops.trainer.evaluate",
                      str(spec.paths.spec))
    return _SCRIPT.format(
        title=f"Evaluation {spec.name}: written by `inv eval`. Started by hand, it goes on where it ended.",
        root=quoted(str(spec.paths.root)), first="", told="", log=spec.paths.log.name,
        exports=_exports({"RDTOPS_EVAL": f"{spec.run_id}/{spec.name}", **_variables(host, spec.release)}),
        release=quoted(spec.release), activation=_activation(host), program=program.shell())


def _variables(host: Host, release: str) -> dict[str, str]:
    return {"PYTHONPATH": release, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",  # a release is immutable
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **host.env}


def trainer_command(host: Host, spec: RunSpec) -> Command:
    """`accelerate launch … -m rdtops.trainer.train config.json`."""
    train = spec.train
    python = environment.python(host)
    return Command(python, "-m", "accelerate.commands.launch", *_distribution(train),
                   "--num_processes", str(train.num_processes), "--num_machines", "1",
                   "--mixed_precision", train.mixed_precision, "--dynamo_backend", "no",
                   "--main_process_port", "0",  # a free one: two runs on a host do not meet
                   "--num_cpu_threads_per_process", "1", "-m", "rdtops.trainer.train", str(spec.paths.config))


def _distribution(train: TrainConfig) -> list[str]:
    """accelerate's word for `sharding`. Its launcher only hands it on to the trainer, which compares the two
    (rdtops/trainer/sharding.py)."""
    if train.num_processes == 1:
        return ["--cpu"] if train.device == "cpu" else []
    if train.sharding != "fsdp2":
        return ["--multi_gpu"]  # also on CPUs: --cpu would silently start one process
    recomputed = str(train.gradient_checkpointing).lower()
    return ["--use_fsdp", "--fsdp_version", "2", "--fsdp_reshard_after_forward", "true",
            "--fsdp_offload_params", "false", "--fsdp_activation_checkpointing", recomputed]


def prepare(connection: Connection, spec: RunSpec) -> None:
    """Make the run folder with config.json and launch.sh, each written whole."""
    paths = spec.paths
    connection.run(Command("mkdir", "-p", str(paths.checkpoints)))
    _write(connection, str(paths.config), spec.to_json() + "\n")
    _write(connection, str(paths.script), script(connection.host, spec))


def prepare_evaluation(connection: Connection, spec: EvalSpec) -> None:
    """Make the evaluation's folder with eval.json and eval.sh, each written whole."""
    paths = spec.paths
    connection.run(Command("mkdir", "-p", str(paths.root)))
    _write(connection, str(paths.spec), spec.to_json() + "\n")
    _write(connection, str(paths.script), evaluation_script(connection.host, spec))


def start(connection: Connection, spec: RunSpec) -> str:
    """Start launch.sh detached, see that it lives, and return the launcher that was used: tmux or setsid."""
    return _detached(connection, spec.paths.script, spec.run_id, f"RDTOPS_RUN={spec.run_id}")


def start_evaluation(connection: Connection, spec: EvalSpec) -> str:
    """The same with eval.sh, in a session of its own."""
    return _detached(connection, spec.paths.script, f"{spec.run_id}/{spec.name}".replace(".", "_"),
                     f"RDTOPS_EVAL={spec.run_id}/{spec.name}")


def _detached(connection: Connection, path: PurePosixPath, session: str, tag: str) -> str:
    launcher = _launcher(connection)
    process = quoted(str(path.parent / "process"))
    stale = " ".join(quoted(str(path.parent / name)) for name in ("process", "exit", "stop"))
    connection.run_shell(f"rm -f {stale}")
    run_script = Command("env", f"RDTOPS_LAUNCHER={launcher}", tag, "sh", str(path))
    if launcher == "tmux":
        connection.run(Command("tmux", "-L", TMUX_SOCKET, "-f", "/dev/null", "new-session", "-d",
                               "-x", "200", "-y", "50", "-s", session, run_script.shell()))
    else:
        connection.run_shell(f"setsid -f {run_script.shell()} </dev/null >/dev/null 2>&1")
    begun = connection.run_shell(
        f"for i in $(seq {int(STARTED_WITHIN_S * 5)}); do [ -e {process} ] && exit 0; sleep 0.2; done; exit 1",
        timeout_s=STARTED_WITHIN_S + 20, check=False)
    if not begun.ok:
        raise RunError(f"{connection.host.name}: {path} was started through {launcher} but did not begin "
                       f"within {STARTED_WITHIN_S:g} s", remedy=f"ssh there and run: sh {path}")
    return launcher


def attach_line(spec: RunSpec) -> str:
    """The shell line that shows a running training on its host."""
    in_tmux = Command("tmux", "-L", TMUX_SOCKET, "attach-session", "-t", "=" + spec.run_id).shell()
    return f"{in_tmux} 2>/dev/null || exec tail -n 50 -F {quoted(str(spec.paths.log))}"


def _launcher(connection: Connection) -> str:
    wanted = connection.host.launcher
    if wanted != "auto":
        return wanted
    return connection.run_shell("command -v tmux >/dev/null && echo tmux || echo setsid").out.strip()


def _activation(host: Host) -> str:
    line = environment.activation(host)
    return f"{line.removesuffix(' && ')} || exit 1\n" if line else ""


def _exports(variables: Mapping[str, str]) -> str:
    return "\n".join(f"export {variable(name)}={quoted(value)}" for name, value in variables.items())


def _write(connection: Connection, path: str, text: str) -> None:
    connection.run_shell(f"cat > {quoted(path + '.tmp')} && mv {quoted(path + '.tmp')} {quoted(path)}",
                         stdin=text.encode())


def write_json(connection: Connection, path: str, values: Mapping[str, object]) -> None:
    _write(connection, path, json.dumps(values, indent=1) + "\n")
