"""Conversion of a trained nnU-Net v2 folder into a model folder.

The files are listed in `trained_folder`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, ModelError
from ..images.input_names import valid_names
from ..images.label_table import label_table
from ..model.metadata import METADATA, NNUNET, SCHEMA, read_limited, wrong_entry
from ..model.nnunet_metadata import FOLD_NAME, MAX_FOLDS, digest_of_model, fold_file
from ..model.refusal import Refusal
from ..model.weights import write_weights
from .checkpoint import CHECKPOINT, Checkpoint, read_checkpoint
from .labels import Labels, read_labels
from .plans import MALFORMED, nnunet_entry
from .splits import find_splits, training_cases
from .trained_folder import DATASET, MAX_JSON_BYTES, PLANS, has_postprocessing

INTENDED_USE = "Research; an nnU-Net that others trained, whose training data this program does not know."


def convert(source: Path, folder: Path) -> None:
    """Write the nnU-Net in `source` as a model into the empty `folder`.

    Raises ModelError, and OSError if the folder cannot be written.
    """
    try:
        _convert(source, folder)
    except Refusal as refusal:
        raise refusal.for_model("The nnU-Net", source) from refusal.__cause__


def _convert(source: Path, folder: Path) -> None:
    plans, dataset = (_read_json(source, file) for file in (PLANS, DATASET))
    labels, inputs = read_labels(dataset), _input_names(dataset)
    folds: list[dict[str, Any]] = []
    entry: dict[str, Any] = {}
    shapes: dict[str, torch.Size] = {}
    for name, path in _checkpoints(source):
        checkpoint = read_checkpoint(path)
        own = _entry(plans, checkpoint, len(inputs))
        _require_same_training(path.parent.name, checkpoint, own, dataset)
        entry, shapes = entry or own, shapes or checkpoint.shapes
        if (own, checkpoint.shapes) != (entry, shapes):
            raise Refusal(f"has folds of different networks, such as '{path.parent.name}'; keep folds of one training")
        folds.append(_write_fold(folder, name, checkpoint.weights))
    metadata = _metadata(plans, dataset, labels, inputs, folds, entry)
    metadata["diffusion_segmentation"]["training"] = {"data": _training_data(source, plans, folds)}
    if has_postprocessing(source):
        metadata["diffusion_segmentation"]["has_postprocessing"] = True
    wrong = wrong_entry(metadata)
    if wrong is not None:
        raise Refusal(f"has values that cannot be used for '{wrong}'; choose another model")
    text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
    (folder / METADATA).write_text(text, encoding="utf-8")


def _metadata(
    plans: dict[str, Any],
    dataset: dict[str, Any],
    labels: Labels,
    inputs: list[str],
    folds: list[dict[str, Any]],
    entry: dict[str, Any],
) -> dict[str, Any]:
    data = _dataset_name(plans)
    description = dataset.get("description", "")
    section: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": NNUNET,
        "name": re.sub(r"[^A-Za-z0-9_-]+", "_", f"{data}-{entry['configuration']}").strip("_-")[:64],
        "title": f"{data} (nnU-Net {entry['configuration']})",
        "labels": label_table(labels.names),
        "inputs": [{"name": name} for name in valid_names(inputs)],
        "folds": folds,
        "nnunet": entry,
        **({"regions": labels.regions} if labels.regions else {}),
    }
    section["sha256"] = digest_of_model(section)
    return {
        "version": "1",
        "description": description if isinstance(description, str) else "",
        "intended_use": INTENDED_USE,
        "diffusion_segmentation": section,
    }


def _dataset_name(plans: dict[str, Any]) -> str:
    name = plans.get("dataset_name")
    return name if isinstance(name, str) else "nnU-Net"


def _training_data(source: Path, plans: dict[str, Any], folds: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry `data` of the training: name of the data set, and the cases of each fold if their file is found."""
    facts: dict[str, Any] = {"kind": "nnunet", "name": _dataset_name(plans)}
    splits = find_splits([source], facts["name"])
    if splits is None:
        return facts
    try:
        return {**facts, "folds": training_cases(splits, [fold["name"] for fold in folds])}
    except InputError:
        raise Refusal(f"has a {splits.name} that is not one of nnU-Net's; copy it again, or remove it") from None


def _read_json(source: Path, file: str) -> dict[str, Any]:
    try:
        data = read_limited(source, file, MAX_JSON_BYTES)
    except ModelError:
        raise Refusal(f"has no {file} that can be read; copy its whole folder again") from None
    try:
        content = json.loads((data or b"").decode("utf-8"))
        json.dumps(content, ensure_ascii=False, allow_nan=True).encode("utf-8")  # refuses lone surrogates
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Refusal(f"has a {file} that is not valid; copy its whole folder again")
    return content


def _input_names(dataset: dict[str, Any]) -> list[str]:
    try:
        names = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
        inputs = [names[str(n)] for n in range(len(names))]
    except MALFORMED:
        raise Refusal("has no list of inputs in its dataset.json that can be used; copy its folder again") from None
    if not inputs or not all(isinstance(name, str) for name in inputs):
        raise Refusal("has no list of inputs in its dataset.json that can be used; copy its folder again")
    return inputs


def _checkpoints(source: Path) -> list[tuple[str, Path]]:
    """Name of each fold with the path of its checkpoint."""
    found = {path.name.removeprefix("fold_"): path for path in sorted(source.glob("fold_*"))}
    folds = {name: path / CHECKPOINT for name, path in found.items() if FOLD_NAME.fullmatch(name)}
    if len(folds) > 1:
        folds.pop("all", None)  # as nnU-Net does
    if not folds:
        raise Refusal("has no fold: a folder such as fold_0; copy its whole folder again")
    numbers = [int(name) for name in folds if name != "all"]
    if len(set(numbers)) < len(numbers):
        raise Refusal("has a fold twice, such as fold_0 and fold_00; remove one of them")
    if len(folds) > MAX_FOLDS:
        raise Refusal(f"has more than {MAX_FOLDS} folds; keep those that you need")
    for name, path in folds.items():
        if not path.exists():
            raise Refusal(f"has no {CHECKPOINT} in fold_{name}; finish the training of this fold, or remove its folder")
    return list(folds.items())


def _entry(plans: dict[str, Any], checkpoint: Checkpoint, inputs: int) -> dict[str, Any]:
    return nnunet_entry(plans, checkpoint.configuration, checkpoint.trainer, checkpoint.mirror_axes, inputs)


def _require_same_training(fold: str, checkpoint: Checkpoint, entry: dict[str, Any], dataset: dict[str, Any]) -> None:
    """Raise Refusal unless a checkpoint was trained with the plans, whose entry is given, and with the dataset.json."""
    trained = checkpoint.dataset
    for file, is_same in (
        (PLANS, lambda: _entry(checkpoint.plans, checkpoint, len(entry["normalization"])) == entry),
        (DATASET, lambda: read_labels(trained) == read_labels(dataset)),
        (DATASET, lambda: _input_names(trained) == _input_names(dataset)),
    ):
        try:
            same = is_same()
        except Refusal:
            same = False
        if not same:
            raise Refusal(f"has a {file} of another training than '{fold}'; copy both again")


def _write_fold(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write the weights of a fold; returns its entry in the metadata."""
    path = folder / fold_file(name)
    return {"name": name, "file": path.name, **write_weights(path, weights)}
