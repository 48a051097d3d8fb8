"""The dashboard's screens, as text and as pictures, of runs that were made up: the same on every machine.

    python -m tests.ui.screens            # write tests/ui/screens/*.txt anew: look at `git diff` before you commit them
    python -m tests.ui.screens FOLDER     # write an SVG of each into FOLDER, on a dark and on a light terminal
    python -m tests.ui.screens --film     # write docs/films/dashboard.svg: of the newest run of the lab, a real one
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme
from textual.pilot import Pilot
from textual.strip import Strip

from rdtops.answers import GpuUsage, HostUsage
from rdtops.contract.config import preset
from rdtops.contract.journal import Event
from rdtops.contract.run import RunSpec, RunState
from rdtops.plugging.registry import Registry
from rdtops.runs.overview import RunView
from rdtops.runs.poller import Update
from rdtops.runs.records import HookRecord
from rdtops.ui.dashboard import of_hosts
from rdtops.ui.dashboard.app import Choice, Dashboard
from rdtops.ui.dashboard.feed import Refresh
from rdtops.workflows.session import Session

HERE = Path(__file__).parent / "screens"
FILM = Path(__file__).parents[2] / "docs" / "films" / "dashboard.svg"
RUN, OTHER = "20261126-040856-libero-bb03", "20261124-181210-libero-9f21"
LAUNCHED_S = 1_795_666_136.0
SIZES = ((60, 24), (80, 24), (100, 30), (140, 40), (200, 50))
STEPS, MAX_STEPS = 12_400, 30_000
LOG = ("step {step:5}/30000  loss {loss:.6f}  lr 1.00e-04  grad 0.312  148.2 samples/s  0.22 s/step (data 0.01 encode "
       "0.02 forward 0.05 backward 0.10)  61240 MiB  left 1:04:20")


def digest(step: int) -> str:
    return hashlib.md5(str(step).encode()).hexdigest()


def loss_of(step: int, end: float) -> float:
    return end + 0.9 * math.exp(-step / 900)


def events(steps: int, *, end: float = 0.004, resumed_at: int = 0, validates: bool = True) -> Iterator[Event]:
    """A run of that many steps, each of 0.22 s, with noise and two spikes; it was resumed after `resumed_at`."""
    chance, now_s = random.Random(end), LAUNCHED_S
    yield Event("launched", now_s, {"launcher": "tmux", "pid": 4711})
    now_s += 2
    yield Event("attempt", now_s, {"attempt": 1, "batch_size_per_process": 4, "gradient_accumulation_steps": 1})
    now_s += 40
    yield started(now_s, 0)
    for step in range(20, steps + 1, 20):
        now_s += 4.4
        spike = 6.0 if step in (5200, 9000) else 1.0
        loss = loss_of(step, end) * chance.uniform(0.8, 1.2) * spike
        phases = {"data_s": 0.011, "encode_s": 0.021, "forward_s": 0.049, "backward_s": 0.102, "optimiser_s": 0.022,
                  "save_s": 0.001, "evaluation_s": 0.004, "step_s": 0.216}
        yield Event("step", now_s, {
            "step": step, "loss": loss, "learning_rate": 1e-4 * min(1.0, step / 1000),
            "grad_norm": 0.3 * spike * chance.uniform(0.7, 1.3), "samples_per_s": chance.uniform(140, 152) / spike**0.5,
            "eta_s": (MAX_STEPS - step) * 0.22, **phases})
        if step % 2000 == 0:
            heldout = loss_of(step, end) * 1.3
            if validates:
                yield Event("heldout", now_s, {"step": step, "loss": heldout})
            yield Event("checkpoint", now_s + 3, {
                "step": step, "name": f"step_{step:06d}", "size_bytes": 4_912_000_000, "digest": digest(step),
                "heldout_loss": heldout if validates else None})
        if resumed_at and step == resumed_at:
            now_s += 600
            yield started(now_s, step)


def started(time_s: float, step: int) -> Event:
    return Event("started", time_s, {"world_size": 8, "device": "cuda", "parameters": 1_228_000_000,
                                     "resumed_from_step": step})


def view(run_id: str, host: str, state: RunState, step: int, **more: object) -> RunView:
    spec = RunSpec(run_id, host, "now", "/w", "/w/releases/r", "r", {}, replace(preset("rdt_1b"), max_steps=MAX_STEPS))
    last_s = LAUNCHED_S + 42 + 0.22 * step
    told: dict[str, object] = {"loss": 0.0041, "samples_per_s": 148.2, "eta_s": 38_160.0} if step else {
        "loss": None, "samples_per_s": None, "eta_s": None}
    return RunView(run_id, host, state, spec, None, step, MAX_STEPS, last_checkpoint="", last_event_s=last_s,
                   log_tail="", error="", **{**told, **more})


def gpus(loads: tuple[int, ...] = (97, 96, 97, 12, 96, 97, 95, 97)) -> tuple[GpuUsage, ...]:
    return tuple(GpuUsage(index, f"GPU-{index}", "NVIDIA A800-SXM4-80GB", 73_000 if load else 4, 81_920, load,
                          33 + load // 4 + 3 * (index % 4) + 9 * (index == 5), 60.0 + 3.2 * load)
                 for index, load in enumerate(loads))


USAGE = HostUsage(cpus=128, load=41.7, cpu_busy_ticks=1_000, cpu_ticks=10_000, memory_used_bytes=212 << 30,
                  memory_total_bytes=1007 << 30, disk_free_bytes=340_000_000_000, disk_total_bytes=3_500_000_000_000)
LATER = replace(USAGE, cpu_busy_ticks=1_370, cpu_ticks=11_000)


@dataclass(frozen=True)
class Scene:
    """What the hosts said, and the keys that were pressed."""

    name: str
    run: RunView
    events: tuple[Event, ...] = ()
    keys: tuple[str, ...] = ()
    sees_gpus: bool = True
    gpus: tuple[GpuUsage, ...] = ()
    problem: str = ""


def running(name: str = "running", steps: int = STEPS, *keys: str, **more: object) -> Scene:
    view_of = view(RUN, "a800", RunState.RUNNING, steps, gpus=gpus())
    return Scene(name, view_of, tuple(events(steps, resumed_at=6000, **more)), keys, gpus=gpus())


def scenes() -> list[Scene]:
    """Scenes beside that of a training in the middle, each shown in 100x30."""
    waiting = view(RUN, "a800", RunState.RUNNING, 0)
    return [
        running("compared", STEPS, "c", "enter", "x"),
        running("choice", STEPS, "c"),
        running("gradient-norm", STEPS, "g"),
        running("no-validation", STEPS, "v", validates=False),
        running("help", STEPS, "question_mark"),
        replace(running("disconnected"), problem="a800: the connection was lost at lab-jump"),
        Scene("first-step-to-come", waiting, tuple(events(0)), gpus=gpus((0,) * 8)),
        Scene("login-node", view(RUN, "a800", RunState.RUNNING, 400), tuple(events(400)), sees_gpus=False),
        Scene("ended", view(RUN, "a800", RunState.FINISHED, MAX_STEPS, eta_s=0.0), tuple(events(MAX_STEPS)),
              ("3",), gpus=gpus((0,) * 8))]


async def opened(scene: Scene, pilot: Pilot[None]) -> None:
    """Tell the dashboard what the hosts said, and press the keys."""
    app = pilot.app
    assert isinstance(app, Dashboard)
    record = HookRecord("after_checkpoint", "md5", "step_002000", digest(2000), 1.0, LAUNCHED_S, {"verified": "4.9 GB"})
    told = tuple((event, [record] if event.data.get("name") == record.checkpoint else []) for event in scene.events)
    log = tuple(LOG.format(step=step, loss=loss_of(step, 0.004)) for step in range(20, scene.run.step + 1, 20)[-60:])
    now_s = scene.run.last_event_s + (7200 if scene.run.state.ended else 2)
    update = Update(scene.run, {}, scene.gpus, "", USAGE)
    app.post_message(app.Updated(Refresh(scene.run.host, RUN, update, told, log, time_s=now_s)))
    update = replace(update, usage=LATER)
    app.post_message(app.Updated(Refresh(scene.run.host, RUN, update, time_s=now_s)))
    if scene.problem:
        app.post_message(app.Updated(Refresh(scene.run.host, RUN, problem=scene.problem, again_in_s=4.0)))
    await pilot.pause()
    for key in scene.keys:
        await pilot.press(key)
        await pilot.pause()
    if app.second:
        update = Update(view(OTHER, "a800", RunState.FINISHED, MAX_STEPS), {}, ())
        seen = tuple((event, []) for event in events(MAX_STEPS, end=0.02))
        app.post_message(app.Updated(Refresh("a800", OTHER, update, seen)))
    await pilot.pause()
    await pilot.pause()


class Still(Dashboard):
    """A dashboard whose hosts say nothing but what a test tells."""

    def _begin(self, key, registry):  # type: ignore[no-untyped-def]
        return _Silent()


class _Silent:
    is_cancelled = False

    def cancel(self) -> None:
        pass

    stop = cancel


def dashboard(scene: Scene) -> Dashboard:
    other = view(OTHER, "a800", RunState.FINISHED, MAX_STEPS)
    choice = Choice("a800", (scene.run, other), lambda: None, scene.sees_gpus)  # type: ignore[arg-type,return-value]
    return Still([choice], [scene.run], Registry([]))


def strips(scene: Scene, size: tuple[int, int]) -> list[Strip]:
    """The lines of the screen, with their colours."""
    async def run() -> list[Strip]:
        app = dashboard(scene)
        async with app.run_test(size=size) as pilot:
            await opened(scene, pilot)
            return app.screen._compositor.render_strips()

    return asyncio.run(run())


def letters(lines: list[Strip]) -> str:
    """The letters of the screen, each line without the blanks at its end."""
    return "".join(strip.text.rstrip() + "\n" for strip in lines)


def picture(scene: Scene, size: tuple[int, int], theme: TerminalTheme) -> str:
    """An SVG of the screen, in the colours of a terminal."""
    async def run() -> str:
        app = dashboard(scene)
        async with app.run_test(size=size) as pilot:
            await opened(scene, pilot)
            return svg(app, theme)

    return asyncio.run(run())


def svg(app: Dashboard, theme: TerminalTheme) -> str:
    console = Console(width=app.size.width, height=app.size.height, file=io.StringIO(), force_terminal=True,
                      record=True, color_system="truecolor", legacy_windows=False, safe_box=False)
    console.print(app.screen._compositor.render_update(full=True, screen_stack=app._background_screens))
    return console.export_svg(title="inv watch", theme=theme)


def film(host: str, size: tuple[int, int] = (120, 36)) -> str:
    """An SVG of the newest run of a host, once it has told its CPU twice."""
    async def run() -> str:
        session = Session(lambda _: None, lambda *_: None)
        app = of_hosts(session.hosts(host), "")
        async with app.run_test(size=size) as pilot:
            while app.known[app.current].cpu_percent is None:
                await pilot.pause(0.2)
            await pilot.pause(1.0)
            found = svg(app, MONOKAI)
        session.close()
        return found

    return asyncio.run(run())


def every() -> Iterator[tuple[str, Scene, tuple[int, int]]]:
    """Yield the name of each screen, what it shows, and its size."""
    for size in SIZES:
        yield f"{size[0]}x{size[1]}", running(), size
    for scene in scenes():
        yield scene.name, scene, (100, 30)


def main() -> None:
    os.environ["TZ"] = "UTC"
    time.tzset()
    if sys.argv[1:] == ["--film"]:
        FILM.write_text(film("lab"), encoding="utf-8")
        return
    for name, scene, size in every():
        if sys.argv[1:]:
            for word, theme in (("dark", MONOKAI), ("light", DEFAULT_TERMINAL_THEME)):
                Path(sys.argv[1], f"{name}-{word}.svg").write_text(picture(scene, size, theme), encoding="utf-8")
        else:
            (HERE / f"{name}.txt").write_text(letters(strips(scene, size)), encoding="utf-8")


if __name__ == "__main__":
    main()
