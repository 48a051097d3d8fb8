"""Process group: start a training's ranks on this machine, for torch.distributed to connect.

    python -m rdtops.trainer.process_group --num_processes 8 -m rdtops.trainer.train RUN_DIR/config.json

It is torchrun with every value given, so a launch is the same with each version of torch. `accelerate launch` is not
used: what its versions make of an option differs (port 0 was a free port, and became port 0 itself, on which the ranks
wait for ever), and it reads a configuration of the account. The options have accelerate's names, because launchers of
clusters add them (rdtops.launcher.Spread).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

from rdtops.contract import variables
from rdtops.trainer import stacks

log = logging.getLogger("rdtops.trainer.process_group")
HERE = "127.0.0.1"
FOREIGN = ("ACCELERATE_", "PET_")  # variables that configure accelerate and torchrun
LOOK_S = 0.1  # in which a rank's end is noticed; torch 2.1 takes 5 s where none is given


def main(arguments: list[str] | None = None) -> None:
    options = _parsed(arguments)
    variables.use(os.environ)
    _tell_dropped(os.environ[variables.DROPPED].split())
    program = ["-m", options.module, *options.arguments]
    if options.num_processes == 1:
        # the rank takes our place: it gets each signal, and its exit code is told
        os.execv(sys.executable, [sys.executable, *program])  # noqa: S606  # no shell is wanted
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup, say: torchrun handles what is ignored
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from torch.distributed.run import main as torchrun  # imported here: a single process needs no torchrun

    torchrun([*_rendezvous(options), *program])


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rdtops.trainer.process_group", allow_abbrev=False,
                                     description="Start the ranks of a training on this machine.")
    parser.add_argument("--num_processes", type=int, required=True, help="of all machines together")
    parser.add_argument("--num_machines", type=int, default=1)
    parser.add_argument("--machine_rank", type=int, default=0, help="the number of this machine, from 0")
    parser.add_argument("--main_process_ip", default=HERE, help="address of machine 0")
    parser.add_argument("--main_process_port", type=int, default=0, help="of machine 0; 0: a free one")
    parser.add_argument("-m", dest="module", required=True, help="what each rank runs, and its arguments")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.num_processes < 1 or options.num_machines < 1 or options.num_processes % options.num_machines:
        parser.error(f"{options.num_processes} processes cannot be shared equally by {options.num_machines} machines")
    if options.num_machines > 1 and not options.main_process_port:
        parser.error("several machines need --main_process_port: none of them knows a port that is free on the first")
    return options


def _tell_dropped(names: Sequence[str]) -> None:
    """Log which variables of the account the ranks do not get."""
    configuring = [name for name in names if name.startswith(FOREIGN)]
    if configuring:
        log.warning("ignored, since config.json of the run decides: %s", ", ".join(configuring))
    if others := [name for name in names if name not in configuring]:
        log.warning("not passed on to the run, unless env of hosts.toml has them: %s", ", ".join(others))


def _rendezvous(options: argparse.Namespace) -> list[str]:
    """Return torchrun's options. A static rendezvous takes the address as it is given, and asks no name server."""
    port = options.main_process_port or _free_port()
    return ["--nnodes", str(options.num_machines), "--node_rank", str(options.machine_rank),
            "--nproc_per_node", str(options.num_processes // options.num_machines),
            "--rdzv_backend", "static", "--master_addr", options.main_process_ip, "--master_port", str(port),
            "--max_restarts", "0", "--monitor_interval", str(LOOK_S)]


def _free_port() -> int:
    """Return a port that nothing listens on. Where another program takes it before torchrun does, the ranks fail with
    EADDRINUSE, and the supervisor starts them again on another one."""
    with socket.socket() as listener:
        listener.bind((HERE, 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    stacks.write_on_request()
    main()
