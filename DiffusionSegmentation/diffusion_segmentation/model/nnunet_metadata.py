"""Validation of the metadata of a converted nnU-Net.

    folds      name, file, bytes and sha256 of the weights of each fold
    inputs     name of each input
    regions    for a network of nested regions, the label of what each has more than the next one; missing for others
    sha256     of these entries and the labels
    training   data: name of nnU-Net's data set and, if its file of splits was found, the training cases of each fold
    has_postprocessing   whether nnU-Net determined a postprocessing, which is not applied; may be missing
    nnunet     what running needs of nnU-Net's plans; texts are names from the tables below, never names to import

Lists along axes are in the order of the network's axes, which is that of the volume's [k, j, i] after `transpose`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

from ..images.input_names import valid_inputs
from .checks import MAX_HEADER_BYTES, are_integers, are_numbers, is_integer, is_line, is_number, valid_digest

MAX_FOLDS = 100
MAX_FOLD_WEIGHTS = 500_000_000  # the largest network of nnU-Net's planners has 102 million
MAX_FOLD_BYTES = 4 * MAX_FOLD_WEIGHTS + MAX_HEADER_BYTES
MAX_STAGES, MAX_CHANNELS, MAX_BLOCKS = 12, 2048, 32
MAX_PATCH = 2**25  # voxels
FOLD_NAME = re.compile(r"all|[0-9]{1,3}")
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
NETWORKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
"""Classes of networks, and their argument for the number of blocks in each stage of the encoder."""
NORMS, NONLINS = ("instance", "batch"), ("LeakyReLU", "ReLU")
NORMALIZATIONS = (
    "CTNormalization",
    "NoNormalization",
    "RGBTo01Normalization",
    "RescaleTo01Normalization",
    "ZScoreNormalization",
)
INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")
"""Statistics of an input's intensities that a normalisation uses."""
RESAMPLED = ("data", "seg", "probabilities")


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_SEPARATE_Z: dict[str, Callable[[Any], bool]] = {
    "is_seg": _is_flag,
    "force_separate_z": lambda value: value is None or _is_flag(value),
    "separate_z_anisotropy_threshold": lambda value: is_number(value, 1, 1e6),
}
RESAMPLING: dict[str, dict[str, Callable[[Any], bool]]] = {
    "resample_data_or_seg_to_shape": {
        **_SEPARATE_Z,
        "order": lambda value: is_integer(value, 0, 5),
        "order_z": lambda value: is_integer(value, 0, 5),
    },
    "resample_torch_fornnunet": {
        **_SEPARATE_Z,
        "num_threads": lambda value: is_integer(value, 1, 64),
        "memefficient_seg_resampling": _is_flag,
        "mode": lambda value: value in ("linear", "nearest", "nearest-exact"),
        "aniso_axis_mode": lambda value: value in ("linear", "nearest", "nearest-exact"),
    },
}
"""Functions that resample, with their options."""


def fold_file(name: str) -> str:
    """Name of the file with the weights of a fold."""
    return f"fold_{name}.safetensors"


def digest_of_model(section: dict[str, Any]) -> str:
    """SHA-256 of all that a result depends on: the digests of the weights, the labels, the inputs and the settings."""
    content = {name: section[name] for name in ("folds", "labels", "inputs", "nnunet")}
    content |= {"regions": section["regions"]} if "regions" in section else {}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def wrong_part(nnunet: dict[str, Any]) -> str | None:
    """Name of the first part of the entry `nnunet` that is missing or cannot be run; None if there is none."""
    for part, is_valid in _PARTS.items():
        try:
            if not is_valid(nnunet):
                return part
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            return part
    return None


def _axes(nnunet: dict[str, Any]) -> int:
    return 2 if nnunet["configuration"] == "2d" else 3


def _valid_folds(section: dict[str, Any]) -> bool:
    folds = section["folds"]
    return (
        isinstance(folds, list)
        and 1 <= len(folds) <= MAX_FOLDS
        and all(FOLD_NAME.fullmatch(fold["name"]) and fold["file"] == fold_file(fold["name"]) for fold in folds)
        and len({fold["name"] for fold in folds}) == len(folds)
        and all(is_integer(fold["bytes"], 1, MAX_FOLD_BYTES) and valid_digest(fold["sha256"]) for fold in folds)
    )


def valid_cases_of_folds(folds: Any) -> bool:
    """Whether it lists names of cases for each of some folds."""
    return all(
        FOLD_NAME.fullmatch(name) and isinstance(cases, list) and all(map(is_case_name, cases))
        for name, cases in folds.items()
    )


def is_case_name(name: Any) -> bool:
    """Whether it can be the name of a case."""
    return is_line(name, 200)


def _valid_training(training: dict[str, Any]) -> bool:
    data = training.get("data", {})
    return is_line(data.get("name", "-"), 200) and valid_cases_of_folds(data.get("folds", {}))


def _valid_patch(nnunet: dict[str, Any]) -> bool:
    """Whether the window suits the strides of the network, whose norms need two voxels at the coarsest stage."""
    patch = nnunet["patch_size"]
    factors = [math.prod(steps) for steps in zip(*nnunet["network"]["strides"], strict=True)]
    return (
        len(patch) == len(factors) == _axes(nnunet)
        and are_integers(patch, 1, 4096)
        and math.prod(patch) <= MAX_PATCH
        and all(n % factor == 0 for n, factor in zip(patch, factors, strict=True))
        and math.prod(patch) > math.prod(factors)
    )


def _valid_resampling(resampling: dict[str, Any]) -> bool:
    return set(resampling) == set(RESAMPLED) and all(
        set(entry) == {"function", "options"}
        and entry["function"] in RESAMPLING
        and all(RESAMPLING[entry["function"]][option](value) for option, value in entry["options"].items())
        for entry in resampling.values()
    )


def _valid_network(nnunet: dict[str, Any]) -> bool:
    network, axes = nnunet["network"], _axes(nnunet)
    stages = len(network["features_per_stage"])
    blocks, decoder = network["blocks_per_stage"], network["n_conv_per_stage_decoder"]
    eps, slope = network["norm_options"]["eps"], network["nonlin_options"].get("negative_slope", 0.01)
    return (
        network["class"] in NETWORKS
        and 2 <= stages <= MAX_STAGES
        and are_integers(network["features_per_stage"], 1, MAX_CHANNELS)
        and len(network["kernel_sizes"]) == len(network["strides"]) == len(blocks) == len(decoder) + 1 == stages
        and all(len(sizes) == axes for sizes in (*network["kernel_sizes"], *network["strides"]))
        and all(are_integers(sizes, 1, 9) and all(n % 2 for n in sizes) for sizes in network["kernel_sizes"])
        and all(are_integers(steps, 1, 8) for steps in network["strides"])
        and are_integers((*blocks, *decoder), 1, MAX_BLOCKS)
        and _is_flag(network["conv_bias"])
        and network["norm"] in NORMS
        and set(network["norm_options"]) == {"eps", "affine"}
        and is_number(eps, 1e-12, 1)
        and _is_flag(network["norm_options"]["affine"])
        and network["nonlin"] in NONLINS
        and set(network["nonlin_options"]) <= ({"negative_slope"} if network["nonlin"] == "LeakyReLU" else set())
        and is_number(slope, 0, 1)
    )


def _valid_regions(order: Any, labels: int) -> bool:
    return isinstance(order, list) and are_integers(order, 1, labels) and len(set(order)) == len(order) == labels


def _valid_intensities(nnunet: dict[str, Any]) -> bool:
    """Whether there are statistics for each input: any finite numbers, with a spread to divide by."""
    return len(nnunet["intensities"]) == len(nnunet["normalization"]) and all(
        set(entry) == set(INTENSITIES)
        and are_numbers(entry.values(), -1e9, 1e9)
        and is_number(entry["std"], 0, 1e9)
        and entry["percentile_00_5"] <= entry["percentile_99_5"]
        for entry in nnunet["intensities"]
    )


_PARTS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "configuration": lambda n: n["configuration"] in CONFIGURATIONS,
    "trainer": lambda n: is_line(n["trainer"], 100),
    "plans": lambda n: is_line(n["plans"], 100),
    "network": _valid_network,
    "patch_size": _valid_patch,
    "spacing": lambda n: len(n["spacing_mm"]) == _axes(n) and are_numbers(n["spacing_mm"], 1e-3, 1e4),
    "transpose": lambda n: are_integers(n["transpose"], 0, 2) and sorted(n["transpose"]) == [0, 1, 2],
    "mirror_axes": lambda n: (
        are_integers(n["mirror_axes"], 0, _axes(n) - 1) and len(set(n["mirror_axes"])) == len(n["mirror_axes"])
    ),
    "normalization": lambda n: all(name in NORMALIZATIONS for name in n["normalization"]),
    "use_mask_for_norm": lambda n: (
        len(n["use_mask_for_norm"]) == len(n["normalization"]) and all(map(_is_flag, n["use_mask_for_norm"]))
    ),
    "intensities": _valid_intensities,
    "resampling": lambda n: _valid_resampling(n["resampling"]),
    "reoriented": lambda n: _is_flag(n["reoriented"]),
}

RULES: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    "regions": lambda _, s: "regions" not in s or _valid_regions(s["regions"], len(s["labels"])),
    "training": lambda _, s: _valid_training(s.get("training", {})),
    "has_postprocessing": lambda _, s: _is_flag(s.get("has_postprocessing", False)),
    "folds": lambda _, s: _valid_folds(s),
    "inputs": lambda _, s: valid_inputs(s, len(s["inputs"])),
    "nnunet": lambda _, s: wrong_part(s["nnunet"]) is None and len(s["nnunet"]["normalization"]) == len(s["inputs"]),
}
