"""The request of an evaluation: which encoders it uses, and when others than those of the training are meant."""

from __future__ import annotations

import pytest

from rdtops.contract.evaluation import EvalSpec, Protocol, checked
from rdtops.runs import evaluations
from rdtops.testing.scripted import ScriptedConnection, make_host, make_spec

HOST = make_host(assets={"my-siglip": "/data/siglip"}, workspace="/w")


def request(*settings: str) -> EvalSpec:
    run = make_spec("text_encoder=my-t5", name="tiny", workspace="/moved/since")
    return evaluations.spec_of(ScriptedConnection(HOST), run, run, "/data/step_000002", checked(Protocol()), 1, "",
                               settings)


def test_the_encoders_are_those_of_the_run_where_a_new_training_would_find_them():
    spec = request("max_steps=9")
    assert spec.assets == {"text_encoder": "/w/assets/my-t5", "vision_encoder": "/w/assets/siglip-tiny"}
    assert (spec.accept_changed, "accept_changed" in spec.to_json()) == ("", False)  # as releases before it wrote it


@pytest.mark.parametrize(("setting", "folder"), [("vision_encoder=my-siglip", "/data/siglip"),
                                                 ("vision_encoder=siglip-tiny", "/w/assets/siglip-tiny")])
def test_an_encoder_that_is_named_is_meant_and_its_results_have_a_folder_of_their_own(setting, folder):
    spec = request(setting, "dataset=drawer")
    assert (spec.assets["vision_encoder"], spec.accept_changed) == (folder, "vision_encoder")
    assert spec.name != request().name
    assert EvalSpec.from_json(spec.to_json()) == spec


def test_a_checkpoint_without_a_run_takes_the_encoders_of_the_command_line():
    prepared = make_spec("vision_encoder=my-siglip", name="tiny", workspace="/w")
    stand_in = evaluations.stand_in("/data/old/ema", prepared)
    spec = evaluations.spec_of(ScriptedConnection(HOST), stand_in, prepared, "/data/old/ema", checked(Protocol()), 1,
                               "", ["vision_encoder=my-siglip"])
    assert spec.assets["vision_encoder"] == "/data/siglip"
