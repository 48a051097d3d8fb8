"""Deploy: send the code as an immutable release, and the assets of the preset, only what is missing or different."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rdtops.contract.config import nearest
from rdtops.delivery.plan import Asset, release_folder
from rdtops.delivery.snapshot import Snapshot
from rdtops.errors import RunError, UsageError
from rdtops.ssh.command import Command, quoted
from rdtops.ssh.connection import Connection
from rdtops.transfer.transfer import Outcome, TransferProgress, commit, plan_asset, plan_upload, upload
from rdtops.transfer.transfer_plan import Plan

PARTS = {"code": (), "data": ("dataset",), "weights": ("pretrained",), "encoders": ("text_encoder", "vision_encoder")}


@dataclass(frozen=True)
class Delivery:
    """One item of a deploy: the plan, the outcome (None in a dry run), or a note why nothing was sent."""

    what: str  # code, or the asset's name
    target: str  # as shown: ~ is the home on the host
    plan: Plan | None
    outcome: Outcome | None = None
    note: str = ""
    remarks: tuple[str, ...] = ()  # about the files on the laptop


def parts(only: str) -> tuple[str, ...]:
    """Parse `--only code,data` into names of PARTS; all of them when empty. Raises UsageError."""
    chosen = tuple(p.strip() for p in only.split(",") if p.strip()) or tuple(PARTS)
    for part in chosen:
        if part not in PARTS:
            raise UsageError(f"--only {part}: no such part{nearest(part, PARTS)}; parts: {', '.join(PARTS)}")
    return chosen


def deploy(connection: Connection, snapshot: Snapshot, assets: Sequence[Asset], *, only: str = "",
           dry_run: bool = False, progress: Callable[[str, TransferProgress], None] | None = None) -> list[Delivery]:
    """Send what is missing or different. With `dry_run` nothing is sent, and the plans say what would be sent."""
    chosen = parts(only)
    roles = [role for part in chosen for role in PARTS[part]]
    done = [_code(connection, snapshot, dry_run, progress)] if "code" in chosen else []
    return done + [_asset(connection, a, dry_run, progress) for a in assets if a.role in roles]


def _code(connection: Connection, snapshot: Snapshot, dry_run: bool,
          progress: Callable[[str, TransferProgress], None] | None) -> Delivery:
    release = release_folder(connection.workspace, snapshot.name)
    releases = f"{connection.workspace}/releases"
    present = connection.run_shell(
        f"[ -e {quoted(release)} ] && echo whole; ls -1t {quoted(releases)} 2>/dev/null || :")
    names = present.out.split()
    if names[:1] == ["whole"]:
        plan = plan_upload(connection, snapshot.root, release, files=snapshot.files)
        _refuse_edited(connection, plan)
        return Delivery("code", connection.short(release), plan, note="this snapshot is on the host already")
    basis = next((f"{releases}/{n}" for n in names if not n.startswith(".")), None)
    incoming = f"{releases}/.incoming-{snapshot.name}"
    plan = plan_upload(connection, snapshot.root, incoming, files=snapshot.files, basis=basis)
    if dry_run:
        return Delivery("code", connection.short(release), plan)
    outcome = upload(connection, plan, _named("code", progress))
    connection.run_shell(f"cat > {quoted(incoming + '/snapshot.json')}", stdin=snapshot.to_json().encode())
    commit(connection, plan, outcome, release)
    return Delivery("code", connection.short(release), plan, outcome)


def _refuse_edited(connection: Connection, plan: Plan) -> None:
    changed = [i.path for i in plan.items if i.action != "skip"]
    if changed:
        aside = Command("mv", plan.target, plan.target + ".edited").shell()
        raise RunError(
            f"{connection.host.name}: the release {plan.target} was edited on the host: {', '.join(changed[:5])}. "
            "A release is immutable, and the edits are not overwritten",
            remedy=f"save the edits, then on {connection.host.name}: {aside}   # and deploy again")


def _asset(connection: Connection, asset: Asset, dry_run: bool,
           progress: Callable[[str, TransferProgress], None] | None) -> Delivery:
    if asset.pinned:
        return Delivery(asset.name, connection.short(asset.remote), None,
                        note="already on the host, by hosts.toml")
    if asset.local is None:
        return _without_copy(connection, asset)
    plan = plan_asset(connection, asset.local, asset.remote)
    outcome = None if dry_run else upload(connection, plan, _named(asset.name, progress))
    left_out = f"left out, of downloads and editors: {', '.join(plan.left_out[:5])}" if plan.left_out else ""
    left_out += f" and {len(plan.left_out) - 5} more" if len(plan.left_out) > 5 else ""
    return Delivery(asset.name, connection.short(asset.remote), plan, outcome,
                    remarks=tuple(filter(None, (asset.remark, left_out))))


def _without_copy(connection: Connection, asset: Asset) -> Delivery:
    """Handle an asset without a local copy: fine when the host has it, or a plugin can fetch it (encoders)."""
    if connection.run(Command("test", "-d", asset.remote), check=False).ok:
        return Delivery(asset.name, connection.short(asset.remote), None, note="no local copy; the host has it")
    if asset.role.endswith("encoder"):
        return Delivery(asset.name, connection.short(asset.remote), None,
                        note="missing on laptop and host; the encoder_mirror plugin fetches it before training")
    raise RunError(f"the {asset.role} {asset.name!r} is neither on this laptop nor in {asset.remote} on "
                   f"{connection.host.name}",
                   remedy=f'in hosts.toml, under [assets]: {asset.name} = "/path/to/{asset.name}"')


def _named(what: str, progress: Callable[[str, TransferProgress], None] | None) -> Callable[[TransferProgress],
                                                                                            None] | None:
    return None if progress is None else lambda p: progress(what, p)
