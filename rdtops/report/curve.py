"""Curve: the loss of a run as an image beside its report: loss.svg, and loss.png if matplotlib is installed."""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rdtops.hostlib import files
from rdtops.report.breaks import Break, breaks
from rdtops.report.chart import ChartLine, ChartMark, picture
from rdtops.runs.results import PNG, SVG
from rdtops.runs.story import Story, smoothed
from rdtops.views.words import size

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(story: Story, folder: Path, title: str) -> None:
    """Write the images: each logged step, a running mean over a twentieth of them, and the validation loss. Each is
    written whole: a partial one would stay, since they are drawn again only after new events."""
    svg = picture(lines(story), title, marks=marks(story), unit="loss")
    files.write_whole(folder / SVG, svg.encode("utf-8", "replace"))
    if _has_matplotlib():
        files.write_whole(folder / PNG, _png(story, folder, title))
    else:
        (folder / PNG).unlink(missing_ok=True)  # an older one would be out of date


def is_drawn(folder: Path) -> bool:
    return (folder / SVG).exists() and (not _has_matplotlib() or (folder / PNG).exists())


def lines(story: Story) -> list[ChartLine]:
    return [ChartLine("each logged step", story.loss, "raw"), ChartLine("running mean", smoothed(story.loss), "loss"),
            ChartLine("validation loss", story.heldout, "heldout", dots=True)]


def marks(story: Story) -> list[ChartMark]:
    """Return a vertical line for each checkpoint, and one with a label for each stop, failure, resume and restart."""
    saved = [ChartMark(c.step, f"{c.name}, {size(c.size_bytes)}") for c in story.checkpoints.values()]
    by_step: dict[int, list[Break]] = {}
    for one in breaks(story):
        by_step.setdefault(one.step, []).append(one)
    return [*saved, *(ChartMark(step, "; ".join(f"{one.label} {one.words}" for one in found), found[-1].label)
                      for step, found in by_step.items())]


# --- matplotlib ---

def _has_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _png(story: Story, folder: Path, title: str) -> bytes:
    content = io.BytesIO()
    with _place_for_fonts(folder):
        _figure(story, title).savefig(content, dpi=120, format="png")
    return content.getvalue()


def _figure(story: Story, title: str) -> Figure:
    from matplotlib.figure import Figure  # takes half a second, so only where it is used

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if story.loss:
        window = max(1, len(story.loss) // 20)
        axes.plot(*zip(*story.loss, strict=True), linewidth=0.8, alpha=0.4, label="loss")
        axes.plot(*zip(*smoothed(story.loss), strict=True), linewidth=2,
                  label=f"mean of {window}" if window > 1 else "loss")
        if story.heldout:
            axes.plot(*zip(*story.heldout, strict=True), marker="o", label="validation loss (EMA)")
        axes.set_ylim(bottom=0)
    for one in {found.step: found for found in breaks(story)}.values():
        axes.axvline(one.step, color="tab:red", linewidth=0.8)
        axes.annotate(one.label, (one.step, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                      textcoords="offset points", fontsize="x-small", color="tab:red")
    if story.checkpoints:
        axes.vlines([c.step for c in story.checkpoints.values()], 0, 1, transform=axes.get_xaxis_transform(),
                    linestyles=":", colors="gray", linewidths=0.8, label="checkpoint")
    axes.set(xlabel="optimiser step", ylabel="loss", title=title)
    if story.loss:
        axes.legend()
    return figure


@contextmanager
def _place_for_fonts(folder: Path) -> Iterator[None]:
    """Give matplotlib a folder for its font cache: the home or the temporary folder; when that is full, a temporary
    folder beside the image."""
    with ExitStack() as passing:
        try:
            tempfile.TemporaryFile().close()
        except OSError:
            made = passing.enter_context(tempfile.TemporaryDirectory(prefix=".fonts-", dir=folder))
            os.environ.setdefault("MPLCONFIGDIR", made)
        yield
