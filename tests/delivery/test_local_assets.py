"""Which folder on this laptop an asset of hosts.toml is."""

import pytest

from rdtops.contract import config
from rdtops.delivery import plan
from rdtops.errors import ConfigError
from rdtops.ssh import inventory
from rdtops.testing import ScriptedConnection, make_host


@pytest.fixture
def asset(tmp_path):
    """Find the asset of a role: t5-tiny and libero_tiny are repositories of the hub's cache in hosts.toml."""
    (tmp_path / "datasets--tiny" / "snapshots" / "abc").mkdir(parents=True)
    repository = tmp_path / "hub" / "models--t5--tiny"
    for revision in ("abc", "def"):
        (repository / "snapshots" / revision).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("def")
    (tmp_path / "hosts.toml").write_text(f'[assets]\nt5-tiny = "{repository}"\nlibero_tiny = "datasets--tiny"\n'
                                         f'rdt-tiny = "{tmp_path}"\nsiglip-tiny = "gone"\n[hosts.h]\naddress = "h"\n')
    known = inventory.load(tmp_path / "hosts.toml")

    def find(role="text_encoder"):
        connection = ScriptedConnection(make_host())
        return {a.role: a for a in plan.assets_of(known, connection, config.preset("tiny"))}[role], repository
    return find


def test_a_repository_of_the_hub_s_cache_is_its_snapshot_of_refs_main(asset):
    found, repository = asset()
    assert found.local == repository / "snapshots" / "def"
    assert found.remark == "from the snapshot def of models--t5--tiny: refs/main, of 2 snapshots"


def test_the_only_snapshot_of_a_repository_is_meant(asset):
    found, repository = asset("dataset")
    assert found.local == repository.parents[1] / "datasets--tiny" / "snapshots" / "abc"
    assert found.remark == "from the snapshot abc of datasets--tiny"


def test_several_snapshots_without_refs_main_are_named(asset):
    _, repository = asset()
    (repository / "refs" / "main").unlink()
    with pytest.raises(ConfigError, match=r"t5-tiny: .*models--t5--tiny has 2 snapshots: abc, def") as raised:
        asset()
    assert raised.value.remedy == f'in hosts.toml, under [assets]: t5-tiny = "{repository}/snapshots/REVISION"'


def test_any_other_folder_is_itself_and_one_that_is_not_there_is_none(asset):
    found, repository = asset("pretrained")
    assert (found.local, found.remark) == (repository.parents[1], "")
    assert asset("vision_encoder")[0].local is None
