"""The tables of an evaluation: cells for the page, rows for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...metrics import GATES
from ..joint import OWN, TITLES, control_of, within
from ..store import write_whole
from .formatting import CLASS_SCORES, GATED_SCORES, KNOWN_SCORES, MAP_SCORES, RATER_SCORES, bounds, number, span


@dataclass(frozen=True)
class Cell:
    """Text, what stands small below it, and of a gated score whether it passed (None: no gate)."""

    text: str
    small: str = ""
    passed: bool | None = None


@dataclass(frozen=True)
class Table:
    """A caption, headings and rows of cells; the first cell of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def scored(score: Mapping[str, Any] | None, digits: int = 3, passed: bool | None = None) -> Cell:
    return Cell("-") if score is None else Cell(number(score["value"], digits), span(score, digits), passed)


def known_scores(found: Mapping[str, Any]) -> list[Table]:
    """Scores by row on a task with a known answer, beside what is wanted and what the law itself scores."""
    titles = [found["titles"][key] for key in found["rows"]]
    cases = found["data"]["cases"]
    caption = f"Gates over {cases} cases, and what failing one means; below each score its 95 % bootstrap interval"
    gated = [
        _known_row(found, Cell(title, GATES[name].meaning), name, bounds(name)) for name, title in GATED_SCORES.items()
    ]
    others = [_known_row(found, Cell(title), name, _possible(name, found)) for name, title in KNOWN_SCORES.items()]
    return [
        Table(caption, ["", "wanted", *titles], [row for row in gated if row]),
        Table("Other scores on the same cases", ["", "exact posterior", *titles], [row for row in others if row]),
    ]


def _known_row(found: Mapping[str, Any], title: Cell, name: str, beside: str) -> list[Cell]:
    """One score for every row of the evaluation; empty where none has it."""
    cells = []
    for row in found["rows"].values():
        gate = row["gates"].get(name)
        digits = 1 if name == "strays" else 3
        cells.append(scored(row["scores"].get(name), digits, None if gate is None else gate["passed"]))
    return [title, Cell(beside), *cells] if any(cell.text != "-" for cell in cells) else []


def _possible(name: str, found: Mapping[str, Any]) -> str:
    if name in found["ideal"]:
        return number(found["ideal"][name]["value"])
    if name.startswith(("interval_", "pit_")):
        return f"{int(name[-2:]) / 100:g}"
    return {"strays": "0", "ece": "0, see exact", "entropy_correlation": "1"}.get(name, "")


def joint(found: Mapping[str, Any]) -> list[Table]:
    """Measures of joint samples with the band of a perfect sampler, and the three main ones by structure."""
    rows = []
    for name, title in TITLES.items():
        one, control = found["measures"][name], control_of(name)
        wrong = f"{number(found['controls'][control][name])}" if control else ""
        band = f"{number(one['low'])} to {number(one['high'])}"
        rows.append(
            [Cell(title), Cell(number(one["value"]), passed=one["inside"]), Cell(band), Cell(wrong, control or "")]
        )
    head = ["", f"{found['n']} samples", "a perfect sampler, 99 %", "must be found out"]
    keys = ("z_rms", "coverage_90", "dice_ratio")
    structures = []
    for index, name in enumerate(found["structures"]):
        cells = [Cell(name)]
        for key in keys:
            one = found["measures"][key]
            value, low, high = (one[part][index] for part in ("by_structure", "low_by_structure", "high_by_structure"))
            cells.append(Cell(number(value), f"{number(low)} to {number(high)}", within(one, index)))
        structures.append(cells)
    return [
        Table("All structures together", head, rows),
        Table("By structure, with the band of a perfect sampler", ["", *(TITLES[key] for key in keys)], structures),
    ]


def known_cost(found: Mapping[str, Any], titles: Mapping[str, str]) -> Table:
    rows = [
        [
            Cell(titles[key]),
            Cell(str(row["encoder_passes"])),
            Cell(str(row["denoiser_passes"])),
            Cell(number(row["p50"])),
            Cell(number(row["p95"])),
            Cell(number(row["rho"], 1)),
        ]
        for key, row in found["cost"]["rows"].items()
        if key in found["rows"]
    ]
    head = ["", "encoder passes", "denoiser passes", "seconds, median", "seconds, 95 %", "times a direct pass"]
    memory = gigabytes(found["cost"]["memory_bytes"])
    return Table(
        f"Cost of a case of {found['samples']} samples, the first case left out; peak memory {memory}", head, rows
    )


def gigabytes(memory: Mapping[str, int]) -> str:
    names = {"process_peak": "process", "gpu_peak": "GPU"}
    told = [f"{names[key]} {value / 2**30:.2f} GiB" for key, value in memory.items()]
    return ", ".join(told) or "not known on this system"


def by_class(found: Mapping[str, Any], source: str, title: str) -> Table:
    """Scores of each structure for one source of maps."""
    rows = []
    for row in found["scores"]["maps"][source]["by_class"]:
        rows.append([Cell(row["name"]), *(scored(row[key], digits) for key, (_, digits) in CLASS_SCORES.items())])
    head = ["", *(heading for heading, _ in CLASS_SCORES.values())]
    return Table(
        f"{title}: means over {found['data']['cases']} cases, below each its 95 % bootstrap interval", head, rows
    )


def maps(found: Mapping[str, Any], sources: Mapping[str, str]) -> Table:
    """Scores of the maps as wholes, both sources beside each other."""
    both = found["scores"]["maps"]
    rows = [
        [Cell(title), *(scored(both[source].get(name)) for source in sources)] for name, title in MAP_SCORES.items()
    ]
    rows.insert(
        3, [Cell("what a perfect sampler scores there at most"), Cell(number(found["scores"]["ece_floor"])), Cell("0")]
    )
    return Table("Maps and their uncertainty", ["", *sources.values()], rows)


def levels(found: Mapping[str, Any], sources: Mapping[str, str]) -> Table:
    """Share of wrong voxels at each level of entropy."""
    rows = []
    for entries in zip(*(found["scores"]["maps"][source]["levels"] for source in sources), strict=True):
        low, high = entries[0]["bits"]
        if not any(entry["voxels"] for entry in entries):
            continue
        shares = (
            Cell("-") if e["wrong"] is None else Cell(f"{100 * e['wrong']:.2g} %", f"{e['voxels']:,} voxels")
            for e in entries
        )
        rows.append([Cell(f"{low:g} to {high:g} bits"), *shares])
    return Table("Wrong voxels near the structures, by entropy", ["", *sources.values()], rows)


def samples(found: Mapping[str, Any]) -> Table:
    """Volume intervals, and with several raters the distances between samples and raters."""
    of = found["scores"]["samples"]
    rows = [
        [Cell(f"{level} % intervals hold"), scored(of[f"interval_{level}"])]
        for level in (50, 80, 90)
        if f"interval_{level}" in of
    ]
    if "raters" in of:
        told = f"n = {of['raters']['n']}, m = {' and '.join(map(str, of['raters']['m']))}"
        rows += [[Cell(f"{title}, {told}"), scored(of["raters"][name])] for name, title in RATER_SCORES.items()]
    return Table(f"Samples ({of['n']} a case, {of.get('method', 'no intervals')})", ["", "over cases"], rows)


def folder_cost(found: Mapping[str, Any]) -> Table:
    cost = found["cost"]
    cells = [
        Cell(str(cost["encoder_passes"])),
        Cell(str(cost["denoiser_passes"])),
        Cell(number(cost["p50"], 1)),
        Cell(number(cost["p95"], 1)),
        Cell(number(cost["rho"], 1)),
    ]
    head = ["", "encoder passes", "denoiser passes", "seconds, median", "seconds, 95 %", "times a direct pass"]
    memory = gigabytes(cost["memory_bytes"])
    return Table(
        f"Cost of a case, the first left out; peak memory {memory}", head, [[Cell("from file to files"), *cells]]
    )


def write_csv(path: Path, found: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> None:
    """One line for each case (and row or class) with its own scores."""
    lines = {"known answer": _known_lines, "synthetic heads": _head_lines}.get(found["kind"], _folder_lines)(
        found, records
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(lines)
    write_whole(path, text.getvalue().encode("utf-8"))


def _head_lines(found: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    lines: list[list[Any]] = [["case", "structure", "true_ml", "expected_ml", "mean_of_samples_ml", "sd_of_samples_ml"]]
    for name, record in records.items():
        own = record["rows"][OWN]
        volumes = np.array(own["volumes_ml"])
        for c, label in enumerate(found["data"]["labels"]):
            drawn = volumes[1:, c]
            lines.append([name, label, volumes[0, c], own["expected_ml"][c], drawn.mean(), drawn.std(ddof=1)])
    return lines


def _known_lines(found: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    lines: list[list[Any]] = [
        [
            "case",
            "row",
            "class",
            "volume_mean",
            "volume_variance",
            "true_mean",
            "true_variance",
            "ged_u",
            "risk",
            "seconds",
        ]
    ]
    for name, record in records.items():
        for key, row in record["rows"].items():
            for c, (mean, variance) in enumerate(zip(record["case"]["mean"], record["case"]["variance"], strict=True)):
                own = [row[k][c] if k in row else "" for k in ("volume_mean", "volume_variance")]
                rest = ["" if row.get(k) is None else row[k] for k in ("ged_u", "risk", "seconds")]
                lines.append([name, key, c + 1, *own, mean, variance, *rest])
    return lines


def _folder_lines(found: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    keys = [key for key in CLASS_SCORES if key not in ("ece", "volume_error_percent")]
    lines: list[list[Any]] = [["case", "maps", "class", *keys, "reference_ml", "mean_of_samples_ml", "seconds"]]
    for name, record in records.items():
        drawn = np.mean(record["samples"]["samples_ml"], 0)
        for source, one in record["maps"].items():
            for c, label in enumerate(found["data"]["labels"]):
                lines.append(
                    [
                        name,
                        source,
                        label,
                        *(one[key][c] for key in keys),
                        one["reference_ml"][c],
                        drawn[c],
                        record["cost"]["seconds"],
                    ]
                )
    return lines
