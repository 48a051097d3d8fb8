from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from rdtops.hostlib import manifest
from rdtops.trainer import tiny
from rdtops.trainer.model.rdt import RDTPolicy


def test_the_same_bytes_come_out_every_time(assets, tmp_path) -> None:
    tiny.make(tmp_path)
    for role, name in (("pretrained", "rdt-tiny"), ("text_encoder", "t5-tiny"), ("vision_encoder", "siglip-tiny")):
        assert manifest.scan(tmp_path / name) == manifest.scan(assets[role])


def test_what_is_there_stays(tmp_path) -> None:
    assert tiny.main([str(tmp_path)]) == 0
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert tiny.main([str(tmp_path)]) == 0
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}


def test_a_folder_appears_whole_or_not_at_all(tmp_path) -> None:
    def fail(folder) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        tiny._appear(tmp_path / "rdt-tiny", fail)
    assert not (tmp_path / "rdt-tiny").exists()
    tiny.make(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rdt-tiny", "siglip-tiny", "t5-tiny"]


def test_the_weights_are_in_the_hubs_older_format(assets) -> None:
    policy = RDTPolicy.from_pretrained(assets["pretrained"])
    assert policy.config["rdt"]["hidden_size"] == 64
    assert torch.isfinite(policy.state_dict()["model.x_pos_embed"]).all()


def test_the_tokenizer_loads_without_a_network_and_knows_every_text(assets) -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets["text_encoder"], local_files_only=True)
    ids = tokenizer("Öffne the drawer, 3×").input_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Öffne the drawer, 3×"


def test_it_wants_one_argument(capsys) -> None:
    assert tiny.main([]) == 2
    assert "usage" in capsys.readouterr().err
