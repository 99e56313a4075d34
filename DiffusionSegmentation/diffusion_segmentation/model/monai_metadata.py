"""Validation of the metadata of a converted MONAI bundle.

    weights    bytes and sha256 of the file of weights
    inputs     name of each input
    sha256     of these entries and the labels
    monai      network, preprocessing, inferer and activation; texts are names from tables, never names to import

Lists along axes are in the order of the network's axes, which is that of MONAI's readers: [i, j, k] of the volume until
an orientation exchanges them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from ..images.input_names import valid_inputs
from .checks import MAX_HEADER_BYTES, are_integers, is_integer, is_line, is_number, valid_digest
from .monai_networks import AXES, NETWORKS, wrong_argument

MAX_NETWORK_WEIGHTS = 500_000_000  # MONAI's largest networks in use have about 100 million
MAX_NETWORK_BYTES = 4 * MAX_NETWORK_WEIGHTS + MAX_HEADER_BYTES
MAX_WINDOW = 2**25  # voxels
MAX_TRANSFORMS = 32
ACTIVATIONS = ("softmax", "sigmoid")  # of several classes; of one structure
INTERPOLATIONS = ("linear", "nearest")  # of class probabilities, from the network's grid to that of the volume
DIRECTIONS = ("LR", "PA", "IS")  # of the axes of an orientation such as "RAS"

Rule = Callable[[Any], bool]


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return is_number(value, -1e9, 1e9)


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _percentile(value: Any) -> bool:
    return is_number(value, 0, 100)


def is_orientation(text: Any) -> bool:
    """Whether a text names an orientation of three axes, such as "RAS": where each leads."""
    return isinstance(text, str) and sorted(
        axis for letter in text for axis, pair in enumerate(DIRECTIONS) if letter in pair
    ) == [0, 1, 2] == list(range(len(text)))


def _is_spacing(value: Any) -> bool:
    """A spacing in mm for each axis; -1 leaves that of the volume."""
    return len(value) == AXES and all(number == -1 or is_number(number, 1e-2, 1e3) for number in value)


def _voxels(low: int) -> Rule:
    """An integer, or one for each axis."""
    return lambda value: (
        is_integer(value, low, 256)
        or (isinstance(value, list) and len(value) == AXES and are_integers(value, low, 256))
    )


TRANSFORMS: dict[str, dict[str, Rule]] = {
    "Orientation": {"axcodes": is_orientation},
    "Spacing": {
        "pixdim": _is_spacing,
        "mode": lambda value: value in ("bilinear", "nearest"),
        "padding_mode": lambda value: value in ("border", "zeros", "reflection"),
        "align_corners": _flag,
        "scale_extent": _flag,
    },
    "ScaleIntensity": {
        "minv": _number_or_none,
        "maxv": _number_or_none,
        "factor": _number_or_none,
        "channel_wise": _flag,
    },
    "ScaleIntensityRange": {
        "a_min": _number,
        "a_max": _number,
        "b_min": _number_or_none,
        "b_max": _number_or_none,
        "clip": _flag,
    },
    "ScaleIntensityRangePercentiles": {
        "lower": _percentile,
        "upper": _percentile,
        "b_min": _number_or_none,
        "b_max": _number_or_none,
        "clip": _flag,
        "relative": _flag,
        "channel_wise": _flag,
    },
    "NormalizeIntensity": {
        "subtrahend": _number_or_none,
        "divisor": lambda value: value is None or (_number(value) and abs(value) > 1e-9),
        "nonzero": _flag,
        "channel_wise": _flag,
    },
    "CropForeground": {"margin": _voxels(0), "allow_smaller": _flag, "k_divisible": _voxels(1)},
}
"""MONAI's transforms that a model can have, with their arguments; a missing one has MONAI's default."""
REQUIRED = {
    "Orientation": ("axcodes",),
    "Spacing": ("pixdim",),
    "ScaleIntensityRange": ("a_min", "a_max"),
    "ScaleIntensityRangePercentiles": ("lower", "upper", "b_min", "b_max"),
}

WINDOW_RULES: dict[str, Rule] = {
    "roi_size": lambda value: (
        len(value) == AXES
        and all(n == -1 or is_integer(n, 8, 1024) for n in value)
        and math.prod(map(abs, value)) <= MAX_WINDOW
    ),
    "overlap": lambda value: is_number(value, 0, 0.9),
    "mode": lambda value: value in ("constant", "gaussian"),
    "sigma_scale": lambda value: is_number(value, 0.01, 10),
    "padding_mode": lambda value: value in ("constant", "replicate"),
    "cval": _number,
}
"""Arguments of MONAI's sliding windows; a missing one, except `roi_size`, has MONAI's default."""


def digest_of_model(section: dict[str, Any]) -> str:
    """SHA-256 of all that a result depends on: the digest of the weights, the labels, the inputs and the settings."""
    content = {name: section[name] for name in ("weights", "labels", "inputs", "monai")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def classes_of(monai: dict[str, Any]) -> int:
    """Number of classes, background included, of the entry `monai`."""
    channels = monai["network"]["options"]["out_channels"]
    return channels + 1 if monai["activation"] == "sigmoid" else channels


def wrong_transform(entry: dict[str, Any]) -> str | None:
    """Name of the first argument of a transform that is missing or cannot be used; None if there is none."""
    name = entry["transform"]
    arguments = {key: value for key, value in entry.items() if key != "transform"}
    for key, value in arguments.items():
        try:
            if key not in TRANSFORMS[name] or not TRANSFORMS[name][key](value):
                return key
        except (TypeError, ValueError, AttributeError):
            return key
    return next((key for key in REQUIRED.get(name, ()) if key not in arguments), None)


def _valid_inferer(inferer: dict[str, Any] | None) -> bool:
    return inferer is None or (
        "roi_size" in inferer and all(key in WINDOW_RULES and WINDOW_RULES[key](inferer[key]) for key in inferer)
    )


_PARTS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "bundle": lambda m: is_line(m["bundle"], 200),
    "network": lambda m: (
        set(m["network"]) == {"class", "options"}
        and m["network"]["class"] in NETWORKS
        and wrong_argument(m["network"]["class"], m["network"]["options"]) is None
    ),
    "preprocessing": lambda m: (
        isinstance(m["preprocessing"], list)
        and len(m["preprocessing"]) <= MAX_TRANSFORMS
        and all(entry["transform"] in TRANSFORMS and wrong_transform(entry) is None for entry in m["preprocessing"])
    ),
    "inferer": lambda m: _valid_inferer(m["inferer"]),
    "activation": lambda m: (
        m["activation"] in ACTIVATIONS
        and (m["network"]["options"]["out_channels"] == 1) == (m["activation"] == "sigmoid")
    ),
    "interpolation": lambda m: m["interpolation"] in INTERPOLATIONS,
}


def wrong_part(monai: dict[str, Any]) -> str | None:
    """Name of the first part of the entry `monai` that is missing or cannot be run; None if there is none."""
    for part, is_valid in _PARTS.items():
        try:
            if not is_valid(monai):
                return part
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            return part
    return None


RULES: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    "weights": lambda _, s: (
        set(s["weights"]) == {"bytes", "sha256"}
        and is_integer(s["weights"]["bytes"], 1, MAX_NETWORK_BYTES)
        and valid_digest(s["weights"]["sha256"])
    ),
    "monai": lambda _, s: wrong_part(s["monai"]) is None and classes_of(s["monai"]) == len(s["labels"]) + 1,
    "inputs": lambda _, s: (
        valid_inputs(s, len(s["inputs"])) and len(s["inputs"]) == s["monai"]["network"]["options"]["in_channels"]
    ),
}
