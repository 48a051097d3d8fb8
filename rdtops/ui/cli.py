"""CLI: run the workflow of a task on its hosts, show what it yields, and return an exit code.

Exit codes: 0 success, 1 a check or a run failed, 2 usage or configuration, 3 a host cannot be reached.
tasks.py imports this module at every start, so heavy modules are imported only when a task runs.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, NoReturn, ParamSpec

from invoke import Exit

from rdtops.errors import LocalFileError, RdtopsError
from rdtops.ui.screen import Screen, ask_person, leave_question, say, show_traceback

if TYPE_CHECKING:
    from rdtops.delivery.plan import Request
    from rdtops.ssh.trust import SeenKey
    from rdtops.views.output import WorkflowOutput
    from rdtops.workflows.session import HostSession, Session

P = ParamSpec("P")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)

_screen: Screen | None = None


@dataclass(frozen=True)
class OnHosts:
    """The hosts of `--host a,b`: `OnHosts("a800").run(workflows.rollback, to="")`.

    Without a name: `all_hosts` means every host of hosts.toml, with `examples` those too; `of_runs` allows the host of
    the last launch. `live`: lines of several hosts are shown as they come, not one host after another.
    """

    names: str
    as_json: bool = False
    all_hosts: bool = False
    examples: bool = False
    of_runs: bool = False
    live: bool = False

    def run(self, workflow: Callable[Concatenate[HostSession, P], Iterable[WorkflowOutput]], *args: P.args,
            **options: P.kwargs) -> None:
        """Run the workflow on each host, several in parallel, and show what it yields."""
        def start(host: HostSession) -> Iterable[WorkflowOutput]:
            return workflow(host, *args, **options)

        with _on_screen(self.as_json, live=self.live) as screen:
            from rdtops.ssh import call_log

            call_log.task = workflow.__name__
            hosts = self._chosen(screen)
            if len(hosts) == 1:
                screen.finish(screen.show_each(start(hosts[0])))
            else:
                screen.finish(_side_by_side(screen, hosts, start, live=self.live))

    def watch(self, run_id: str) -> None:
        """Open the dashboard until the user closes it."""
        with _on_screen(live=True) as screen:
            from rdtops.ui import dashboard
            from rdtops.views.run_output import RunOutput

            session, say_before = screen.session, screen.session.say
            app = dashboard.of_hosts(self._chosen(screen), run_id)
            session.say = lambda _: None  # the dashboard uses the screen, and shows lost connections
            try:
                app.run()
            finally:
                session.say = say_before
            screen.finish(screen.show_each(RunOutput(app.known[key].run) for key in app.feeds))

    def _chosen(self, screen: Screen) -> list[HostSession]:
        if self.all_hosts and not self.names:
            return screen.session.all_hosts(examples=self.examples)
        return screen.session.hosts(self.names, of_runs=self.of_runs)


def on_laptop(workflow: Callable[[Session], Iterable[WorkflowOutput]], *, as_json: bool = False) -> None:
    """Run a workflow that needs no host, and show what it yields."""
    with _on_screen(as_json) as screen:
        screen.finish(screen.show_each(workflow(screen.session)))


def has_dashboard() -> bool:
    """Return whether this terminal can show a dashboard; print how to install it when only the extra is missing."""
    from rdtops.ui import dashboard

    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        return False
    if not dashboard.is_installed():
        say("No dashboard: textual is not installed; in the folder of rdtops: python -m pip install '.[dashboard]'")
        return False
    return True


def request(preset: str, settings: list[str] | None, from_scratch: bool = False) -> Request:
    """Return the request of the command line, without the host."""
    from rdtops.delivery.plan import Request

    return Request(preset, tuple(settings or ()), from_scratch)


def accept_key(yes: bool) -> Callable[[SeenKey], bool]:
    """Return a function that asks the user at the terminal; `yes` accepts all, and without a terminal nothing is."""
    def accept(seen: SeenKey) -> bool:
        say(f"{seen.hop.name} ({seen.hop.where}): {seen.kind} key fingerprint is {seen.fingerprint}.")
        if seen.state == "changed":
            say("REMOTE HOST IDENTIFICATION HAS CHANGED. Accept it only when you know why.")
        if yes:
            return True
        if not sys.stdin.isatty():
            say("Compare it with the fingerprint that its administrator gives, then type the same command with --yes")
            return False
        return ask_person(f"Add it to {seen.hop.known_hosts}? [y/N]", echo=True).strip().lower() in ("y", "yes")

    return accept


class _Failures(Exception):  # carries several errors to where they are shown
    def __init__(self, errors: list[RdtopsError]) -> None:
        super().__init__(f"{len(errors)} hosts failed")
        self.errors = errors


@contextmanager
def _on_screen(as_json: bool = False, *, live: bool = False) -> Iterator[Screen]:
    """Yield the screen of this command line. An RdtopsError becomes a message, a remedy and an exit code; any other
    error stays a traceback."""
    screen = _shared_screen()
    if as_json:
        screen.show_json()
    try:
        yield screen
    except _Failures as failures:
        _fail(screen, failures.errors)
    except RdtopsError as error:
        _fail(screen, [error])
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        screen.close_results()
        raise Exit(code=0) from None
    except OSError as error:
        if not (local := _of_local_file(error)):
            raise
        _fail(screen, [local])
    except KeyboardInterrupt:
        screen.close_progress()
        screen.close_live()
        said = ["Detached. The run continues on the host."] if live else ["Interrupted.", *screen.session.interrupted]
        say("\n" + "\n".join(said))
        if leave_question():  # a thread that waits for a person cannot be ended
            screen.close()
            os._exit(130)
        raise Exit(code=130) from None


def _of_local_file(error: OSError) -> LocalFileError | None:
    """Return the error of a file or folder that the user has to mend; None for any other error."""
    from rdtops.plugging.bounded import DEBUG
    from rdtops.ssh.command import quoted

    if error.filename is None or error.errno not in (*_REFUSED, *_FULL) or os.environ.get(DEBUG):
        return None
    place = Path(os.fsdecode(error.filename))
    there = next((folder for folder in (place, *place.parents) if os.path.lexists(folder)), place)
    question = "df -h" if error.errno in _FULL else "ls -ld"
    return LocalFileError(f"{place}: {error.strerror}", remedy=f"{question} {quoted(str(there))}")


def _fail(screen: Screen, errors: list[RdtopsError]) -> NoReturn:
    screen.close_progress()
    screen.show_rest()
    for error in errors:
        screen.complain(error)
    raise Exit(code=max(error.exit_code for error in errors)) from None


def _shared_screen() -> Screen:
    """Return the screen, and with it the session, which the whole chain of tasks shares."""
    global _screen  # noqa: PLW0603  # invoke calls task after task; they share it
    if _screen is None:
        _screen = Screen()
        sys.excepthook = show_traceback
        atexit.register(_screen.close)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _ended_by)
    return _screen


def _ended_by(number: int, _: object) -> None:
    """End as a command does, so that no `ssh` stays behind that is logged in."""
    if _screen:
        _screen.close()
    raise SystemExit(128 + number)


def _side_by_side(screen: Screen, hosts: list[HostSession], start: Callable[[HostSession], Iterable[WorkflowOutput]], *,
                  live: bool) -> int:
    """Run each host in its own thread; one that fails does not stop the others. Return the worst exit code."""
    codes = []

    def outputs_of(host: HostSession) -> list[WorkflowOutput]:
        if not live:
            return list(start(host))
        codes.append(screen.show_each(start(host)))
        return []

    pool = ThreadPoolExecutor(len(hosts))
    try:
        futures = [pool.submit(outputs_of, host) for host in hosts]
        wait(futures)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        screen.close()  # ends what the threads wait for
        raise
    pool.shutdown()
    failed = [f.exception() for f in futures if f.exception()]
    unexpected = [e for e in failed if e and not isinstance(e, RdtopsError)]
    if unexpected:
        raise unexpected[0]
    codes.append(screen.show_each(output for f in futures if not f.exception() for output in f.result()))
    errors = [e for e in failed if isinstance(e, RdtopsError)]
    if errors:
        raise _Failures(errors)
    return max(codes)
