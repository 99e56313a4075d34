"""The trainers whose models are converted are those of nnU-Net that leave network and prediction unchanged."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from diffusion_segmentation.nnunet.checkpoint import TRAINERS

pytest.importorskip("nnunetv2")

HARMLESS = {
    "_build_loss",
    "_set_batch_size_and_oversample",
    "configure_optimizers",
    "configure_rotation_dummyDA_mirroring_and_inital_patch_size",  # its axes for mirroring are in the checkpoint
    "get_dataloaders",
    "get_training_transforms",
    "load_checkpoint",
    "on_train_end",
    "on_train_epoch_start",
    "perform_actual_validation",
    "run_training",
    "save_checkpoint",
}
"""Methods that concern training only."""


def trainers() -> dict[str, type[Any]]:
    """All trainers that nnU-Net can import here, by name."""
    import nnunetv2.training.nnUNetTrainer as package
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    found: dict[str, type[Any]] = {}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        try:
            content = vars(importlib.import_module(module.name))
        except (ImportError, RuntimeError):  # needs a package that is not installed
            continue
        found |= {c.__name__: c for c in content.values() if isinstance(c, type) and issubclass(c, nnUNetTrainer)}
    return found


def changed_methods(trainer: type[Any], base: type[Any]) -> set[str]:
    own = [ancestor for ancestor in trainer.__mro__ if issubclass(ancestor, base) and ancestor is not base]
    return {name for ancestor in own for name in vars(ancestor) if not name.startswith("__")}


@pytest.mark.slow
def test_a_trainer_is_accepted_if_it_changes_nothing_but_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path))
    found = trainers()
    assert len(found) > 40
    changes = {name: changed_methods(trainer, found["nnUNetTrainer"]) for name, trainer in found.items()}
    wrongly_accepted = {n: c - HARMLESS for n, c in changes.items() if TRAINERS.fullmatch(n) and c - HARMLESS}
    wrongly_refused = [name for name, change in changes.items() if change <= HARMLESS and not TRAINERS.fullmatch(name)]
    assert wrongly_accepted == {} and wrongly_refused == []
