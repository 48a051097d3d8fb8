"""Plan: the configuration, the snapshot and the asset folders of one command line on one host."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdtops.contract import config as train_config
from rdtops.contract.config import TrainConfig
from rdtops.contract.run import RunSpec, new_run_id
from rdtops.delivery.snapshot import Snapshot
from rdtops.errors import ConfigError, UsageError
from rdtops.hostlib import hub_cache
from rdtops.hostlib.names import RunId
from rdtops.ssh.connection import Connection
from rdtops.ssh.hosts import Host
from rdtops.ssh.inventory import Inventory


@dataclass(frozen=True)
class Request:
    """The request of a command line, without the host."""

    preset: str = ""  # '': that of the host
    settings: tuple[str, ...] = ()  # --set key=value
    from_scratch: bool = False

    def config_for(self, host: Host) -> TrainConfig:
        return self._config(host.preset)

    def config_resumed(self, config: TrainConfig) -> TrainConfig:
        """Return the configuration of a resumed run: its own, with the settings of the command line on top."""
        return train_config.resumed(config, self._settings)

    def config_here(self, inventory: Inventory) -> TrainConfig:
        """Return the configuration without a host: with the preset of the default host, else the one that all hosts
        share. Raises UsageError when they differ."""
        presets = {h.preset for h in inventory.hosts.values() if h.default} or {
            h.preset for h in inventory.hosts.values()}
        if not self.preset and len(presets) != 1:
            raise UsageError(f"the hosts have different presets ({', '.join(sorted(presets))}), so the dataset is "
                             "ambiguous", remedy="add --preset or --host")
        return self._config(next(iter(presets), ""))

    def _config(self, preset: str) -> TrainConfig:
        return train_config.override(train_config.preset(self.preset or preset), self._settings)

    @property
    def _settings(self) -> tuple[str, ...]:
        return (*self.settings, *(("from_scratch=true",) if self.from_scratch else ()))


@dataclass(frozen=True)
class Asset:
    """A folder that a training needs: its role in the RunSpec, its name, its path here (if any) and on the host."""

    role: str
    name: str
    local: Path | None  # None: not on this laptop
    remote: str
    pinned: bool  # hosts.toml names its path on the host: deploy does not touch it
    remark: str = ""  # about the local path, for people


def assets_of(inventory: Inventory, connection: Connection, config: TrainConfig) -> tuple[Asset, ...]:
    """Return the assets of a configuration, in the order in which they are sent: usually the smallest first."""
    names = {"dataset": config.dataset, "text_encoder": config.text_encoder, "vision_encoder": config.vision_encoder}
    if not config.from_scratch:
        names["pretrained"] = config.pretrained
    return tuple(_asset(role, name, inventory, connection) for role, name in names.items())


def spec_of(connection: Connection, config: TrainConfig, assets: Sequence[Asset], snapshot: Snapshot,
            run_id: RunId | None = None) -> RunSpec:
    """Return the spec of a run, named by the host's clock, so that the newest run is the one that was launched last,
    from any laptop."""
    workspace, now_s = connection.workspace, connection.now_s()
    return RunSpec(
        run_id=run_id or new_run_id(config.preset, now_s), host=connection.host.name,
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s)), workspace=workspace,
        release=release_folder(workspace, snapshot.name), snapshot=snapshot.name,
        assets={a.role: a.remote for a in assets}, train=config)


def local_assets(assets: Sequence[Asset]) -> Mapping[str, Path]:
    return {a.role: a.local for a in assets if a.local}


def local_copy(inventory: Inventory, name: str) -> tuple[Path | None, str]:
    """Return the path of an asset here, None where it is not, and a remark: of a repository in the hub's cache, its
    snapshot is meant. Raise ConfigError when that is not one."""
    folder = inventory.asset(name)
    if folder is None or not folder.exists():
        return None, ""
    try:
        snapshot = hub_cache.snapshot(str(folder))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}", remedy=f'in hosts.toml, under [assets]: {name} = '
                                                     f'"{folder}/snapshots/REVISION"') from error
    if snapshot is None:
        return folder, ""
    others = f": refs/main, of {1 + snapshot.others} snapshots" if snapshot.others else ""
    return Path(snapshot.folder), f"from the snapshot {Path(snapshot.folder).name} of {folder.name}{others}"


def release_folder(workspace: str, name: str) -> str:
    return f"{workspace}/releases/{name}"


def folder_there(connection: Connection, name: str) -> str:
    """Return the folder of an asset on the host: the one that hosts.toml names, else that of a deploy."""
    pinned = connection.host.assets.get(name)
    return connection.absolute(pinned) if pinned else f"{connection.workspace}/assets/{name}"


def _asset(role: str, name: str, inventory: Inventory, connection: Connection) -> Asset:
    local, remark = local_copy(inventory, name)
    return Asset(role, name, local, folder_there(connection, name), name in connection.host.assets, remark)
