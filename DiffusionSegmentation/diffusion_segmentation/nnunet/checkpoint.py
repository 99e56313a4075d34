"""Reading a checkpoint of nnU-Net without running what a pickle can contain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..model.nnunet_metadata import MAX_FOLD_WEIGHTS
from ..model.pickled_weights import MAX_TENSORS, are_within, is_weight, read_pickled
from ..model.refusal import Refusal

CHECKPOINT = "checkpoint_final.pth"
TRAINERS = re.compile(
    r"nnUNetTrainer(_?\d{1,5}epochs?)?(_?NoMirroring)?"
    r"|nnUNetTrainer(_DASegOrd0|DA5|DAOrd0|DA5ord0|DA5Segord0|DA5_10epochs|NoDA|_noDummy2DDA)(_?NoMirroring)?"
    r"|nnUNetTrainer_onlyMirror01(_1500ep|_DA5|_DASegOrd0)?"
    r"|nnUNetTrainer(Vanilla)?(Adam|Adan)(1en1|1en3|3en4|CosAnneal)?"
    r"|nnUNetTrainer(CELoss|CELoss_5epochs|DiceLoss|DiceCELoss_noSmooth|DiceTopK10Loss|Topk10Loss|Topk10LossLS01)"
    r"|nnUNetTrainer(CosAnneal|NoDeepSupervision|_warmup|_probabilisticOversampling(_0\d\d)?)"
    r"|nnUNetTrainerBenchmark_5epochs(_noDataLoading)?|nnUNet_Trainer_BS8",
    re.ASCII,
)
"""nnU-Net's own trainers that train the network of the plans and predict as `nnUNetTrainer` does."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint that conversion needs.

    Attributes:
        weights: each tensor of the network once.
        plans, dataset: content of plans.json and dataset.json at the training.
    """

    weights: dict[str, torch.Tensor]
    configuration: str
    trainer: str
    mirror_axes: list[int]
    plans: dict[str, Any]
    dataset: dict[str, Any]

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of each tensor."""
        return {name: tensor.shape for name, tensor in self.weights.items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Raises Refusal."""
    fold = path.parent.name
    content = read_pickled(path, "checkpoint", f"'{fold}'")
    try:
        trainer, arguments = content["trainer_name"], content["init_args"]
        configuration, plans, dataset = (arguments[name] for name in ("configuration", "plans", "dataset_json"))
        mirrored = content.get("inference_allowed_mirroring_axes") or ()
        weights = _canonical(content["network_weights"])
        if not are_within(weights.values(), path):
            raise ValueError("more weights than the file has")
        if not (isinstance(trainer, str) and isinstance(configuration, str) and all(type(n) is int for n in mirrored)):
            raise TypeError("wrong types")
        if not (isinstance(plans, dict) and isinstance(dataset, dict)):
            raise TypeError("without the settings of its training")
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError):
        raise Refusal(f"has a checkpoint in '{fold}' that is not one of nnU-Net's; copy its folder again") from None
    if not TRAINERS.fullmatch(trainer):
        shown = f"'{trainer[:60]}'" if trainer.isprintable() else "an unnamed trainer"
        raise Refusal(f"was trained by {shown}, whose predictions can differ from the plans; choose another model")
    return Checkpoint(weights, configuration, trainer, sorted(mirrored), plans, dataset)


def _canonical(state: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Weights without their second names: nnU-Net's networks register each layer once more in `all_modules`, and the
    encoder in the decoder. Raises TypeError or ValueError if they are not the weights of a network.
    """
    if not 0 < len(state) <= MAX_TENSORS or not all(map(is_weight, state, state.values())):
        raise TypeError("not the weights of a network")
    weights = {key: tensor for key, tensor in state.items() if not any(_same(state, tensor, k) for k in _first(key))}
    if sum(tensor.numel() for tensor in weights.values()) > MAX_FOLD_WEIGHTS:
        raise ValueError("too many weights")
    return weights


def _first(key: str) -> list[str]:
    """Names that a tensor named `key` can have had before."""
    names = [key.removeprefix("decoder.")] if key.startswith("decoder.encoder.") else []
    match = re.fullmatch(r"(.*)\.all_modules\.\d+\.(\w+)", key)
    return names + ([f"{match[1]}.{layer}.{match[2]}" for layer in ("conv", "norm")] if match else [])


def _same(state: Mapping[str, torch.Tensor], tensor: torch.Tensor, key: str) -> bool:
    other = state.get(key)
    return other is not None and other.shape == tensor.shape and other.dtype == tensor.dtype and _equal(other, tensor)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    shared = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return shared or (a.numel() <= MAX_FOLD_WEIGHTS and torch.equal(a, b))
