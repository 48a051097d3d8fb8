"""Delivery output: what a deploy sent, or would send, and why; releases and environments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.delivery.deploy import Delivery
from rdtops.delivery.provision import Provisioned
from rdtops.delivery.releases import RolledBack
from rdtops.transfer.transfer_plan import Item
from rdtops.views.output import WorkflowOutput
from rdtops.views.terminal import styled
from rdtops.views.words import size, stacked, table_of

MOST_LINES = 20  # of a delivery's reasons


@dataclass(frozen=True)
class DeployOutput(WorkflowOutput):
    host: str
    deliveries: tuple[Delivery, ...]
    dry_run: bool
    removed: tuple[str, ...] = ()  # old releases that nothing used

    def __rich__(self) -> RenderableType:
        table = table_of(f"{'would be sent' if self.dry_run else 'deployed'} to {self.host}",
                         "what", "files", "sent", "bytes", "where and why")
        for delivery in self.deliveries:
            table.add_row(delivery.what, *_cells(delivery, self.dry_run))
        details = [line for d in self.deliveries for line in _reasons(d)] if self.dry_run else []
        removed = [Text(f"removed old releases that nothing uses: {', '.join(self.removed)}")] if self.removed else []
        return Group(table, *details, *removed)

    def to_json(self) -> list[dict[str, Any]]:
        return [{"host": self.host, "what": d.what, "target": d.target, "note": d.note or None, "remarks": d.remarks,
                 "dry_run": self.dry_run, "sent_bytes": d.outcome.sent_bytes if d.outcome else 0,
                 "files": [asdict(i) for i in d.plan.items] if d.plan else []} for d in self.deliveries]


def _cells(delivery: Delivery, dry_run: bool) -> tuple[str, str, str, Text]:
    note = f"{delivery.note}\n" if delivery.note else ""
    if delivery.plan is None:
        return "", "", "", styled("{}[dim]{}[/]", note, delivery.target)
    moved = [i for i in delivery.plan.items if i.action in ("send", "resume")]
    copied = sum(i.action == "copy" for i in delivery.plan.items)
    if not note and not moved:
        note = "up to date, verified by MD5\n" if not copied else ""
    if copied:
        note += f"{copied} files copied on the host from the previous release\n"
    note += "".join(f"{remark}\n" for remark in delivery.remarks)
    sent_bytes = delivery.outcome.sent_bytes if delivery.outcome and not dry_run else delivery.plan.bytes_to_send
    return str(len(delivery.plan.items)), str(len(moved)), size(sent_bytes), styled(
        "{}[dim]{}[/]", note, delivery.target)


def _reasons(delivery: Delivery) -> Iterable[Text]:
    """Return a line for each folder, action and reason: how many files, and their size."""
    found: dict[tuple[str, str, str], list[Item]] = {}
    for item in delivery.plan.items if delivery.plan else ():
        if item.action != "skip":
            found.setdefault((item.action, _folder(item.path), item.reason), []).append(item)
    for (action, folder, reason), items in list(found.items())[:MOST_LINES]:
        files = "" if len(items) == 1 else f"  {len(items)} files"
        yield styled("  {}: {} {}{}  {}  {}", delivery.what, f"{action:6}",
                     items[0].path if len(items) == 1 else f"{folder}/", files,
                     size(sum(item.size_bytes for item in items)), reason)
    if len(found) > MOST_LINES:
        yield styled("  {}: and {} more folders", delivery.what, len(found) - MOST_LINES)


def _folder(path: str) -> str:
    """Return the folder of a file, two levels deep: rdtops/trainer of rdtops/trainer/data/libero.py."""
    return "/".join(path.split("/")[:-1][:2]) or "."


@dataclass(frozen=True)
class RollbackOutput(WorkflowOutput):
    rollback: RolledBack

    def __rich__(self) -> RenderableType:
        it = self.rollback
        return styled("[green]{}[/]: trainings now run [bold]{}[/] instead of {}; running trainings are not affected\n"
                      "  train with it:   inv train --host {}\n"
                      "  end it:          inv deploy --host {}", it.host, it.to, it.before, it.host, it.host)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(self.rollback)]


@dataclass(frozen=True)
class EnvironmentOutput(WorkflowOutput):
    """The environment that `inv deploy --env` made."""

    made: Provisioned

    def __rich__(self) -> RenderableType:
        made = self.made
        what = f"{made.packages} packages, {made.seconds:.0f} s" if made.packages else f"Python {made.python}"
        why = [styled("  {}: {}", made.torch, made.why)] if made.why else []
        wanted = [styled("  [dim]{}; {}[/]", made.torch, ", ".join(made.requirements))] if made.requirements else []
        removed = [styled("  [dim]removed {}[/]", ", ".join(made.removed))] if made.removed else []
        return stacked(styled("[green]{}[/]: the environment {} {} ({})", made.host, made.place, made.state, what),
                       *why, *wanted, *removed)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(self.made)]
