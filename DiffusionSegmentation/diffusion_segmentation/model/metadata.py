"""Validation of metadata.json, the description of a model folder.

Model folders are untrusted: file sizes are limited before reading, numbers must be finite and within the range that the
engine supports, and texts must be short and printable because they end up in file headers and on the screen.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN
from ..errors import ModelError

SCHEMA = 1
METADATA = "metadata.json"
# The list of training cases is the longest entry; 4 MiB hold about 100,000 of them.
MAX_BYTES, MAX_DEPTH = 4 * 2**20, 100
MAX_CHANNELS, MAX_STAGES, MAX_BLOCKS = 512, 6, 8
MAX_CLASSES, MAX_STRATA, MAX_GAIN, MAX_POOLS = 128, 64, 64, 8
# Window edges and volume in voxels: smaller windows are too many for one head, larger ones exceed any memory.
MIN_EDGE, MAX_EDGE, MAX_WINDOW = 8, 1024, 2**25
MAX_STEPS, MAX_CURVE_POINTS, MAX_SCALES, MAX_MAP_PRIOR, MAX_SCANS = 1000, 10_000, 16, 32, 1_000_000

# Control characters, line separators, bidirectional overrides (a name could imitate another one), lone surrogates.
_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHA256 = re.compile("[0-9a-f]{64}")


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read and validate metadata.json, except the entry `network` (`NetworkSettings`). Raises ModelError."""
    name = shown(folder)
    data = read_limited(folder, METADATA, MAX_BYTES)
    invalid = ModelError(f"The {METADATA} of the model '{name}' is not valid; copy the whole model folder again.")
    if data is None:
        raise invalid
    try:
        metadata = json.loads(data.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
        schema = metadata["diffusion_segmentation"]["schema"]
        # JSON can hold lone surrogates, which cannot be written to a report.
        json.dumps(metadata, ensure_ascii=False).encode("utf-8")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise invalid from None
    if type(schema) is not int or not _depth_within(metadata, MAX_DEPTH):
        raise invalid
    if schema != SCHEMA:
        raise ModelError(
            f"The model '{name}' has schema version {schema} and this program reads "
            f"version {SCHEMA}; update the older of the two."
        )
    entry = wrong_entry(metadata)
    if entry is not None:
        raise ModelError(
            f"The {METADATA} of the model '{name}' is incomplete or wrong in its entry '{entry}'; "
            "copy the whole model folder again."
        )
    return metadata


def wrong_entry(metadata: dict[str, Any]) -> str | None:
    """Name of the first entry that is missing or invalid; None if there is none."""
    for entry, is_valid in _RULES.items():
        try:
            if not is_valid(metadata, metadata["diffusion_segmentation"]):
                return entry
        except (KeyError, TypeError, AttributeError, ValueError):
            return entry
    return None


@dataclass(frozen=True)
class NetworkSettings:
    """The entry `network` of the metadata with its default values; see `networks` for their meaning."""

    dims: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    denoiser_channels: tuple[int, ...]
    denoiser_blocks: int
    strata: int
    gain: float
    pools: tuple[int, ...]

    @classmethod
    def read(cls, network: dict[str, Any], classes: int) -> NetworkSettings:
        """Validate the entry of a model with `classes` classes. Raises ModelError."""
        try:
            encoder, denoiser = network["encoder"], network["denoiser"]
            settings = cls(
                dims(network),
                tuple(encoder["channels"]),
                tuple(encoder["blocks"]),
                tuple(denoiser["channels"]),
                denoiser["blocks"],
                denoiser.get("strata", 0),
                denoiser.get("gain", 0.0),
                tuple(denoiser.get("pools", ())),
            )
            if settings._is_valid() and _integer(classes, 2, MAX_CLASSES):
                return settings
        except (KeyError, TypeError, AttributeError):
            pass
        raise ModelError(
            "The model's metadata describe a network that this version cannot build; update the extension or the model."
        )

    def _is_valid(self) -> bool:
        channels = (*self.channels, *self.denoiser_channels)
        return (
            _integer(self.dims, 2, 3)
            and 2 <= len(self.channels) == len(self.blocks) <= MAX_STAGES
            and len(self.denoiser_channels) == 2
            and all(_integer(n, 8, MAX_CHANNELS) and n % 8 == 0 for n in channels)
            and all(_integer(n, 1, MAX_BLOCKS) for n in (*self.blocks, self.denoiser_blocks))
            and _integer(self.strata, 0, MAX_STRATA)
            and _number(self.gain, 0, MAX_GAIN)
            and len(self.pools) <= MAX_POOLS
            and all(_integer(edge, 0, MAX_EDGE) for edge in self.pools)
        )


def dims(network: dict[str, Any]) -> int:
    """Spatial dimensions of the entry `network`: 3 for volumes, 2 for pictures."""
    return network.get("dims", 3)


def lowest_log_snr(section: dict[str, Any]) -> float:
    """Lowest log-SNR at which the denoiser was trained."""
    return section["process"].get("lowest_log_snr", LOG_SNR_MIN)


def read_limited(folder: Path, file: str, max_bytes: int) -> bytes | None:
    """Content of a file of a model folder; None if it is larger than `max_bytes`. Raises ModelError.

    The file must not be a symbolic link; the folder may be one.
    """
    name = shown(folder)
    try:
        if not stat.S_ISREG(os.lstat(folder / file).st_mode):
            raise ModelError(f"The {file} of the model '{name}' is a link or not a file; copy the file itself there.")
        with (folder / file).open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"The model '{name}' has no {file}; copy the whole model folder again.") from None
    except (OSError, ValueError):  # ValueError: not a valid file name
        raise ModelError(
            f"The {file} of the model '{name}' cannot be read; copy the whole model folder again."
        ) from None
    return data if len(data) <= max_bytes else None


def shown(folder: Path | str) -> str:
    """Name of a model or of its folder for a message: printable, without its parents, about 100 characters at most."""
    name = folder if isinstance(folder, str) else os.path.basename(os.path.abspath(folder))
    name = _NOT_PRINTABLE.sub("?", name)
    return name if len(name) <= 100 else f"{name[:100]} ..."


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("The number is not finite.")
    return number


def _depth_within(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested at most `depth` times; `copy.deepcopy` fails for deeper ones."""
    if not isinstance(value, dict | list):
        return True
    return depth > 0 and all(
        _depth_within(v, depth - 1) for v in (value.values() if isinstance(value, dict) else value)
    )


def _line(text: Any, max_length: int) -> bool:
    return isinstance(text, str) and 0 < len(text) <= max_length and not (text.isspace() or _NOT_PRINTABLE.search(text))


def _text(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= 10_000 and not _NOT_PRINTABLE.search(re.sub(r"[\t\r\n]", "", text))


def _integer(number: Any, low: int, high: int) -> bool:
    return type(number) is int and low <= number <= high  # not a bool


def _number(number: Any, low: float, high: float) -> bool:
    return type(number) in (int, float) and low <= number <= high


def _numbers(numbers: Any, low: float, high: float) -> bool:
    return all(_number(number, low, high) for number in numbers)


def _interval(pair: Any, low: float, high: float, min_width: float = 0.0) -> bool:
    first, second = pair
    return _numbers(pair, low, high) and second - first >= min_width


def _valid_labels(labels: Any) -> bool:
    return (
        isinstance(labels, list)
        and 1 <= len(labels) < MAX_CLASSES
        and all(_integer(entry["label"], number, number) for number, entry in enumerate(labels, 1))
        and all(_line(entry[key], 200) for entry in labels for key in ("id", "name"))
        and len({entry["id"] for entry in labels}) == len(labels)
        and all(entry["terminology"] == "" or _line(entry["terminology"], 1000) for entry in labels)
        and all(len(entry["color"]) == 3 and _numbers(entry["color"], 0, 1) for entry in labels)
    )


def _valid_curve(curve: dict[str, Any]) -> bool:
    """Whether the loss curve has finite losses at rising log-SNR, as the step grid needs."""
    log_snr, losses = curve["log_snr"], curve["cross_entropy"]
    return (
        2 <= len(log_snr) == len(losses) <= MAX_CURVE_POINTS
        and _numbers(log_snr, LOG_SNR_MIN, LOG_SNR_MAX)
        and all(low < high for low, high in pairwise(log_snr))
        and _numbers(losses, 0, 1e6)
    )


def _valid_start(section: dict[str, Any], classes: int) -> bool:
    """Whether the correlated start has correlations of each class and a log-SNR at which the denoiser was trained."""
    start = section["start"]
    covariance, log_snr = start["covariance"], start["log_snr"]
    scales, weights, shared = covariance["scales_mm"], covariance["weights"], covariance["shared"]
    return (
        1 <= len(scales) <= MAX_SCALES
        and _numbers(scales, 1e-2, 500)
        and len(weights) == len(shared) == classes
        and all(len(row) == len(scales) and _numbers(row, 0, 1) for row in weights)
        and all(_number(w, 0, 1) and 0.9 <= sum(row) + w <= 1.1 for row, w in zip(weights, shared, strict=True))
        and (log_snr is None or _number(log_snr, lowest_log_snr(section), LOG_SNR_MAX))
        and (start.get("kept_mm") is None or _number(start["kept_mm"], 1e-2, 500))
    )


def _valid_provenance(entry: Any) -> bool:
    """Whether `training` or `calibration` describes its data in the form that an evaluation reads."""
    return isinstance(entry, dict) and isinstance(entry.get("data", {}), dict)


def _valid_card(card: Any) -> bool:
    """Whether the model card has the scores that a report quotes."""
    return all(
        _line(name, 200)
        and _numbers((head["mean_dice"], head["ece"]), 0, 1)
        and all(wrong is None or wrong == 0 or _number(wrong, 1e-9, 1) for wrong in head["wrong_at_entropy"].values())
        for name, head in card.get("heads", {}).items()
    ) and all(
        _line(name, 200) and (entry.get("coverage_90") is None or _number(entry["coverage_90"], 0, 1))
        for name, entry in card.get("spread", {}).items()
    )


# Validity of each entry, by the name that a message gives it; called with the whole metadata and our section.
_RULES: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    "version": lambda metadata, _: _line(metadata["version"], 100),
    "description": lambda metadata, _: _text(metadata.get("description", "")),
    "intended_use": lambda metadata, _: _text(metadata.get("intended_use", "")),
    "name": lambda _, s: _line(s["name"], 100) and not re.search(r"[/\\]", s["name"]) and s["name"].strip(". ") != "",
    "title": lambda _, s: _line(s["title"], 200),
    "sha256": lambda _, s: _SHA256.fullmatch(s["sha256"]) is not None,
    "map_source": lambda _, s: "map_prior" in s or s["map_source"] in ("samples", "direct"),
    "map_prior": lambda _, s: _number(s.get("map_prior", 0), 0, MAX_MAP_PRIOR),
    "start": lambda _, s: (
        lowest_log_snr(s) == LOG_SNR_MIN if s.get("start") is None else _valid_start(s, len(s["labels"]) + 1)
    ),
    "working_spacing_mm": lambda _, s: _number(s["working_spacing_mm"], 0.2, 10),
    "labels": lambda _, s: _valid_labels(s["labels"]),
    "network": lambda _, s: _integer(dims(s["network"]), 2, 3),
    "window": lambda _, s: (
        len(s["window"]) == dims(s["network"])
        and all(_integer(n, MIN_EDGE, MAX_EDGE) for n in s["window"])
        and math.prod(s["window"]) <= MAX_WINDOW
    ),
    "steps": lambda _, s: all(_integer(s["steps"][device], 1, MAX_STEPS) for device in ("cpu", "gpu")),
    "process": lambda _, s: (
        _valid_curve(s["process"]["loss_curve"]) and _number(lowest_log_snr(s), LOG_SNR_MIN, LOG_SNR_MAX)
    ),
    "intensity": lambda _, s: (
        s.get("intensity") is None or _interval(s["intensity"]["window"], -1e6, 1e6, min_width=1e-3)
    ),
    "input_range": lambda _, s: (
        all(_interval(s["input_range"][key], 1e-3, 1e5) for key in ("spacing_mm", "extent_mm"))
        and (s["input_range"].get("modality") is None or _line(s["input_range"]["modality"], 100))
    ),
    "training": lambda _, s: _valid_provenance(s.get("training", {})),
    "calibration": lambda _, s: _valid_provenance(s.get("calibration", {})),
    "input_statistics": lambda _, s: (
        s.get("input_statistics") is None or _integer(s["input_statistics"]["scans"], 1, MAX_SCANS)
    ),
    "card": lambda _, s: _valid_card(s.get("card", {})),
}
