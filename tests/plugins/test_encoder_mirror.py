from pathlib import Path

import pytest

from rdtops.checks import Status
from rdtops.errors import PreflightVeto
from tests.plugins.conftest import BROKEN, ScriptedConnection, as_json, said

T5 = "config.json\nmodel.safetensors\nspiece.model\n"
SIGLIP = "config.json\nmodel.safetensors\n"


def listing(files, config):
    return said(f"{files}\n---\n{config}")


@pytest.fixture
def check(plugins, host, spec):
    def run(*, text=None, vision=None, local=(), **values):
        h = host(**values)
        connection = ScriptedConnection(
            h, text_encoder=text or listing(T5, as_json({"d_model": 4096})),
            vision_encoder=vision or listing(SIGLIP, as_json({"vision_config": {"hidden_size": 1152}})))
        here = {role: Path("/here") / role for role in local}
        return {r.name: r for r in plugins["encoder_mirror"].preflight_check(h, connection, spec(), here)}
    return run


def test_complete_encoders_of_the_right_width_are_ok(check):
    assert {r.status for r in check().values()} == {Status.OK}


def test_another_encoder_is_told_by_its_width(check):
    found = check(text=listing(T5, as_json({"d_model": 1024})))["text_encoder"]
    assert found.status is Status.FAIL
    assert "d_model is 1024, rdt-1b needs 4096" in found.summary


@pytest.mark.parametrize(("files", "lacks"), [
    ("", "config.json, weights, tokenizer"), ("config.json\nspiece.model\n", "weights"),
    ("config.json\npytorch_model.bin\n", "tokenizer")])
def test_what_is_missing_is_named(check, files, lacks):
    found = check(text=listing(files, ""))["text_encoder"]
    assert found.status is Status.FAIL
    assert found.summary.startswith(f"{lacks} missing there")


@pytest.mark.parametrize(("values", "way"), [
    ({"local": ["text_encoder"]}, "uploaded from /here/text_encoder"),
    ({"env": {"HF_ENDPOINT": "https://mirror.example.org"}}, "downloaded there from https://mirror.example.org"),
    ({"plugins": {"encoder_mirror": {"endpoint": "https://m.example.org"}}}, "downloaded there from https://m.example.org"),
])
def test_what_before_train_can_bring_is_a_warning_that_says_how(check, values, way):
    found = check(text=listing("", ""), **values)["text_encoder"]
    assert found.status is Status.WARN
    assert way in found.summary


@pytest.mark.parametrize("options", [{"mirror": "x"}, {"endpoint": 3}, {"download": "yes"}])
def test_a_wrong_option_is_a_finding(check, options):
    assert check(plugins={"encoder_mirror": options})["encoders"].status is Status.FAIL


def test_a_launch_without_encoders_and_without_a_way_is_vetoed(plugins, host, spec):
    h = host()
    connection = ScriptedConnection(h, text_encoder=listing("", ""), vision_encoder=listing("", ""))
    with pytest.raises(PreflightVeto, match="neither a copy here nor a mirror"):
        plugins["encoder_mirror"].before_train(h, connection, spec(), {})


@pytest.mark.parametrize("kind", BROKEN)
def test_any_broken_output_is_a_finding_never_a_traceback(check, kind):
    found = check(text=BROKEN[kind], vision=BROKEN[kind])
    assert {r.status for r in found.values()} <= {Status.WARN, Status.FAIL}
