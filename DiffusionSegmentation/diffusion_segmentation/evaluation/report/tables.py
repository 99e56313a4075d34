"""The tables of an evaluation as cells, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...metrics import GATES
from ...runtime.units import VOLUMES, Units
from ..joint import controls, titles, within
from ..known_answer.posterior import LEVELS
from .formatting import (
    GATED_SCORES,
    KNOWN_SCORES,
    RATER_SCORES,
    class_scores,
    finer_digits,
    map_scores,
    number,
    span,
)


@dataclass(frozen=True)
class Cell:
    """Text, small text below it, and whether a score passed its requirement (None: no requirement)."""

    text: str
    small: str = ""
    passed: bool | None = None

    @property
    def plain(self) -> str:
        """The text, and the small text in brackets."""
        return f"{self.text} ({self.small})" if self.small else self.text


@dataclass(frozen=True)
class Table:
    """Caption, headings and rows of cells; the first cell of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def scored(score: Mapping[str, Any] | None, digits: int = 3, passed: bool | None = None) -> Cell:
    """A score with its interval below; a dash for None."""
    return Cell("-") if score is None else Cell(number(score["value"], digits), span(score, digits), passed)


def known_scores(evaluation: Mapping[str, Any]) -> list[Table]:
    """Scores by row on a task with a known answer, beside the requirement and the score of the exact posterior."""
    titles = [evaluation["titles"][key] for key in evaluation["rows"]]
    caption = f"Gates over {evaluation['data']['cases']} cases; below each score its 95 % bootstrap interval"
    gated = [
        _known_row(evaluation, Cell(title, f"outside: {GATES[name].meaning}"), name, GATES[name].bounds)
        for name, title in GATED_SCORES.items()
    ]
    others = [
        _known_row(evaluation, Cell(title), name, _exact(name, evaluation)) for name, title in KNOWN_SCORES.items()
    ]
    return [
        Table(caption, ["", "required", *titles], [row for row in gated if row]),
        Table("Other scores on the same cases", ["", "exact posterior", *titles], [row for row in others if row]),
    ]


def _known_row(evaluation: Mapping[str, Any], title: Cell, name: str, reference: str) -> list[Cell]:
    """One score of every row of the evaluation; empty if no row has it."""
    cells = []
    for row in evaluation["rows"].values():
        gate = row["gates"].get(name)
        digits = 1 if name == "strays" else 3
        cells.append(scored(row["scores"].get(name), digits, None if gate is None else gate["passed"]))
    return [title, Cell(reference), *cells] if any(cell.text != "-" for cell in cells) else []


def _exact(name: str, evaluation: Mapping[str, Any]) -> str:
    """The score of the exact posterior."""
    if name in evaluation["ideal"]:
        return number(evaluation["ideal"][name]["value"])
    if name.startswith(("interval_", "pit_")):
        return f"{int(name[-2:]) / 100:g}"
    return {"strays": "0", "ece": "0; see exact sampler", "entropy_correlation": "1"}.get(name, "")


def joint(scores: Mapping[str, Any], units: Units = VOLUMES, finer: int = 0) -> list[Table]:
    """Measures of joint samples with the band of a perfect sampler, and the three main ones by structure.

    Lengths have `finer` digits more than usual.
    """
    rows, wrong_samplers = [], controls(units)
    for name, title in titles(units).items():
        one, control = scores["measures"][name], wrong_samplers.get(name)
        digits = 3 + 2 * finer * (name == units.key("crps"))
        wrong = Cell(number(scores["controls"][control][name], digits), control) if control else Cell("")
        band = f"{number(one['low'], digits)} to {number(one['high'], digits)}"
        rows.append([Cell(title), Cell(number(one["value"], digits), passed=one["inside"]), Cell(band), wrong])
    main = [(key, scores["measures"][key]) for key in ("z_rms", "coverage_90", "dice_ratio")]
    structures = []
    for index, name in enumerate(scores["structures"]):
        cells = [Cell(name)]
        for _, one in main:
            value, low, high = (one[part][index] for part in ("by_structure", "low_by_structure", "high_by_structure"))
            cells.append(Cell(number(value), f"{number(low)} to {number(high)}", within(one, index)))
        structures.append(cells)
    head = ["", f"{scores['n']} samples", "perfect sampler, 99 %", "wrong sampler to detect"]
    by_structure = ["", *(titles(units)[key] for key, _ in main)]
    return [
        Table("All structures together", head, rows),
        Table("By structure; below each value the 99 % band of a perfect sampler", by_structure, structures),
    ]


def by_class(evaluation: Mapping[str, Any], source: str, title: str) -> Table:
    """Scores of each structure for one source of maps."""
    scores = class_scores(Units(evaluation["unit"]), finer_digits(evaluation))
    rows = [
        [Cell(row["name"]), *(scored(row[key], digits) for key, (_, digits) in scores.items())]
        for row in evaluation["scores"]["maps"][source]["by_class"]
    ]
    caption = f"{title}: means over {evaluation['data']['cases']} cases; below each its 95 % bootstrap interval"
    return Table(caption, ["", *(heading for heading, _ in scores.values())], rows)


def maps(evaluation: Mapping[str, Any], sources: Mapping[str, str]) -> Table:
    """Scores of the whole maps, one column per source."""
    both, scores = evaluation["scores"]["maps"], map_scores(Units(evaluation["unit"]))
    rows = [[Cell(title), *(scored(both[source].get(name)) for source in sources)] for name, title in scores.items()]
    floor = Cell(number(evaluation["scores"]["ece_floor"]))
    rows.insert(list(scores).index("ece") + 1, [Cell("highest ECE of a perfect sampler"), floor, Cell("0")])
    return Table("Maps and their uncertainty", ["", *sources.values()], rows)


def levels(evaluation: Mapping[str, Any], sources: Mapping[str, str]) -> Table:
    """Share of wrong voxels by level of entropy."""
    rows, cell = [], Units(evaluation["unit"]).cell
    for entries in zip(*(evaluation["scores"]["maps"][source]["levels"] for source in sources), strict=True):
        low, high = entries[0]["bits"]
        if any(entry["voxels"] for entry in entries):
            shares = (
                Cell("-") if e["wrong"] is None else Cell(f"{100 * e['wrong']:.2g} %", f"{e['voxels']:,} {cell}s")
                for e in entries
            )
            rows.append([Cell(f"{low:g} to {high:g} bits"), *shares])
    return Table(f"Wrong {cell}s near the structures by entropy", ["", *sources.values()], rows)


def samples(evaluation: Mapping[str, Any]) -> Table:
    """Coverage of the volume intervals, and with several raters the distances between samples and raters."""
    scores = evaluation["scores"]["samples"]
    intervals = [f"interval_{level}" for level in LEVELS if f"interval_{level}" in scores]
    rows = [[Cell(KNOWN_SCORES[key]), scored(scores[key])] for key in intervals]
    if "raters" in scores:
        raters = scores["raters"]
        sizes = f"n = {raters['n']}, m = {' and '.join(map(str, raters['m']))}"
        rows += [[Cell(f"{title}, {sizes}"), scored(raters[name])] for name, title in RATER_SCORES.items()]
    return Table(f"Samples ({scores['n']} per case; {scores.get('method', 'no intervals')})", ["", "all cases"], rows)


def cost(caption: str, costs: Mapping[str, Mapping[str, Any]], memory: Mapping[str, int], digits: int) -> Table:
    """Costs of a case by title, seconds with `digits`, and the peak memory in bytes."""
    rows = [
        [
            Cell(title),
            *(Cell(str(cost[key])) for key in ("encoder_passes", "denoiser_passes")),
            *(Cell(number(cost[key], digits)) for key in ("p50", "p95")),
            Cell(number(cost["rho"], 1)),
        ]
        for title, cost in costs.items()
    ]
    head = ["", "encoder passes", "denoiser passes", "seconds (median)", "seconds (95 %)", "ratio to direct pass"]
    return Table(f"{caption}, without the first case; peak memory {gigabytes(memory)}", head, rows)


def gigabytes(memory: Mapping[str, int]) -> str:
    names = {"process_peak": "process", "gpu_peak": "GPU"}
    return ", ".join(f"{names[key]} {value / 2**30:.2f} GiB" for key, value in memory.items()) or "unknown"
