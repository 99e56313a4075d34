"""Triage of a cohort: which of many finished cases to look at first.

Writes into the folder of a cohort `cohort.html`, `cohort.csv`, `triage.json`, which Slicer reads, and a picture of each
case in `thumbnails/`. Cases are ordered by their expected Dice, the lowest first.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..images.writing import atomic_file, write_report
from . import triage_page
from .triage_picture import write_picture
from .triage_rows import Row, by_expected_dice, by_input_check, read_row

INDEX, TRIAGE, PAGE, TABLE = "cohort.json", "triage.json", "cohort.html", "cohort.csv"
THUMBNAILS = "thumbnails"
VERSION = 1
COLUMNS = [
    *("key", "case", "model", "structure", "unit", "size", "mask"),
    *("interval50_low", "interval50_high", "interval90_low", "interval90_high"),
    *("precision_weight", "expected_dice", "expected_dice_of_case", "input_distance", "input_limit"),
]


def write_triage(folder: Path) -> None:
    """Write the page, the table and the pictures of the cases that are done; again while further cases end.

    Rows and pictures of cases whose report is unchanged are kept. Raises InputError if the index cannot be read, and
    DiffusionSegmentationError if a file cannot be written.
    """
    try:
        cases = json.loads((folder / INDEX).read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"'{folder.name}' has no readable {INDEX}; choose the folder that the command cohort wrote."
        ) from error
    known, pictures = _known(folder), folder / THUMBNAILS
    pictures.mkdir(exist_ok=True)
    rows, problems = [], {}
    for case in cases:
        if case["state"] == "done":
            try:
                rows.append(_row(folder, case, known.get(case["key"])))
            except (OSError, RuntimeError, ValueError, LookupError, TypeError):
                problems[case["case"]] = "The result cannot be read; delete its folder and run the command again."
        elif case["state"] == "failed":
            problems[case["case"]] = case["error"] or "The case failed for an unknown reason."
    rows = by_expected_dice(rows)
    write_report(folder / TRIAGE, {"version": VERSION, "cases": rows})
    left = sum(case["state"] == "left" for case in cases)
    _write_text(folder / TABLE, "\ufeff" + table(rows))
    _write_text(folder / PAGE, triage_page.page(rows, by_input_check(rows), problems, left, THUMBNAILS))


def table(rows: Sequence[Row]) -> str:
    """CSV with a row for each case and structure; what a case does not have is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        for one in row["structures"]:
            bounds = [bound for key in ("interval50", "interval90") for bound in one[key] or (None, None)]
            case = [row[key] for key in ("key", "case", "model")]
            sizes = [one["name"], row["unit"], one["size"], one["mask"], *bounds]
            scores = [one["precision_weight"], one["expected_dice"], row["expected_dice"]]
            writer.writerow([*case, *sizes, *scores, row["distance"], row["limit"]])
    return text.getvalue()


def _row(folder: Path, case: Mapping[str, Any], known: Row | None) -> Row:
    """The row of a finished case, with its picture in place."""
    key = case["key"]
    result, picture = folder / "cases" / key, folder / THUMBNAILS / f"{key}.png"
    report = result / "report.json"
    if known is not None and known["written_ns"] == report.stat().st_mtime_ns and picture.is_file():
        return {**known, "case": case["case"]}
    row = read_row(case, report)
    image = Path(case["inputs"][0])
    row["image_read"] = write_picture(picture, result, image, row["series_uid"], row["peak_ras_mm"])
    return row


def _known(folder: Path) -> dict[str, Row]:
    """Rows of an earlier call by the key of their case."""
    try:
        content = json.loads((folder / TRIAGE).read_text(encoding="utf-8"))
        return {row["key"]: row for row in content["cases"]} if content["version"] == VERSION else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))
