"""One of four processes that do together what a training's processes do, as groups of 2, 3 and 4:
`group_results.py FOLDER RANK ASSETS...`. Writes results to FOLDER/WORLD-RANK.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from rdtops.contract.config import override, preset
from rdtops.trainer.data import libero
from rdtops.trainer.data.actions import codec
from rdtops.trainer.data.samples import Samples
from rdtops.trainer.data.slot_statistics import compute
from rdtops.trainer.distributed import ranks as processes
from rdtops.trainer.distributed.averaging import Averaging
from rdtops.trainer.distributed.ranks import PeerFailed, Ranks, buckets
from rdtops.trainer.distributed.sharding import Shards
from rdtops.trainer.loop.ema import Ema
from rdtops.trainer.loop.sampling import ActionError
from rdtops.trainer.loop.validation_loss import ValidationLoss
from rdtops.trainer.model import encoders
from rdtops.trainer.model.conditions import Conditions
from rdtops.trainer.model.rdt import RDTPolicy

CPU = torch.device("cpu")
WORLDS = (2, 3, 4)
STEPS = 3
MICRO_BATCHES = 2


def evaluations(folder: Path, dataset: str, text_encoder: str, vision_encoder: str) -> list[Any]:
    config = override(preset("tiny"), ["heldout_samples=20"])
    data, using = libero.index(dataset), codec(config.codec)
    texts = encoders.encode_instructions(text_encoder, data.instructions, folder, CPU)
    conditions = Conditions(texts, vision_encoder, 20, CPU, torch.float32)
    samples = Samples(data, using, compute(data, using), ["", *data.instructions], 16, 1000, config)
    return [ValidationLoss(samples, conditions, CPU), ActionError(samples, conditions, CPU)]


def policy(pretrained: str) -> RDTPolicy:
    return RDTPolicy.from_pretrained(pretrained).train()


def digest(tensors: Iterable[torch.Tensor]) -> str:
    found = hashlib.md5()
    for tensor in tensors:
        found.update(tensor.detach().numpy().tobytes())
    return found.hexdigest()


def loss_of(model: RDTPolicy, seed: int) -> torch.Tensor:
    config, random = model.config, torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    return model.loss(
        lang_tokens=drawn(1, 5, config["lang_token_dim"]), lang_attn_mask=torch.ones(1, 5, dtype=torch.bool),
        img_tokens=drawn(1, config["img_cond_len"], config["img_token_dim"]), ctrl_freqs=torch.full((1,), 20),
        state_tokens=drawn(1, 1, config["state_token_dim"]), action_mask=torch.ones(1, 1, config["action_dim"]),
        action_gt=drawn(1, config["pred_horizon"], config["action_dim"]),
        noise=drawn(1, config["pred_horizon"], config["action_dim"]),
        timesteps=torch.randint(1000, (1,), generator=random))


def averaged_afterwards(model: RDTPolicy, ranks: Ranks) -> None:
    """Average as it was done before there was an overlap: the numbers of today are to be those of then."""
    for gradients in buckets([p.grad for p in model.parameters()], processes.BUCKET_BYTES):
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        flat /= ranks.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def learn(ranks: Ranks, pretrained: str, *, overlapped: bool, resumed_at: int = 0) -> dict[str, Any]:
    """Train, as if anew from what was learnt by the step `resumed_at`."""
    model = policy(pretrained)
    model.model.gradient_checkpointing = ranks.world == 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    sent = []
    averaging = Averaging(ranks, model.parameters())
    for step in range(1, STEPS + 1):
        for micro_batch in range(MICRO_BATCHES):
            if overlapped and micro_batch == MICRO_BATCHES - 1:
                averaging.begin()
            loss_of(model, 1000 * step + 10 * micro_batch + ranks.rank).backward()
            sent.append(len(averaging._sent))
        if overlapped:
            averaging.finish()
        else:
            averaged_afterwards(model, ranks)
        optimizer.step()
        model.zero_grad()
        if step == resumed_at:
            weights, moments = model.state_dict(), optimizer.state_dict()
            model = policy(pretrained)
            model.load_state_dict(weights)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
            optimizer.load_state_dict(moments)
            averaging = Averaging(ranks, model.parameters())
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    return {"digest": digest([*model.parameters(), *moments]), "sent": sent, "buckets": len(averaging._buckets)}


def crossed(ranks: Ranks) -> bool:
    """Average where the gradients come in another order on every other rank. Return whether all are right."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(30_000)) for _ in range(3)]  # each a bucket
    averaging = Averaging(ranks, parameters)
    right = []
    for _ in range(3):
        averaging.begin()
        wanted = [sum(chained(parameters, rank, gradients=True)[n] for rank in range(ranks.world)) / ranks.world
                  for n in range(len(parameters))]
        chained(parameters, ranks.rank).backward()
        averaging.finish()
        right += [torch.allclose(p.grad, gradient, rtol=1e-5) for p, gradient in zip(parameters, wanted, strict=True)]
        for parameter in parameters:
            parameter.grad = None
    return all(right)


def chained(parameters: list[torch.nn.Parameter], rank: int, *, gradients: bool = False) -> Any:
    """A loss whose gradients come from the last parameter to the first on even ranks, and the other way round on odd
    ones."""
    order = [*range(len(parameters))][:: -1 if rank % 2 else 1]
    loss = torch.tensor(1.0 + rank)
    for number in order:
        loss = loss + (number + 1) * (loss.detach() * parameters[number]).sigmoid().mean() + 0.5 * loss
    return torch.autograd.grad(loss, parameters) if gradients else loss


def ema_of(ranks: Ranks, pretrained: str) -> dict[str, Any]:
    """Compare the EMA weights that are shared out with whole ones."""
    model, shards = policy(pretrained), Shards(ranks)
    whole, shared = Ema(model), Ema(model)
    shards.keep_part(shared.policy)
    for step in range(4):
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                random = torch.Generator().manual_seed(1000 * step + number)
                parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.01)
        for ema in (whole, shared):
            ema.step(model)
    bytes_kept = sum(p.nbytes for p in shared.policy.parameters() if not p.is_meta)
    saved = dict(shards.ema_weights(shared.policy))
    with shards.whole(shared.policy) as lent:
        is_whole = all(torch.equal(a, b) for a, b in zip(whole.policy.parameters(), lent.parameters(), strict=True))
    wanted = whole.policy.state_dict()
    return {"is_whole": is_whole, "share": bytes_kept / sum(p.nbytes for p in model.parameters()),
            "is_apart_again": bytes_kept == sum(p.nbytes for p in shared.policy.parameters() if not p.is_meta),
            "is_saved": list(saved) == list(wanted) and all(torch.equal(saved[name], wanted[name]) for name in wanted)
            if ranks.is_first else True}


def evaluated(ranks: Ranks, pretrained: str, measures: list[Any]) -> list[float]:
    model, shards = policy(pretrained).eval(), Shards(ranks)
    shards.keep_part(model)
    return [shards.evaluate(model, evaluation) for evaluation in measures]


def bereaved(ranks: Ranks, pretrained: str) -> dict[str, Any]:
    """Lose rank 1 in the middle of a backward pass in which buckets are on their way."""
    model = policy(pretrained)
    averaging = Averaging(ranks, model.parameters())
    for step in range(2):
        averaging.begin()
        if step and ranks.rank == 1:
            model.model.blocks[0].register_full_backward_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        began_s = time.monotonic()
        try:
            loss_of(model, ranks.rank).backward()
            averaging.finish()
        except PeerFailed as error:
            return {"step": step, "error": error.message, "seconds": time.monotonic() - began_s}
    return {}


def main(out: str, number: str, dataset: str, pretrained: str, text_encoder: str, vision_encoder: str) -> None:
    folder, rank = Path(out), int(number)
    torch.set_num_threads(1)
    processes.BUCKET_BYTES = 100_000
    measures = evaluations(folder / str(rank), dataset, text_encoder, vision_encoder)
    for world in (world for world in WORLDS if rank < world):
        distributed.init_process_group("gloo", init_method=f"file://{folder}/{world}.store", rank=rank,
                                       world_size=world, timeout=timedelta(seconds=200))
        ranks = Ranks(rank, world, CPU)
        results = {
            "afterwards": learn(ranks, pretrained, overlapped=False),
            "overlapped": learn(ranks, pretrained, overlapped=True),
            "resumed": learn(ranks, pretrained, overlapped=True, resumed_at=1),
            "crossed": crossed(ranks),
            "ema": ema_of(ranks, pretrained),
            "evaluated": evaluated(ranks, pretrained, measures)}
        if world == WORLDS[-1]:
            results["bereaved"] = bereaved(ranks, pretrained)  # rank 1 dies here
        (folder / f"{world}-{rank}.json").write_text(json.dumps(results))
        if world != WORLDS[-1]:
            distributed.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
