"""Trained policy: its EMA weights, its codec and the camera settings of its training. From a checkpoint of rdtops:

    step_002000/{ema/{config.json, model.safetensors}, codec.json, trainer.json, statistics.json}

or in the layout of the code before rdtops, which does not name its codec, so that the user has to:

    checkpoint-30000/{config.json, ema/model.safetensors}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rdtops.contract.evaluation import checkpoint_folder
from rdtops.errors import WeightsError
from rdtops.hostlib import manifest, provenance
from rdtops.hostlib.provenance import Provenance
from rdtops.trainer.data import libero, slot_statistics
from rdtops.trainer.data.actions import CODECS, Codec, codec
from rdtops.trainer.loop import asset_changes, checkpoint
from rdtops.trainer.model import weights
from rdtops.trainer.model.rdt import RDTPolicy

CHECKPOINT, COMMAND_LINE = "the checkpoint", "the command line"


@dataclass(frozen=True)
class TrainedPolicy:
    folder: Path
    config_folder: Path  # folder of the config.json of the EMA weights
    config: dict[str, Any]
    codec: Codec
    codec_stated_by: str  # CHECKPOINT or COMMAND_LINE
    image_size: int  # pixels of an edge, as stored in the demonstrations
    step: int | None

    @property
    def horizon(self) -> int:
        """Number of actions of one prediction."""
        return int(self.config["pred_horizon"])

    def load(self) -> RDTPolicy:
        """Load the EMA weights on the CPU. Raise WeightsError."""
        return RDTPolicy.from_pretrained(self.folder / checkpoint.EMA, config_from=self.config_folder).eval()

    def check_horizon(self, exec_horizon: int) -> None:
        if exec_horizon > self.horizon:
            raise WeightsError(f"{self.folder.name} predicts {self.horizon} actions at a time; {exec_horizon} cannot "
                               "be executed", remedy=f"--exec-horizon {self.horizon}   # or fewer")

    @property
    def notes(self) -> list[str]:
        """Return notes for the reader of the results."""
        if self.codec_stated_by == CHECKPOINT:
            return []
        cameras = f"{', '.join(libero.CAMERAS)} at {self.image_size} pixels"
        return [f"the codec {self.codec.name} is from the command line: the checkpoint does not name its own",
                f"the cameras were assumed to be {cameras}: the checkpoint does not name them"]


def find(path: str | Path, codec_name: str = "") -> TrainedPolicy:
    """Find a policy. `path`: a checkpoint's folder, its ema/, or ema/model.safetensors. `codec_name`: needed if the
    checkpoint does not name its codec; otherwise it must be the same. Raise WeightsError with each mismatch."""
    folder = Path(checkpoint_folder(str(path)))
    if not (folder / checkpoint.EMA).is_dir():
        raise WeightsError(f"{folder} is not a checkpoint: it has no folder {checkpoint.EMA}/ with EMA weights",
                           remedy="inv checkpoints")
    config_folder = _config_folder(folder)
    config = weights.read_config(config_folder)
    if not isinstance(config.get("pred_horizon"), int):
        raise WeightsError(f"{config_folder / weights.CONFIG} lacks pred_horizon")
    if (folder / checkpoint.CODEC).exists():
        return _ours(folder, config_folder, config, codec_name)
    if not codec_name:
        raise WeightsError(f"{folder} does not name its codec: it has no {checkpoint.CODEC}",
                           remedy=f"--codec seed_compat   # as the code before rdtops trained; one of "
                                  f"{', '.join(CODECS)}")
    return TrainedPolicy(folder, config_folder, config, codec(codec_name), COMMAND_LINE, libero.IMAGE_SIZES[0], None)


def compare_encoders(policy: TrainedPolicy, assets: Mapping[str, str],
                     accept_changed: str = "") -> tuple[Provenance, tuple[str, ...]]:
    """Return the content of the encoders in `assets` (role -> folder), and notes for the reader of the results. Raise
    ConfigError when they are not those of the training, unless `accept_changed` names them."""
    now, then = asset_changes.of_encoders(assets), asset_changes.recorded(policy.folder)
    if then is None:
        return now, (f"the encoders could not be compared with those of the training: {asset_changes.UNKNOWN}",)
    found, meant = provenance.differences(then, now), asset_changes.accepted_parts(accept_changed)
    names = SimpleNamespace(**{role: Path(folder).name for role, folder in assets.items()})
    asset_changes.refuse(names, policy.folder, {part: says for part, says in found.items() if part not in meant},
                         "inv eval")
    if not found:
        return now, ()
    return now, (f"evaluated with other encoders than in training, as requested: {provenance.words(found, names)}",)


def _ours(folder: Path, config_folder: Path, config: dict[str, Any], codec_name: str) -> TrainedPolicy:
    sealed = manifest.read(folder)
    if sealed is None:
        raise WeightsError(f"{folder} has no valid {manifest.NAME}: it is damaged or incomplete",
                           remedy="inv checkpoints")
    saved = checkpoint.read_codec(folder)
    name = codec_name or str(saved["name"])
    if name not in CODECS:
        raise WeightsError(f"{folder} was trained with the codec {name!r}, which this code does not have; it has: "
                           f"{', '.join(CODECS)}")
    try:
        codec(name).check_golden(saved)
    except WeightsError as error:
        raise WeightsError(error.message, remedy="omit --codec: the checkpoint names it" if codec_name
                           else error.remedy) from None
    trainer = checkpoint.read_trainer(folder)
    # older checkpoints do not have it
    seen = {**checkpoint.seen_by_training(libero.IMAGE_SIZES[0]), **trainer.get("seen", {})}
    _check_seen(folder, seen)
    _check_statistics(folder, codec(name))
    return TrainedPolicy(folder, config_folder, config, codec(name), CHECKPOINT, int(seen["image_size"]),
                         int(trainer["step"]))


def _config_folder(folder: Path) -> Path:
    places = (folder / checkpoint.EMA, folder)
    found = next((place for place in places if (place / weights.CONFIG).is_file()), None)
    if found is None:
        raise WeightsError(f"{folder} has no {weights.CONFIG}, neither in {checkpoint.EMA}/ nor beside it",
                           remedy=f"cp PRETRAINED/{weights.CONFIG} {folder}/   # the config of its first weights")
    return found


def _check_seen(folder: Path, seen: dict[str, Any]) -> None:
    here = checkpoint.seen_by_training(seen["image_size"])
    wrong = [f"{key} {seen[key]} in training, {here[key]} here" for key in here if seen[key] != here[key]]
    if seen["image_size"] not in libero.IMAGE_SIZES:
        wrong.append(f"images of {seen['image_size']} pixels in training, {' or '.join(map(str, libero.IMAGE_SIZES))} "
                     "here")
    if wrong:
        raise WeightsError(f"{folder.name} was trained with other camera settings: {'; '.join(wrong)}")


def _check_statistics(folder: Path, using: Codec) -> None:
    """Check the codec of the statistics. Only the training uses them; another codec means that files of two trainings
    were mixed."""
    stated = checkpoint.read_statistics(folder).get("codec_hash")
    if stated != using.hash:
        raise WeightsError(f"{folder / slot_statistics.NAME} is of a codec with the hash {stated}, {checkpoint.CODEC} "
                           f"of {using.name}, {using.hash}: files of two trainings are mixed")
