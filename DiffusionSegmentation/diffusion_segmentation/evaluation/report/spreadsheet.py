"""cases.csv: the scores of each case, for a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.units import Units
from ..joint import MODEL
from ..store import Records, write_rows
from .formatting import class_scores

Rows = Iterator[list[Any]]


def write_csv(path: Path, evaluation: Mapping[str, Any], records: Records) -> None:
    """One row for each case and class, with its row or source of maps. Raises DiffusionSegmentationError."""
    rows = {"known answer": _known_rows, "synthetic heads": _head_rows}.get(evaluation["kind"], _folder_rows)
    write_rows(path, rows(evaluation, records))


def _head_rows(evaluation: Mapping[str, Any], records: Records) -> Rows:
    yield ["case", "structure", "true_ml", "expected_ml", "mean_of_samples_ml", "sd_of_samples_ml"]
    for name, record in records.items():
        row = record["rows"][MODEL]
        volumes = np.array(row["volumes_ml"])
        for c, label in enumerate(evaluation["data"]["labels"]):
            sampled = volumes[1:, c]
            yield [name, label, volumes[0, c], row["expected_ml"][c], sampled.mean(), sampled.std(ddof=1)]


def _known_rows(evaluation: Mapping[str, Any], records: Records) -> Rows:
    sampled, scores = ("volume_mean", "volume_variance"), ("ged_u", "risk", "seconds")
    yield ["case", "row", "class", *sampled, "true_mean", "true_variance", *scores]
    for name, record in records.items():
        for key, row in record["rows"].items():
            for c, (mean, variance) in enumerate(zip(record["case"]["mean"], record["case"]["variance"], strict=True)):
                volumes = [row[k][c] if k in row else "" for k in sampled]
                others = ["" if row.get(k) is None else row[k] for k in scores]
                yield [name, key, c + 1, *volumes, mean, variance, *others]


def _folder_rows(evaluation: Mapping[str, Any], records: Records) -> Rows:
    units = Units(evaluation["unit"])
    keys = [key for key in class_scores(units) if key not in ("ece", "volume_error_percent")] + [units.key("reference")]
    yield ["case", "maps", "class", *keys, units.key("mean_of_samples"), "seconds"]
    for name, record in records.items():
        sampled = np.mean(record["samples"][units.key("samples")], 0)
        for source, scores in record["maps"].items():
            for c, label in enumerate(evaluation["data"]["labels"]):
                yield [name, source, label, *(scores[key][c] for key in keys), sampled[c], record["cost"]["seconds"]]
