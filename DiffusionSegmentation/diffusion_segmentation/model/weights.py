"""Files with the weights of a model: their names, sizes and content."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from ..errors import ModelError
from .checks import MAX_HEADER_BYTES
from .metadata import DIFFUSION, NNUNET, file_error, folder_name, kind, read_limited

WEIGHTS = "model.safetensors"
MAX_WEIGHTS = 100_000_000  # 20 times the shipped model; 400 MB as float32
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32)
MISMATCH = "weights", "do not fit its metadata"


def weight_files(metadata: dict[str, Any]) -> dict[str, int]:
    """Names of the files with the weights of a model, by its valid metadata, and the largest size of each in bytes."""
    section = metadata["diffusion_segmentation"]
    if kind(section) == DIFFUSION:
        return {WEIGHTS: 4 * MAX_WEIGHTS + MAX_HEADER_BYTES}
    if kind(section) != NNUNET:
        return {WEIGHTS: section["weights"]["bytes"]}
    return {fold["file"]: fold["bytes"] for fold in section["folds"]}


def has_weights(folder: Path, metadata: dict[str, Any]) -> bool:
    """Whether all files of weights are there, with the sizes that the metadata state if they do."""
    try:
        sizes = {file: (folder / file).stat().st_size for file in weight_files(metadata)}
    except OSError:
        return False
    return kind(metadata["diffusion_segmentation"]) == DIFFUSION or sizes == weight_files(metadata)


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write tensors to a new file of weights, those of other types as float32; returns its size and SHA-256.

    Raises OSError.
    """
    stored = {key: t if t.dtype in WEIGHT_TYPES else t.float() for key, t in weights.items()}
    try:
        # Clones: the format refuses tensors that share memory.
        safetensors.save_file({key: tensor.detach().clone().contiguous() for key, tensor in stored.items()}, path)
    except SafetensorError as error:
        raise _os_error(error, path) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _os_error(error: SafetensorError, path: Path) -> OSError:
    """The error of the system, such as that of a full disk, of which safetensors has only the text."""
    number = re.search(r"\(os error ([0-9]+)\)", str(error))
    if number is None:
        return OSError(str(error))
    code = int(number[1])
    return OSError(code, os.strerror(code), str(path), code)  # only Windows reads the second code


def read_weights(folder: Path, file: str, sha256: str, count: int) -> dict[str, torch.Tensor]:
    """Tensors of a file of weights as float32, by name; at most `count` weights. Raises ModelError."""
    data = read_limited(folder, file, 4 * count + MAX_HEADER_BYTES)
    if data is None:
        raise file_error(folder, *MISMATCH)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(
            f"The weights of the model '{folder_name(folder)}' differ from their checksum; copy the whole model folder "
            "again."
        )
    try:
        stored = safetensors.load(data)
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, AssertionError):
        raise file_error(folder, file, "is damaged or of another format") from None
    if not all(tensor.dtype in WEIGHT_TYPES for tensor in stored.values()):
        raise ModelError(
            f"The weights of the model '{folder_name(folder)}' are not stored as float16, bfloat16 or float32; "
            "choose another model."
        )
    state = {key: tensor.float() for key, tensor in stored.items()}
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise file_error(folder, "weights", "are not all finite numbers")
    return state
