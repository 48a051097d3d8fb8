"""A training with all that keeps a Python process from ending: `python -m tests.trainer.burdened rdtops.trainer.train
CONFIG`. A thread that is no daemon, a handler of atexit that hangs, and what a library has started: a process in a
session of its own that ignores SIGTERM."""

from __future__ import annotations

import atexit
import subprocess
import sys
import threading

from rdtops.trainer import stacks, train
from rdtops.trainer.loop import failures

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


if __name__ == "__main__":
    stacks.write_on_request()
    threading.Thread(target=threading.Event().wait).start()
    atexit.register(threading.Event().wait)
    subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
    failures.leave(lambda: train.main(sys.argv[2:]))
