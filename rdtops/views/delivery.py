"""What a deploy sent, or would send, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rdtops.delivery.deploy import Delivery
from rdtops.delivery.provision import Provisioned
from rdtops.delivery.releases import RolledBack
from rdtops.views.forms import rows, shown
from rdtops.views.terminal import styled
from rdtops.views.views import Deployed
from rdtops.views.words import size, stacked, table_of


@shown.register
def _(thing: Deployed) -> RenderableType:
    table = table_of(f"{'would be sent' if thing.dry_run else 'deployed'} to {thing.host}",
                   "what", "files", "sent", "bytes", "where and why")
    for delivery in thing.deliveries:
        table.add_row(delivery.what, *_delivered(delivery, thing.dry_run))
    details = [line for d in thing.deliveries for line in _reasons(d)] if thing.dry_run else []
    removed = [Text(f"removed old releases that nothing uses: {', '.join(thing.removed)}")] if thing.removed else []
    return Group(table, *details, *removed)


@shown.register
def _(thing: RolledBack) -> RenderableType:
    return styled("[green]{}[/]: trainings now get [bold]{}[/] instead of {}; what runs is left alone\n"
                  "  train with it:   inv train --host {}\n"
                  "  end it:          inv deploy --host {}", thing.host, thing.to, thing.before, thing.host, thing.host)


def _delivered(delivery: Delivery, dry_run: bool) -> tuple[str, str, str, Text]:
    note = f"{delivery.note}\n" if delivery.note else ""
    if delivery.plan is None:
        return "", "", "", styled("{}[dim]{}[/]", note, delivery.target)
    moved = [i for i in delivery.plan.items if i.action in ("send", "resume")]
    copied = sum(i.action == "copy" for i in delivery.plan.items)
    if not note and not moved:
        note = "all there already, verified by MD5\n" if not copied else ""
    if copied:
        note += f"{copied} files taken over from the release before, on the host\n"
    sent_bytes = delivery.outcome.sent_bytes if delivery.outcome and not dry_run else delivery.plan.bytes_to_send
    return str(len(delivery.plan.items)), str(len(moved)), size(sent_bytes), styled(
        "{}[dim]{}[/]", note, delivery.target)


def _reasons(delivery: Delivery) -> Iterable[Text]:
    items = delivery.plan.items if delivery.plan else ()
    moving = [i for i in items if i.action != "skip"]
    for item in moving[:40]:
        yield styled("  {}: {} {}  {}  {}", delivery.what, f"{item.action:6}", item.path, size(item.size_bytes),
                     item.reason)
    if len(moving) > 40:
        yield styled("  {}: and {} more", delivery.what, len(moving) - 40)


@shown.register
def _(thing: Provisioned) -> RenderableType:
    what = f"{thing.packages} packages, {thing.seconds:.0f} s" if thing.packages else f"Python {thing.python}"
    wanted = [styled("  [dim]{}[/]", ", ".join(thing.requirements))] if thing.requirements else []
    removed = [styled("  [dim]removed {}[/]", ", ".join(thing.removed))] if thing.removed else []
    return stacked(styled("[green]{}[/]: the environment {} {} ({})", thing.host, thing.place, thing.state, what),
                   *wanted, *removed)


@rows.register
def _(thing: Provisioned) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: RolledBack) -> list[dict[str, Any]]:
    return [asdict(thing)]


@rows.register
def _(thing: Deployed) -> list[dict[str, Any]]:
    return [{"host": thing.host, "what": d.what, "target": d.target, "note": d.note or None, "dry_run": thing.dry_run,
             "sent_bytes": d.outcome.sent_bytes if d.outcome else 0,
             "files": [asdict(i) for i in d.plan.items] if d.plan else []} for d in thing.deliveries]
