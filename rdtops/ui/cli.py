"""The command line's edge: a task's workflow on its hosts, what it yields on the screen, an exit code.

Exit codes: 0 good, 1 a check or a run failed, 2 usage or configuration, 3 a host cannot be reached.
Imported by tasks.py at every start, so everything heavy is imported when a task runs.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from invoke import Exit

from rdtops.errors import RdtopsError
from rdtops.ui.screen import Screen, ask_person, say, show_traceback

if TYPE_CHECKING:
    from rdtops.ssh.hosts import Host
    from rdtops.ssh.trust import SeenKey
    from rdtops.workflows.session import Session

LIVE = ("train", "evaluate", "follow_run", "logs", "gpu")  # workflows that go on for long and are read meanwhile

_screen: Screen | None = None


def on_hosts(work: str, host: str, *, as_json: bool = False, all_hosts: bool = False, of_runs: bool = False,
             **arguments: Any) -> None:
    """Run the workflow `work` on each host of `--host a,b` and show what it yields; several hosts side by side.

    Without --host: `all_hosts` means every host of hosts.toml, `of_runs` allows the host of the last launch.
    """
    screen = _on_screen(as_json)
    with _errors(screen):
        session = screen.session
        chosen = list(session.inventory.hosts.values()) if all_hosts and not host else session.hosts(
            host, of_runs=of_runs)
        if len(chosen) == 1:
            screen.finish(screen.show_each(_start(work, screen.session, chosen[0], arguments)))
        else:
            screen.finish(_side_by_side(work, screen, chosen, arguments))


def watch(host: str, *, run_id: str, plain: bool) -> None:
    """The dashboard where a terminal can show it, else lines."""
    from rdtops.ui import dashboard

    if plain or not (sys.stdout.isatty() and sys.stdin.isatty()):
        on_hosts("follow_run", host, of_runs=True, run_id=run_id)
        return
    if not dashboard.is_installed():
        say("without a dashboard: python -m pip install 'rdtops[dashboard]' brings one")
        on_hosts("follow_run", host, of_runs=True, run_id=run_id)
        return
    screen = _on_screen(as_json=False)
    with _errors(screen):
        session = screen.session
        shown = dashboard.of_hosts(session, session.hosts(host, of_runs=True), run_id)
        session.say = lambda _: None  # the dashboard has the screen, and shows what becomes of a link
        try:
            shown.run()
        finally:
            session.say = say
        screen.finish(screen.show_each(iter([shown.known[key].run for key in shown.feeds])))


def on_host_or_laptop(work: str, host: str, *, as_json: bool = False, **arguments: Any) -> None:
    """`work` on the hosts that are named, else `work`_here."""
    if host:
        on_hosts(work, host, as_json=as_json, **arguments)
    else:
        on_laptop(f"{work}_here", as_json=as_json, **arguments)


def on_laptop(work: str, *, as_json: bool = False, **arguments: Any) -> None:
    """The same for a workflow that needs no host."""
    screen = _on_screen(as_json)
    with _errors(screen):
        from rdtops import workflows

        screen.finish(screen.show_each(getattr(workflows, work)(screen.session, **arguments)))


def on_lab(work: str, *, as_json: bool = False, **arguments: Any) -> None:
    """up, down or status of this checkout's lab."""
    from rdtops.ui import repository

    screen = _on_screen(as_json)
    with _errors(screen):
        needs = {} if work == "status" else {"say": say}
        screen.finish(screen.show_each(getattr(repository, f"lab_{work}")(**needs, **arguments)))


def on_repository(work: str, *, room: str = "rdtops.ui.repository", as_json: bool = False, **arguments: Any) -> None:
    """demo, test or lint; bench and drill have rooms of their own, above this one: tasks.py names them."""
    screen = _on_screen(as_json)
    with _errors(screen):
        needs = {} if work == "lint" else {"say": say}
        screen.finish(screen.show_each(getattr(importlib.import_module(room), work)(**needs, **arguments)))


def wish(preset: str, settings: list[str] | None, from_scratch: bool = False) -> Any:
    from rdtops.delivery.plan import Wish

    return Wish(preset, tuple(settings or ()), from_scratch)


def protocol(**values: Any) -> Any:
    from rdtops.contract.evaluation import Protocol

    return Protocol(**values)


def accept_key(yes: bool) -> Callable[[SeenKey], bool]:
    """Asks the person at the terminal; `yes` answers for them, and no terminal means no."""
    def accept(seen: SeenKey) -> bool:
        changed = "CHANGED. Only say yes when you know why. " if seen.state == "changed" else ""
        say(f"{seen.hop.name} ({seen.hop.where}) shows {seen.kind} {seen.fingerprint}. {changed}")
        if yes:
            return True
        if not sys.stdin.isatty():
            say("compare it with what its administrator says, then: inv trust --yes")
            return False
        return ask_person(f"record it in {seen.hop.known_hosts}? [y/N]", echo=True).strip().lower() in ("y", "yes")

    return accept


class _Failures(Exception):  # it carries several errors to the one place that shows them
    def __init__(self, errors: list[RdtopsError]) -> None:
        super().__init__(f"{len(errors)} hosts failed")
        self.errors = errors


class _errors:  # noqa: N801  # reads as what it is: with _errors(screen):
    """Turns our errors into a message, a remedy and an exit code; everything else stays a traceback."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        errors = error.errors if isinstance(error, _Failures) else [error] if isinstance(error, RdtopsError) else []
        if errors:
            self.screen.close_progress()
            self.screen.show_rest()
            for one in errors:
                self.screen.complain(one)
            raise Exit(code=max(one.exit_code for one in errors)) from None
        if isinstance(error, BrokenPipeError):  # whoever read us, `head` say, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(code=0) from None
        if isinstance(error, KeyboardInterrupt):
            self.screen.close_progress()
            self.screen.close_live()
            say("\nstopped looking; what runs on the host goes on there")
            raise Exit(code=130) from None


def _start(work: str, session: Session, host: Host, arguments: dict[str, Any]) -> Iterator[Any]:
    from rdtops import workflows
    from rdtops.ssh import call_log

    call_log.task = work
    yielded: Iterator[Any] = getattr(workflows, work)(session, host, **arguments)
    return yielded


def _side_by_side(work: str, screen: Screen, hosts: list[Host], arguments: dict[str, Any]) -> int:
    """Each host in its own thread; a host that fails does not keep the others from ending. Shown in their order."""
    from rdtops.views import views

    with ThreadPoolExecutor(len(hosts)) as pool:
        futures = [pool.submit(_show_host, work, screen, host, arguments) for host in hosts]
    failed = [f.exception() for f in futures if f.exception()]
    unexpected = [e for e in failed if e and not isinstance(e, RdtopsError)]
    if unexpected:
        raise unexpected[0]
    things = [thing for f in futures if not f.exception() for thing in f.result()]
    if work not in LIVE:
        for thing in things:
            screen.show(thing)
    errors = [e for e in failed if isinstance(e, RdtopsError)]
    if errors:
        raise _Failures(errors)
    return max((views.exit_code(thing) for thing in things), default=0)


def _show_host(work: str, screen: Screen, host: Host, arguments: dict[str, Any]) -> list[Any]:
    """What is left to show when all hosts are done; what goes on for long is shown as it comes."""
    things = _start(work, screen.session, host, arguments)
    if work not in LIVE:
        return list(things)
    shown = []
    for thing in things:
        screen.show(thing)
        shown.append(thing)
    return shown


def _on_screen(as_json: bool) -> Screen:
    """One screen and one session for the whole chain of tasks."""
    global _screen  # noqa: PLW0603  # invoke calls task after task; this is what they share
    if _screen is None:
        _screen = Screen()
        sys.excepthook = show_traceback
        atexit.register(_screen.close)
    _screen.as_json = as_json
    return _screen
