"""Ground of the drills with trainings: a separate lab, and what a training in it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rdtops.lab.ports import Ports
from rdtops.lab.site import Lab
from rdtops.ssh import inventory
from rdtops.ssh.connection import Connection
from rdtops.ui.repository import LAB_HOST, ROOT, Say, make_tiny_assets


@contextmanager
def lab_in(folder: Path, door: str = "") -> Iterator[Lab]:
    """Yield a separate lab; it ends with everything that was started on it."""
    lab = Lab(folder, Ports.free())
    lab.up(door=door)
    try:
        yield lab
    finally:
        lab.down()


@contextmanager
def own_lab(name: str, say: Say) -> Iterator[tuple[Lab, Connection]]:
    """Yield a separate lab, because its tmux servers are killed and its nvidia-smi is changed."""
    make_tiny_assets(say)
    with lab_in(ROOT / ".lab" / name) as site:
        site.write_inventory(site.root / "hosts.toml", {})
        with Connection(inventory.load(site.root / "hosts.toml").host(LAB_HOST)) as connection:
            yield site, connection


def tiny_assets() -> dict[str, str]:
    """Return the folders of the preset `tiny` on this machine, as in a RunSpec."""
    made = ROOT / ".lab" / "assets"
    return {"dataset": str(ROOT / "rdtops" / "lab" / "data"), "pretrained": str(made / "rdt-tiny"),
            "text_encoder": str(made / "t5-tiny"), "vision_encoder": str(made / "siglip-tiny")}


def named_assets(say: Say) -> dict[str, str]:
    """Return the same by their names in hosts.toml; make the missing ones."""
    make_tiny_assets(say)
    of = tiny_assets()
    return {"libero_tiny": of["dataset"], "rdt-tiny": of["pretrained"], "t5-tiny": of["text_encoder"],
            "siglip-tiny": of["vision_encoder"]}


def release_in(workspace: str) -> str:
    """Make a release of this tree as it is, without a copy."""
    release = Path(workspace) / "releases" / "drill"
    release.mkdir(parents=True, exist_ok=True)
    (release / "snapshot.json").write_text("{}\n")
    if not (release / "rdtops").exists():
        (release / "rdtops").symlink_to(ROOT / "rdtops")
    return str(release)
