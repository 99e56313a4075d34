"""The request that draws a finished result anew, given facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..images.case_files import Volumes
from ..model.folder import find
from ..model.metadata import read_metadata
from .request import Request
from .result_folder import FACTS, REPORT


def update_request(
    result: Path, volume: Volumes, facts: Path, output: Path, model: str | None = None, **options: Any
) -> Request:
    """Request for the same samples as those of the finished run in `result`, given the labels in the file `facts`.

    Facts of an earlier update in `result` stay, unless `facts` has another label there. The seed, and with it the noise
    of each sample, is the same, so that the samples change where the facts say something. `model` is by default the
    installed one of the report's name; `options` are further fields of the request.

    Raises InputError where `result` has no report of a run, or the model is not the one of the result; ModelError where
    there is no such model.
    """
    try:
        report: Any = json.loads((result / REPORT).read_text(encoding="utf-8"))
        name, digest = report["model"]["name"], report["model"]["sha256"]
        samples, steps, seed = int(report["samples"]), int(report["steps"]), int(report["seed"])
        sha256, rounds = report["input"]["sha256"], int(report.get("facts", {}).get("rounds", 0))
        asked = tuple(answer["question"] for answer in report.get("answers", ()))
        region_mm = float(report["region_mm"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"'{result.name}' is not the folder of a finished run of `segment`; name one with a report.json."
        ) from None
    chosen = model or name
    if read_metadata(find(chosen))["diffusion_segmentation"]["sha256"] != digest:
        raise InputError(
            f"The result in '{result.name}' was made by another version of the model '{chosen}'; name the folder of "
            "that one with --model, or segment again."
        )
    earlier = (result / FACTS,) if rounds else ()
    return Request(
        volume,
        output,
        chosen,
        samples=max(1, samples),
        steps=steps or None,
        seed=seed,
        region_mm=region_mm,
        ask=asked,
        facts=(*earlier, facts),
        rounds=rounds + 1,
        sha256=sha256,
        **options,
    )
