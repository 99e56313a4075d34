"""Validation of metadata.json, the description of a model folder.

Model folders are untrusted: file sizes are limited before reading, numbers must be finite and within the range that the
engine supports, and texts must be short and printable because they end up in file headers and on the screen.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN
from ..errors import ModelError, shown
from ..images.input_names import MAX_CHANNELS, intensities_of, valid_inputs
from . import monai_metadata, nnunet_metadata
from .checks import (
    are_integers,
    are_numbers,
    is_integer,
    is_interval,
    is_line,
    is_number,
    is_text,
    valid_digest,
    valid_labels,
    valid_model_name,
)

Rules = dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]]

SCHEMA = 1
DIFFUSION, NNUNET, MONAI = "diffusion", "nnunet", "monai"
"""Kinds of models: an encoder with a denoiser, folds of an nnU-Net, a network of MONAI."""
METADATA = "metadata.json"
MAX_BYTES = 4 * 2**20  # of metadata.json; its longest part, the list of training cases, can have about 100,000 entries
CORRELATED_MM = (1e-3, 2000)  # lengths of a correlated start; pixels of pictures have 0.001 to 100 mm


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read and validate metadata.json. Raises ModelError."""
    data = read_limited(folder, METADATA, MAX_BYTES)
    invalid = file_error(folder, METADATA, "is not valid")
    if data is None:
        raise invalid
    try:
        metadata = json.loads(data.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
        schema = metadata["diffusion_segmentation"]["schema"]
        # JSON can hold lone surrogates, which cannot be written to a report.
        json.dumps(metadata, ensure_ascii=False).encode("utf-8")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise invalid from None
    if type(schema) is not int or not _depth_within(metadata, 100):
        raise invalid
    if schema != SCHEMA:
        raise ModelError(
            f"The model '{folder_name(folder)}' has schema version {schema} and this program reads "
            f"version {SCHEMA}; update the older of the two."
        )
    entry = wrong_entry(metadata)
    if entry is not None:
        raise file_error(folder, METADATA, f"is incomplete or wrong in its entry '{entry}'")
    section = metadata["diffusion_segmentation"]
    digest = _DIGESTS.get(kind(section))
    if digest is not None and section["sha256"] != digest(section):
        raise file_error(folder, METADATA, "differs from its checksum")
    return metadata


def wrong_entry(metadata: dict[str, Any]) -> str | None:
    """Name of the first entry that is missing or invalid; None if there is none."""
    section = metadata["diffusion_segmentation"]
    rules = _RULES_OF_KINDS.get(kind(section))
    if rules is None:
        return "kind"
    for entry, is_valid in rules.items():
        try:
            if not is_valid(metadata, section):
                return entry
        except (KeyError, TypeError, AttributeError, ValueError):
            return entry
    return None


def kind(section: dict[str, Any]) -> str:
    """Kind of a model, by our section of its metadata: DIFFUSION unless it states another one; "" if it is no text."""
    stated = section.get("kind", DIFFUSION)
    return stated if isinstance(stated, str) else ""


def dims(network: dict[str, Any]) -> int:
    """Spatial dimensions of the entry `network`: 3 for volumes, 2 for pictures."""
    return network.get("dims", 3)


def lowest_log_snr(section: dict[str, Any]) -> float:
    """Lowest log-SNR at which the denoiser was trained; a sample cannot start below it."""
    return section["process"].get("lowest_log_snr", LOG_SNR_MIN)


def read_limited(folder: Path, file: str, max_bytes: int) -> bytes | None:
    """Content of a file of a model folder; None if it is larger than `max_bytes`. Raises ModelError.

    The file must not be a symbolic link; the folder may be one.
    """
    name = folder_name(folder)
    try:
        if not stat.S_ISREG(os.lstat(folder / file).st_mode):
            raise ModelError(f"The {file} of the model '{name}' is a link or not a file; copy the file itself there.")
        with (folder / file).open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"The model '{name}' has no {file}; copy the whole model folder again.") from None
    except (OSError, ValueError):  # ValueError: not a valid file name
        raise file_error(folder, file, "cannot be read") from None
    return data if len(data) <= max_bytes else None


def file_error(folder: Path, file: str, problem: str) -> ModelError:
    """Error about a file of a model folder that a new copy of the folder would fix."""
    return ModelError(f"The {file} of the model '{folder_name(folder)}' {problem}; copy the whole model folder again.")


def folder_name(folder: Path) -> str:
    """Name of a model folder for a message, without its parents."""
    return shown(os.path.basename(os.path.abspath(folder)))


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


def _valid_network(network: dict[str, Any]) -> bool:
    encoder, denoiser = network["encoder"], network["denoiser"]
    pools, nested = denoiser.get("pools", ()), denoiser.get("pool_variances", False)
    return (
        is_integer(dims(network), 2, 3)
        and is_integer(network.get("inputs", 1), 1, MAX_CHANNELS)
        and 2 <= len(encoder["channels"]) == len(encoder["blocks"]) <= 6
        and len(denoiser["channels"]) == 2
        and are_integers((*encoder["channels"], *denoiser["channels"]), 8, 512, multiple=8)
        and are_integers((*encoder["blocks"], denoiser["blocks"]), 1, 8)
        and is_integer(denoiser.get("strata", 0), 0, 64)
        and is_number(denoiser.get("gain", 0.0), 0, 64)
        and len(pools) <= 8
        and are_integers(pools, 0, 1024)
        and isinstance(nested, bool)
        and not (nested and len(set(pools)) < len(pools))
        and not (nested and any(large % small for small, large in pairwise(sorted(filter(None, pools)))))
        and isinstance(denoiser.get("facts", False), bool)
    )


def _valid_curve(curve: dict[str, Any]) -> bool:
    """Whether the loss curve has finite losses at rising log-SNR, as the step grid needs."""
    log_snr, losses = curve["log_snr"], curve["cross_entropy"]
    return (
        2 <= len(log_snr) == len(losses) <= 10_000
        and are_numbers(log_snr, LOG_SNR_MIN, LOG_SNR_MAX)
        and all(low < high for low, high in pairwise(log_snr))
        and are_numbers(losses, 0, 1e6)
    )


def _valid_start(section: dict[str, Any]) -> bool:
    """Whether the correlated start has correlations of each class and a log-SNR at which the denoiser was trained."""
    start = section.get("start")
    if start is None:
        return lowest_log_snr(section) == LOG_SNR_MIN
    covariance, log_snr = start["covariance"], start["log_snr"]
    scales, weights, shared = covariance["scales_mm"], covariance["weights"], covariance["shared"]
    return (
        1 <= len(scales) <= 16
        and are_numbers(scales, *CORRELATED_MM)
        and len(weights) == len(shared) == len(section["labels"]) + 1
        and all(len(row) == len(scales) and are_numbers(row, 0, 1) for row in weights)
        and all(is_number(w, 0, 1) and 0.9 <= sum(row) + w <= 1.1 for row, w in zip(weights, shared, strict=True))
        and (log_snr is None or is_number(log_snr, lowest_log_snr(section), LOG_SNR_MAX))
    )


def _valid_frozen(frozen: Any) -> bool:
    """Whether the model stands alone, or names the frozen one on which it was trained by its checksum."""
    if frozen is None:
        return True
    temperatures = (frozen["temperature"], *([frozen["mean_temperature"]] if kind(frozen) != DIFFUSION else []))
    return (
        valid_model_name(frozen["name"])
        and valid_digest(frozen["sha256"])
        and are_numbers(temperatures, 0.05, 20)
        and kind(frozen) in (DIFFUSION, NNUNET, MONAI)
        and nnunet_metadata.valid_cases_of_folds(frozen.get("folds", {}))
        and nnunet_metadata.valid_cases_of_folds(frozen.get("trained", {}))
    )


def _valid_provenance(entry: Any) -> bool:
    """Whether `training` or `calibration` describes its data in the form that an evaluation reads."""
    return isinstance(entry, dict) and isinstance(entry.get("data", {}), dict)


def _valid_own_cases(entry: Any, labels: list[dict[str, Any]]) -> bool:
    """Whether a calibration on labelled cases of one's own is absent, or has what `segmentation.own_cases` reads."""
    if entry is None:
        return True
    rows, held = entry["structures"], ("held50", "held90")
    factors = [row for row in rows if "factor90" in row]
    return (
        is_line(entry["data"]["name"], 200)
        and all(is_line(name, 1000) for name in entry["cases"])
        and is_number(entry["temperature"], 0.05, 20)
        and are_integers((entry["samples"], entry["steps"]), 0, 100_000)
        and all(is_integer(row["label"], 1, len(labels)) for row in rows)
        and all(is_integer(row["cases"], 0, len(entry["cases"])) for row in rows)
        and all(are_numbers((row["factor50"], row["factor90"]), 0, 1e9) for row in factors)
        and all(are_numbers((row["floor50"], row["floor90"]), 0, 1e9) for row in factors)
        and all(are_integers([row[key] for key in held], 0, row["cases"]) for row in factors)
    )


def _valid_card(card: Any) -> bool:
    """Whether the model card has the scores that a report quotes."""
    heads, spread = card.get("heads", {}), card.get("spread", {})
    wrong_shares = (share for head in heads.values() for share in head["wrong_at_entropy"].values())
    coverages = (entry.get("coverage_90") for entry in spread.values())
    return (
        all(is_line(name, 200) for name in (*heads, *spread))
        and all(are_numbers((head["mean_dice"], head["ece"]), 0, 1) for head in heads.values())
        and all(share is None or share == 0 or is_number(share, 1e-9, 1) for share in wrong_shares)
        and all(coverage is None or is_number(coverage, 0, 1) for coverage in coverages)
    )


# Validity of each entry, by the name that a message gives it; called with the whole metadata and our section.
_COMMON_RULES: Rules = {
    "version": lambda metadata, _: is_line(metadata["version"], 100),
    "description": lambda metadata, _: is_text(metadata.get("description", "")),
    "intended_use": lambda metadata, _: is_text(metadata.get("intended_use", "")),
    "name": lambda _, s: valid_model_name(s["name"]),
    "title": lambda _, s: is_line(s["title"], 200),
    "sha256": lambda _, s: valid_digest(s["sha256"]),
    "labels": lambda _, s: valid_labels(s["labels"]),
}
_DIFFUSION_RULES: Rules = {
    "map_source": lambda _, s: "map_prior" in s or s["map_source"] in ("samples", "direct"),
    "map_prior": lambda _, s: is_number(s.get("map_prior", 0), 0, 32),
    "start": lambda _, s: _valid_start(s),
    "working_spacing_mm": lambda _, s: is_number(
        s["working_spacing_mm"], *((0.2, 10) if dims(s["network"]) == 3 else (1e-3, 100))
    ),
    "network": lambda _, s: _valid_network(s["network"]),
    # Smaller windows would be too many for one head, larger ones exceed any memory.
    "window": lambda _, s: (
        len(s["window"]) == dims(s["network"])
        and are_integers(s["window"], 8, 1024)
        and math.prod(s["window"]) <= 2**25
    ),
    "steps": lambda _, s: are_integers((s["steps"]["cpu"], s["steps"]["gpu"]), 1, 1000),
    "frozen": lambda _, s: _valid_frozen(s.get("frozen")),
    "process": lambda _, s: (
        _valid_curve(s["process"]["loss_curve"]) and is_number(lowest_log_snr(s), LOG_SNR_MIN, LOG_SNR_MAX)
    ),
    "inputs": lambda _, s: valid_inputs(s, s["network"].get("inputs", 1)),
    "intensity": lambda _, s: all(
        entry is None or is_interval(entry["window"], -1e6, 1e6, 1e-3) for entry in intensities_of(s)
    ),
    "input_range": lambda _, s: (
        all(is_interval(s["input_range"][key], 1e-3, 1e5) for key in ("spacing_mm", "extent_mm"))
        and s["input_range"].get("unit", "mm") in ("mm", "px")
        and s["input_range"].get("plane", "axial") in ("sagittal", "coronal", "axial")
        and (s["input_range"].get("modality") is None or is_line(s["input_range"]["modality"], 100))
    ),
    "training": lambda _, s: _valid_provenance(s.get("training", {})),
    "calibration": lambda _, s: _valid_provenance(s.get("calibration", {})),
    "own_cases": lambda _, s: _valid_own_cases(s.get("own_cases"), s["labels"]),
    "input_statistics": lambda _, s: (
        s.get("input_statistics") is None
        or (s.get("frozen") is None and is_integer(s["input_statistics"]["scans"], 1, 1_000_000))
    ),
    "card": lambda _, s: _valid_card(s.get("card", {})),
}
_DIGESTS = {NNUNET: nnunet_metadata.digest_of_model, MONAI: monai_metadata.digest_of_model}
_RULES_OF_KINDS = {
    DIFFUSION: {**_COMMON_RULES, **_DIFFUSION_RULES},
    NNUNET: {**_COMMON_RULES, **nnunet_metadata.RULES},
    MONAI: {**_COMMON_RULES, **monai_metadata.RULES},
}
