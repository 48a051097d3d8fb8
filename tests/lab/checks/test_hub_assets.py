"""An encoder that lies in the hub's cache of this laptop, from deploy to the checks."""

from pathlib import Path

import pytest

from rdtops.lab.site import Lab
from tests.lab.commandline import CommandLine
from tests.model_hub import T5, download, model_hub

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


def test_an_encoder_in_the_hub_s_cache_is_deployed_and_passes_every_check(lab: Lab, named_assets, tmp_path):
    made = Path(named_assets["t5-tiny"])
    with model_hub({T5: {file.name: file.read_bytes() for file in made.iterdir()}}) as endpoint:
        download(endpoint, cache_dir=tmp_path / "hub")
    (repository,) = (tmp_path / "hub").glob("models--*")
    (repository / "blobs" / "0123.incomplete").write_bytes(b"x" * 1000)
    lab.write_inventory(tmp_path / "hosts.toml", {**named_assets, "t5-tiny": str(repository)})
    inv = CommandLine(tmp_path, tmp_path / "hosts.toml")
    told = inv.good("deploy --host lab --only encoders").out
    assert f"from the snapshot {'a' * 40} of {repository.name}" in " ".join(told.split())
    there = lab.home("lab") / "rdtops" / "assets" / "t5-tiny"
    assert {file.name: file.read_bytes() for file in there.iterdir()} == {
        file.name: file.read_bytes() for file in made.iterdir()}
    (report,) = inv("check --host lab --json").rows()
    found = {result["name"]: result["status"] for result in report["results"]}
    assert (found["text_encoder"], found["md5 text_encoder"]) == ("OK", "OK")
