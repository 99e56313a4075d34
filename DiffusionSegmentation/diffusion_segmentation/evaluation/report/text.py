"""An evaluation as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...runtime.units import VOLUMES, Units
from ..joint import LAGS, paired_scores
from . import tables
from .formatting import VERDICTS, finer_digits, number, shown
from .tables import Table


def evaluation_text(evaluation: Mapping[str, Any], folder: Path) -> str:
    """The sentences with their verdicts, the scores of the joint samples, and the path of the page."""
    lines = [f"{VERDICTS[s['verdict']]:<14}{s['text']}" for s in evaluation["sentences"]]
    if "joint" in evaluation:
        units = Units(evaluation.get("unit", "ml"))
        lines += ["", joint_text(evaluation["joint"], units, finer_digits(evaluation)), ""]
    return "\n".join([*lines, f"The page is {folder / 'evaluation.html'}"])


def joint_text(scores: Mapping[str, Any], units: Units = VOLUMES, finer: int = 0) -> str:
    """The tables of the joint samples, and the numbers without a band; lengths have `finer` digits more than usual."""
    lines = [line for table in tables.joint(scores, units, finer) for line in (*table_lines(table), "")]
    about, working = scores["describe"], "working pixels" if units.is_area else "mm"
    pairs = ", ".join(
        f"{lag:g} {working} {number(truth)} and {number(sampled)}"
        for lag, truth, sampled in zip(LAGS, about["correlation_truth"], about["correlation_samples"], strict=True)
    )
    widths = ", ".join(number(value, 1 + 2 * finer) for value in about[units.key("interval_90_width")])
    lines += [
        f"Correlation of truth and samples: {pairs}.",
        f"Specks: {about['specks_truth']:.3%} of the truth, {about['specks_samples']:.3%} of the samples.",
        f"Mean width of the 90 % intervals by structure ({units.symbol}): {widths}.",
        f"Dice of the map: {scores['map_dice']:.3f}; expected from the samples: {scores['expected_dice']:.3f}.",
        f"Dice of one sample: {number(about['one_sample_dice'])}.",
    ]
    for name, difference in (scores["against_copula"] or {}).items():
        digits = 4 + 2 * finer * (name == units.key("crps"))
        lines.append(f"{paired_scores(units)[name]}, samples minus copula alone: {shown(difference, digits)}.")
    rank_correlation = number(scores["rank_correlation"])
    return "\n".join([*lines, f"Spearman correlation of sample agreement and Dice of the map: {rank_correlation}."])


def table_lines(table: Table) -> list[str]:
    """Caption, headings and rows in aligned columns; * marks a cell that failed its requirement."""
    cells = ([cell.plain + "*" * (cell.passed is False) for cell in row] for row in table.rows)
    rows = [list(table.head), *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return [f"{table.caption} (* outside the band)", *lines]
