"""metadata.json of a model folder, checked entry by entry before anything relies on it.

A model folder may come from anywhere. What is read of it is bounded before it is read, numbers are finite and in the
range that the engine can use, and texts are short and in one line, for they end in file headers and on the screen.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN
from ..errors import ModelError

SCHEMA = 1
METADATA = "metadata.json"
# The list of the cases that a model was trained on is the longest part; 4 MiB hold some 100,000.
LARGEST_BYTES, DEEPEST = 4 * 2**20, 100
LARGEST_CHANNELS, LARGEST_STAGES, LARGEST_BLOCKS = 512, 6, 8
LARGEST_CLASSES, LARGEST_STRATA, LARGEST_GAIN = 128, 64, 64
# A smaller window than this makes windows without end of one head, a larger one does not fit into any memory.
SMALLEST_EDGE, LARGEST_EDGE, LARGEST_WINDOW = 8, 1024, 2**25
LARGEST_STEPS, LARGEST_CURVE = 1000, 10_000
LARGEST_SCALES, LARGEST_PRIOR, LARGEST_POOLS = 16, 32, 8
LEAST_SCANS, LARGEST_SCANS = 1, 1_000_000

# Control characters, line separators, changes of direction (a name that reads as another), halves of characters.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHA256 = re.compile("[0-9a-f]{64}")


def read_metadata(folder: Path) -> dict[str, Any]:
    """metadata.json, checked but for what only `check_network` and the weights can tell. Raises ModelError."""
    name = shown(folder)
    data = contents(folder, METADATA, LARGEST_BYTES)
    foreign = ModelError(
        f"The {METADATA} of the model '{name}' is none of this program's; copy the whole model folder again."
    )
    if data is None:
        raise foreign
    try:
        metadata = json.loads(data.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
        schema = metadata["diffusion_segmentation"]["schema"]
        # Half a character can be read from JSON, and not be written to a report.
        json.dumps(metadata, ensure_ascii=False).encode("utf-8")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise foreign from None
    if type(schema) is not int or not _shallow(metadata):
        raise foreign
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
    """The name of the first entry that is missing or cannot be used, None where all are sound."""
    for entry, holds in _RULES.items():
        try:
            if not holds(metadata, metadata["diffusion_segmentation"]):
                return entry
        except (KeyError, TypeError, AttributeError, ValueError):
            return entry
    return None


def check_network(network: dict[str, Any], classes: int) -> None:
    """Raises ModelError when the `network` entry of the metadata is not one that this version can build."""
    try:
        encoder, denoiser = network["encoder"], network["denoiser"]
        channels, blocks = tuple(encoder["channels"]), tuple(encoder["blocks"])
        light, light_blocks = tuple(denoiser["channels"]), denoiser["blocks"]
        sound = (
            _whole(network.get("dims", 3), 2, 3)
            and 2 <= len(channels) == len(blocks) <= LARGEST_STAGES
            and len(light) == 2
            and all(_whole(n, 8, LARGEST_CHANNELS) and n % 8 == 0 for n in (*channels, *light))
            and all(_whole(n, 1, LARGEST_BLOCKS) for n in (*blocks, light_blocks))
            and _whole(classes, 2, LARGEST_CLASSES)
            and _whole(denoiser.get("strata", 0), 0, LARGEST_STRATA)
            and _number(denoiser.get("gain", 0.0), 0, LARGEST_GAIN)
            and len(denoiser.get("pools", ())) <= LARGEST_POOLS
            and all(_whole(edge, 0, LARGEST_EDGE) for edge in denoiser.get("pools", ()))
        )
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ModelError(
            "The model's metadata describe a network that this version cannot build; update the extension or the model."
        )


def contents(folder: Path, file: str, most: int) -> bytes | None:
    """The bytes of a file of a model folder, or None when it holds more than `most`. Raises ModelError.

    A link is not followed, wherever it leads: a model folder holds its files itself. The folder may be one.
    """
    name = shown(folder)
    try:
        if not stat.S_ISREG(os.lstat(folder / file).st_mode):
            raise ModelError(f"The {file} of the model '{name}' is a link or no file; copy the file itself there.")
        with (folder / file).open("rb") as opened:
            data = opened.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"The model '{name}' lacks its {file}; copy the whole model folder again.") from None
    except (OSError, ValueError):  # ValueError: a name that no file can have
        raise ModelError(
            f"The {file} of the model '{name}' cannot be read; copy the whole model folder again."
        ) from None
    return data if len(data) <= most else None


def shown(folder: Path | str) -> str:
    """A model's folder or name as it goes into a sentence: one line, not the whole path, not too long."""
    name = folder if isinstance(folder, str) else os.path.basename(os.path.abspath(folder))
    name = _HIDDEN.sub("?", name)
    return name if len(name) <= 100 else f"{name[:100]} ..."


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number that is not finite")
    return number


def _shallow(value: Any, most: int = DEEPEST) -> bool:
    """Whether lists and entries are nested `most` times at most: a copy of more would fail."""
    if not isinstance(value, dict | list):
        return True
    return most > 0 and all(_shallow(v, most - 1) for v in (value.values() if isinstance(value, dict) else value))


def _line(text: Any, most: int) -> bool:
    return isinstance(text, str) and 0 < len(text) <= most and not text.isspace() and not _HIDDEN.search(text)


def _text(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= 10_000 and not _HIDDEN.search(re.sub(r"[\t\r\n]", "", text))


def _whole(number: Any, low: int, high: int) -> bool:
    """Whether it is an integer in [low, high]; True and False are none."""
    return type(number) is int and low <= number <= high


def _number(number: Any, low: float, high: float) -> bool:
    return type(number) in (int, float) and low <= number <= high


def _rising_pair(pair: Any, low: float, high: float, least: float = 0.0) -> bool:
    """Whether it is two numbers in [low, high], the second larger by `least` or more."""
    first, second = pair
    return _number(first, low, high) and _number(second, low, high) and second - first >= least


def _sound_labels(labels: Any) -> bool:
    return (
        isinstance(labels, list)
        and 1 <= len(labels) < LARGEST_CLASSES
        and all(_whole(entry["label"], number, number) for number, entry in enumerate(labels, 1))
        and all(_line(entry[key], 200) for entry in labels for key in ("id", "name"))
        and len({entry["id"] for entry in labels}) == len(labels)
        and all(entry["terminology"] == "" or _line(entry["terminology"], 1000) for entry in labels)
        and all(len(entry["color"]) == 3 and all(_number(c, 0, 1) for c in entry["color"]) for entry in labels)
    )


def _sound_window(window: Any, dims: int) -> bool:
    return (
        len(window) == dims
        and all(_whole(n, SMALLEST_EDGE, LARGEST_EDGE) for n in window)
        and math.prod(window) <= LARGEST_WINDOW
    )


def _sound_curve(curve: dict[str, Any]) -> bool:
    """Whether a step grid can be had of it: losses over rising log-SNR."""
    log_snr, losses = curve["log_snr"], curve["cross_entropy"]
    return (
        2 <= len(log_snr) == len(losses) <= LARGEST_CURVE
        and all(_number(value, LOG_SNR_MIN, LOG_SNR_MAX) for value in log_snr)
        and all(low < high for low, high in pairwise(log_snr))
        and all(_number(loss, 0, 1e6) for loss in losses)
    )


def _trained_from(section: dict[str, Any]) -> float:
    """The lowest log-SNR at which the denoiser was trained."""
    return section["process"].get("lowest_log_snr", LOG_SNR_MIN)


def _sound_start(section: dict[str, Any], classes: int) -> bool:
    """Whether a correlated start can be drawn from it: weights of each class that are a correlation, and a log-SNR at
    which the denoiser was trained.
    """
    covariance, log_snr = section["start"]["covariance"], section["start"]["log_snr"]
    scales, weights, shared = covariance["scales_mm"], covariance["weights"], covariance["shared"]
    return (
        1 <= len(scales) <= LARGEST_SCALES
        and all(_number(scale, 1e-2, 500) for scale in scales)
        and len(weights) == len(shared) == classes
        and all(len(row) == len(scales) and all(_number(w, 0, 1) for w in row) for row in weights)
        and all(_number(w, 0, 1) and 0.9 <= sum(row) + w <= 1.1 for row, w in zip(weights, shared, strict=True))
        and (log_snr is None or _number(log_snr, _trained_from(section), LOG_SNR_MAX))
        and (section["start"].get("kept_mm") is None or _number(section["start"]["kept_mm"], 1e-2, 500))
    )


def _sound_training(training: Any) -> bool:
    """Whether it says what it says of the data in the form that an evaluation reads."""
    return all(isinstance(entry, dict) for entry in (training, training.get("data", {})))


def _sound_card(card: Any) -> bool:
    """Whether it holds the scores of heads that the report quotes."""
    return all(
        _line(name, 200)
        and all(_number(head[key], 0, 1) for key in ("mean_dice", "ece"))
        and all(wrong is None or wrong == 0 or _number(wrong, 1e-9, 1) for wrong in head["wrong_at_entropy"].values())
        for name, head in card.get("heads", {}).items()
    ) and all(
        _line(name, 200) and (of.get("coverage_90") is None or _number(of["coverage_90"], 0, 1))
        for name, of in card.get("spread", {}).items()
    )


# By the entry that is named when it does not hold; given the whole of the metadata and our section.
_RULES: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    "version": lambda metadata, _: _line(metadata["version"], 100),
    "description": lambda metadata, _: _text(metadata.get("description", "")),
    "intended_use": lambda metadata, _: _text(metadata.get("intended_use", "")),
    "name": lambda _, s: _line(s["name"], 100) and not re.search(r"[/\\]", s["name"]) and s["name"].strip(". ") != "",
    "title": lambda _, s: _line(s["title"], 200),
    "sha256": lambda _, s: _SHA256.fullmatch(s["sha256"]) is not None,
    "map_source": lambda _, s: "map_prior" in s or s["map_source"] in ("samples", "direct"),
    "map_prior": lambda _, s: _number(s.get("map_prior", 0), 0, LARGEST_PRIOR),
    "start": lambda _, s: (
        _trained_from(s) == LOG_SNR_MIN if s.get("start") is None else _sound_start(s, len(s["labels"]) + 1)
    ),
    "working_spacing_mm": lambda _, s: _number(s["working_spacing_mm"], 0.2, 10),
    "labels": lambda _, s: _sound_labels(s["labels"]),
    "network": lambda _, s: _whole(s["network"].get("dims", 3), 2, 3),
    "window": lambda _, s: _sound_window(s["window"], s["network"].get("dims", 3)),
    "steps": lambda _, s: all(_whole(s["steps"][device], 1, LARGEST_STEPS) for device in ("cpu", "gpu")),
    "process": lambda _, s: (
        _sound_curve(s["process"]["loss_curve"]) and _number(_trained_from(s), LOG_SNR_MIN, LOG_SNR_MAX)
    ),
    "intensity": lambda _, s: (
        s.get("intensity") is None or _rising_pair(s["intensity"]["window"], -1e6, 1e6, least=1e-3)
    ),
    "input_range": lambda _, s: (
        all(_rising_pair(s["input_range"][key], 1e-3, 1e5) for key in ("spacing_mm", "extent_mm"))
        and (s["input_range"].get("modality") is None or _line(s["input_range"]["modality"], 100))
    ),
    "training": lambda _, s: _sound_training(s.get("training", {})),
    "calibration": lambda _, s: _sound_training(s.get("calibration", {})),
    "input_statistics": lambda _, s: (
        s.get("input_statistics") is None or _whole(s["input_statistics"]["scans"], LEAST_SCANS, LARGEST_SCANS)
    ),
    "card": lambda _, s: _sound_card(s.get("card", {})),
}
