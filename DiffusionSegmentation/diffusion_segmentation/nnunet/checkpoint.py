"""Reading a checkpoint of nnU-Net without running what a pickle can contain.

`torch.load(weights_only=True)` builds tensors, containers and the classes of an allow-list, and calls nothing else.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import is_out_of_memory
from ..model.nnunet_metadata import MAX_FOLD_WEIGHTS
from ..model.weights import WEIGHT_TYPES
from .refusal import Refusal

CHECKPOINT = "checkpoint_final.pth"
CHECKPOINT_TYPES = (*WEIGHT_TYPES, torch.float64)
MAX_TENSORS = 10_000
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
    content = _load(path)
    fold = path.parent.name
    try:
        trainer, arguments = content["trainer_name"], content["init_args"]
        configuration, plans, dataset = (arguments[name] for name in ("configuration", "plans", "dataset_json"))
        mirrored = content.get("inference_allowed_mirroring_axes") or ()
        weights = _canonical(content["network_weights"])
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


def _load(path: Path) -> Any:
    """Content of a checkpoint. Any exception of a reader that is fed with foreign bytes is a refusal."""
    name = f"'{path.parent.name}'"
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Refusal(f"has a link in place of the checkpoint in {name}; copy the file itself there")
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"  # the format since PyTorch 1.6, which can be mapped into memory
        with _allowed_classes():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Refusal:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise Refusal(
            f"has a checkpoint in {name} that is damaged or contains more than weights and numbers, which is not "
            "loaded; copy its folder again from a source that you trust"
        ) from None


def _allowed_classes() -> AbstractContextManager[Any]:
    """Context in which numbers of NumPy, of which checkpoints have the history of the training, can be loaded."""
    if not hasattr(torch.serialization, "safe_globals"):
        raise Refusal("can be read with PyTorch 2.6 and newer only; update PyTorch")
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"}
    # Files name the function by its place in NumPy 1 or 2.
    named = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    return torch.serialization.safe_globals([np.dtype, *kinds, *named])


def _canonical(state: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Weights without their second names: nnU-Net's networks register each layer once more in `all_modules`, and the
    encoder in the decoder. Raises TypeError or ValueError if they are not the weights of a network.
    """
    if not 0 < len(state) <= MAX_TENSORS or not all(map(_is_weight, state, state.values())):
        raise TypeError("not the weights of a network")
    weights = {key: tensor for key, tensor in state.items() if not any(_same(state, tensor, k) for k in _first(key))}
    if sum(tensor.numel() for tensor in weights.values()) > MAX_FOLD_WEIGHTS:
        raise ValueError("too many weights")
    return weights


def _is_weight(key: Any, tensor: Any) -> bool:
    return (
        isinstance(key, str)
        and 0 < len(key) <= 200
        and key.isascii()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and (tensor.dtype in CHECKPOINT_TYPES or (tensor.dtype == torch.int64 and tensor.ndim == 0))
    )


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
