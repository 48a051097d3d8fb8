"""Tiny models in place of the three downloads: `python -m rdtops.trainer.tiny OUT_DIR`.

Writes OUT_DIR/{rdt-tiny, t5-tiny, siglip-tiny} in the formats of the real ones, random but always the same, so that
every code path from deploy to fetch-results runs on two CPU cores and without a network.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from rdtops.hostlib import files
from rdtops.trainer.model import weights
from rdtops.trainer.model.rdt import ARCHITECTURES, RDTPolicy

SEED = 2026
SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>"}


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        sys.stderr.write("usage: python -m rdtops.trainer.tiny OUT_DIR\n")
        return 2
    make(Path(given[0]))
    return 0


def make(out: Path) -> None:
    """Write the missing folders, each atomically; existing ones are kept."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name, fill in (("rdt-tiny", policy), ("t5-tiny", text_encoder), ("siglip-tiny", vision_encoder)):
        if not (out / name).is_dir():
            _appear(out / name, fill)


def policy(folder: Path) -> None:
    """Write a policy in the format of rdt-1b on the hub: config.json and pytorch_model.bin."""
    torch.manual_seed(SEED)
    model = RDTPolicy(ARCHITECTURES["tiny"])
    (folder / weights.CONFIG).write_text(json.dumps(model.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")


def text_encoder(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    torch.manual_seed(SEED)
    words = _byte_tokenizer()
    size = words.get_vocab_size()
    PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL_TOKENS).save_pretrained(folder)
    T5EncoderModel(T5Config(
        vocab_size=size, d_model=ARCHITECTURES["tiny"]["lang_token_dim"], d_kv=16, d_ff=64, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0)).save_pretrained(folder)


def vision_encoder(folder: Path) -> None:
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipVisionModel

    torch.manual_seed(SEED)
    SiglipVisionModel(SiglipVisionConfig(
        hidden_size=ARCHITECTURES["tiny"]["img_token_dim"], intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, image_size=64, patch_size=16)).save_pretrained(folder)


def _byte_tokenizer():
    """Return a tokenizer with one token a byte and `</s>` at the end, as in T5; it needs no training and knows every
    text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS.values(), *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    return tokenizer


def _appear(final: Path, fill: Callable[[Path], None]) -> None:
    partial = final.with_name(f"{final.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(partial)
    files.flush_below(partial)
    files.put_in_place(partial, final)


if __name__ == "__main__":
    sys.exit(main())
