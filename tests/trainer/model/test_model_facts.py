import pytest
import torch

from rdtops.contract.models import MODELS
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_the_laptop_knows_of_a_model_is_what_the_trainer_builds(name):
    config = ARCHITECTURES[name]
    facts = MODELS[name]
    with torch.device("meta"):
        policy = RDTPolicy(config)
    assert sum(p.numel() for p in policy.parameters()) == facts.parameters
    assert (config["rdt"]["hidden_size"], config["rdt"]["depth"], config["rdt"]["num_heads"]) == (
        facts.hidden_size, facts.depth, facts.num_heads)
    assert (config["lang_token_dim"], config["img_token_dim"]) == (facts.lang_width, facts.img_width)
    assert config["img_cond_len"] == 2 * 3 * facts.img_patches
    assert {k: tuple(v.shape) for k, v in policy.state_dict().items()} == facts.tensor_shapes
