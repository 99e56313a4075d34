"""Conversion of a MONAI bundle into a model folder.

configs/metadata.json, configs/inference.json     written by the bundle's authors; YAML with PyYAML
models/model.pt                                   state dict, or a dictionary that holds it as "model" or "state_dict"
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..images.input_names import valid_names
from ..images.label_table import label_table
from ..model.metadata import METADATA as MODEL_METADATA
from ..model.metadata import MONAI, SCHEMA, wrong_entry
from ..model.monai_metadata import MAX_NETWORK_WEIGHTS, classes_of, digest_of_model, wrong_part
from ..model.pickled_weights import MAX_TENSORS, are_within, is_weight, read_pickled
from ..model.refusal import Refusal
from ..model.weights import WEIGHTS, write_weights
from .configuration import read_configuration, read_metadata
from .network import canonical_names, sketch
from .translation import translated, weights_file

INTENDED_USE = "Research; a model that others trained, whose training data this program does not know."
STATES = ("model", "state_dict", "network")
"""Keys under which a dictionary holds the state dict."""


def convert(source: Path, folder: Path) -> None:
    """Write the bundle in the folder `source` as a model into the empty `folder`.

    Raises ModelError, and OSError if the folder cannot be written.
    """
    try:
        _convert(source, folder)
    except Refusal as refusal:
        raise refusal.for_model("The MONAI bundle", source) from refusal.__cause__


def _convert(source: Path, folder: Path) -> None:
    described, configuration = read_metadata(source), read_configuration(source)
    entry = {"bundle": _bundle_version(described), **translated(configuration)}
    _require_valid(wrong_part(entry))
    names = _label_names(described, entry)
    inputs = _input_names(described, entry["network"]["options"]["in_channels"])
    network = _checked_network(entry)
    weights = _weights(source / "models" / weights_file(configuration), network)
    stored = write_weights(folder / WEIGHTS, weights)
    metadata = _metadata(source, described, names, inputs, stored, entry)
    _require_valid(wrong_entry(metadata))
    text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
    (folder / MODEL_METADATA).write_text(text, encoding="utf-8")


def _require_valid(wrong: str | None) -> None:
    if wrong is not None:
        raise Refusal(f"has values that cannot be used for '{wrong}'; choose another model")


def _metadata(
    source: Path,
    described: dict[str, Any],
    names: list[str],
    inputs: list[str],
    stored: dict[str, Any],
    entry: dict[str, Any],
) -> dict[str, Any]:
    title = _text(described, "name", source.resolve().name.replace("_", " "))
    section: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": MONAI,
        "name": re.sub(r"[^A-Za-z0-9_-]+", "_", source.resolve().name).strip("_-")[:64] or "bundle",
        "title": f"{title} (MONAI {entry['network']['class']})",
        "weights": stored,
        "labels": label_table(names),
        "inputs": [{"name": name} for name in inputs],
        "monai": entry,
    }
    section["sha256"] = digest_of_model(section)
    return {
        "version": "1",
        "description": _text(described, "description", ""),
        "intended_use": _text(described, "intended_use", INTENDED_USE),
        "diffusion_segmentation": section,
    }


def _text(described: dict[str, Any], key: str, default: str) -> str:
    value = described.get(key)
    return value if isinstance(value, str) and value else default


def _bundle_version(described: dict[str, Any]) -> str:
    return _text(described, "version", "unknown")


def _channel_names(described: dict[str, Any], which: str, name: str) -> list[str] | None:
    """Names of the channels of an input or an output; None if they are not stated."""
    try:
        names = described["network_data_format"][which][name]["channel_def"]
        listed = [names[str(n)] for n in range(len(names))]
    except (KeyError, TypeError, AttributeError, IndexError):
        return None
    return listed if all(isinstance(name, str) for name in listed) else None


def _label_names(described: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Names of the labels 1, 2, ...; a single structure can be named with or without the background."""
    names = _channel_names(described, "outputs", "pred")
    classes = classes_of(entry)
    if entry["activation"] == "sigmoid" and names is not None and len(names) == 1:
        return names
    if names is None or len(names) != classes or "background" not in names[0].lower():
        raise Refusal(
            f"has no names of its {classes} classes, 'background' first, in its metadata.json; choose another model"
        )
    return names[1:]


def _input_names(described: dict[str, Any], count: int) -> list[str]:
    """Names of the inputs, one for each channel; a single one can lack its name."""
    names = _channel_names(described, "inputs", "image")
    if names is None or len(names) != count:
        if count > 1:
            raise Refusal(f"has no names of its {count} inputs in its metadata.json; choose another model")
        names = [""]
    return valid_names(names)


def _checked_network(entry: dict[str, Any]) -> torch.nn.Module:
    """The network of the metadata, without weights, if it suits the windows."""
    inferer = entry["inferer"]
    window = None if inferer is None or -1 in inferer["roi_size"] else inferer["roi_size"]
    try:
        drawn = sketch(entry["network"], window)
    except ModelError as error:
        # The rest of the sentence of the error, which begins with "The network".
        raise Refusal(f"cannot be used: {str(error)[0].lower()}{str(error)[1:].rstrip('.')}") from None
    if window is not None and drawn.channels != entry["network"]["options"]["out_channels"]:
        shown = " x ".join(map(str, window))
        raise Refusal(f"has windows of {shown} voxels, which do not suit its network; choose another model")
    return drawn.network


def _weights(path: Path, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of floating-point numbers of the network, each once. Raises Refusal."""
    name = path.name
    if not path.exists() and not path.is_symlink():
        scripts = sorted(path.parent.glob("*.ts"))
        if scripts:
            raise Refusal("has its network as TorchScript alone, which is code; choose one with weights in a model.pt")
        raise Refusal(f"has no models/{name}; copy its whole folder again")
    if path.is_file() and _is_torchscript(path):
        raise Refusal(f"has TorchScript in its {name}, which is code; choose one with a state dict there")
    state = _state(read_pickled(path, f"file {name}", "'models'"))
    names = canonical_names(network)
    own = network.state_dict()
    unsuitable = Refusal(f"has a {name} that does not hold the weights of its network; copy its whole folder again")
    if state is None or not all(is_weight(key, tensor, buffers=True) for key, tensor in state.items()):
        raise unsuitable
    if not set(names) <= set(state) <= set(own) or any(state[key].shape != own[key].shape for key in names):
        raise unsuitable
    # A layer with several names has the weights that were given last, as for PyTorch.
    weights = {first: state[key] for key, first in names.items()}
    if sum(tensor.numel() for tensor in weights.values()) > MAX_NETWORK_WEIGHTS or not are_within(
        weights.values(), path
    ):
        raise unsuitable
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise Refusal(f"has weights in its {name} that are not all finite numbers; choose another model")
    return weights


def _state(content: Any) -> Mapping[str, Any] | None:
    """The state dict in the content of a file of weights."""
    for key in STATES:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return content if isinstance(content, Mapping) and 0 < len(content) <= MAX_TENSORS else None


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as zipped:
            return any(name.endswith("/constants.pkl") for name in zipped.namelist())
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, NotImplementedError):
        return False
