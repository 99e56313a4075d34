"""The page `cohort.html`: cases in the order in which to look at them. It needs no connection; pictures are files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from ..runtime import html_page
from ..runtime.units import Units
from .triage_rows import Row

WIDTH, HEIGHT = 130, 18  # pixels of a strip
BINS = 26

_STYLE = """<style>
.triage td { vertical-align: middle; white-space: nowrap; }
.triage td:first-child { min-width: 0; }
.triage img { width: 200px; height: auto; display: block; background: #000; }
.triage td.name { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; max-width: 16rem; }
.triage td.sizes { text-align: left; }
.size { display: grid; grid-template-columns: 11rem 130px auto; gap: 0 .6rem; align-items: center; }
.size span:first-child { overflow: hidden; text-overflow: ellipsis; }
.strip { display: block; }
.strip use { fill: #d9dbe0; } .strip line { stroke: #1c1c1e; stroke-width: 1.5; } .strip circle { fill: #b3261e; }
.orders button { font: inherit; padding: .2rem .7rem; margin-right: .4rem; }
.orders button[aria-pressed=true] { font-weight: 650; }
@media print { .orders { display: none; } .triage img { width: 110px; } }
</style>"""

# Each row has its place in each order as an attribute.
_SCRIPT = """<script>
document.querySelectorAll(".orders button").forEach(function (button, _n, all) {
  button.addEventListener("click", function () {
    var body = document.querySelector(".triage tbody"), key = button.dataset.order;
    Array.from(body.rows)
      .sort(function (a, b) { return a.dataset[key] - b.dataset[key]; })
      .forEach(function (row) { body.appendChild(row); });
    all.forEach(function (one) { one.setAttribute("aria-pressed", one === button); });
  });
});
</script>"""


def page(rows: Sequence[Row], checked: Sequence[Row], problems: Mapping[str, str], left: int, pictures: str) -> str:
    """The page of finished cases, `rows` by expected Dice and `checked` by the input check.

    Args:
        problems: sentences of the cases that failed, by their names.
        left: number of cases that have not run yet.
        pictures: folder of the PNG files, relative to the page.
    """
    counts = f"{len(rows)} {'case is' if len(rows) == 1 else 'cases are'} done, {len(problems)} failed, {left} left."
    body = [html_page.paragraph(f"{counts} Not for clinical use.", "note"), _STYLE]
    if rows:
        body += [html_page.paragraph(text) for text in _reading(rows)]
        body += [_orders(rows), _table(rows, checked, pictures), _SCRIPT]
    if problems:
        body += [html_page.heading("Failed cases"), html_page.text_table(["Case", "Why"], [*problems.items()], (1,))]
    return html_page.page("Cohort: which cases to look at first", "\n".join(body) + "\n")


def _reading(rows: Sequence[Row]) -> list[str]:
    """How to read the table."""
    texts = [
        "Expected Dice is the mean Dice of two samples of a case: low where the samples disagree. It is blind to "
        "errors that all samples share. Cases without samples have none and come last.",
        "Strips show a size among those of all cases of the same model: grey the distribution, the dot this case, the "
        "line its 90 % interval; what lies outside the strip is drawn at its edge. Pictures show the most uncertain "
        "region, outlines of the segmentation, and entropy from blue to yellow (1 bit or more).",
    ]
    if any(row["distance"] is not None for row in rows):
        texts.insert(
            1,
            "The input check is the distance of a scan from those that the model was made for; beyond the limit the "
            "segmentation should be checked whatever its expected Dice.",
        )
    return texts


def _orders(rows: Sequence[Row]) -> str:
    buttons = [("dice", "By expected Dice"), ("name", "By name")]
    if any(row["distance"] is not None for row in rows):
        buttons.insert(1, ("check", "Warned scans first"))
    texts = (
        f'<button type="button" data-order="{order}" aria-pressed="{str(not n).lower()}">{text}</button>'
        for n, (order, text) in enumerate(buttons)
    )
    return f'<p class="orders">{"".join(texts)}</p>'


def _table(rows: Sequence[Row], checked: Sequence[Row], pictures: str) -> str:
    scales = _scales(rows)
    names = sorted(rows, key=lambda row: row["case"])
    places: dict[str, list[int]] = {row["case"]: [] for row in rows}  # two names may have one result
    for order in (rows, checked, names):
        for n, row in enumerate(order):
            places[row["case"]].append(n)
    several = len({row["model"] for row in rows}) > 1
    lines = []
    for row in rows:
        dice, check, name = places[row["case"]]
        cells = [_picture(row, pictures), _name(row, several), _dice(row), _check(row), _sizes(row, scales)]
        lines.append(f'<tr data-dice="{dice}" data-check="{check}" data-name="{name}">{"".join(cells)}</tr>')
    head = "".join(
        f"<th{style}>{text}</th>"
        for text, style in (
            ("Most uncertain region", ""),
            ("Case", ' class="text"'),
            ("Expected Dice", ""),
            ("Input check", ""),
            ("Sizes in the cohort", ' class="text"'),
        )
    )
    shapes = "".join(scale.shape for scale in scales.values())
    return (
        f'<svg width="0" height="0" style="position:absolute"><defs>{shapes}</defs></svg>'
        f'<div class="wide"><table class="triage"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )


def _picture(row: Row, pictures: str) -> str:
    text = f"{' or '.join(row['region'])}" if row["region"] else "no uncertain region"
    note = text if row["image_read"] else f"{text}; the image could not be read"
    return (
        f'<td><img loading="lazy" alt="{escape(text)}" src="{pictures}/{escape(row["key"])}.png">'
        f"<small>{escape(note)}</small></td>"
    )


def _name(row: Row, several_models: bool) -> str:
    model = f"<small>{escape(row['model'])}</small>" if several_models else ""
    return f'<td class="text name"><b>{escape(row["case"])}</b>{model}</td>'


def _dice(row: Row) -> str:
    if row["expected_dice"] is None:
        return "<td>–<small>no samples</small></td>"
    lowest = min(row["structures"], key=lambda one: one["expected_dice"])
    worst = f"{escape(lowest['name'])} {lowest['expected_dice']:.2f}"
    return f"<td><b>{row['expected_dice']:.3f}</b><small>{worst}</small></td>"


def _check(row: Row) -> str:
    if row["distance"] is None:
        return "<td>–<small>not checked</small></td>"
    text = f"{row['distance']:.1f}<small>limit {row['limit']:.1f}</small>"
    return f'<td class="failed"><b>unlike</b> {text}</td>' if row["unlike"] else f"<td>{text}</td>"


class _Scale:
    """Axis of the sizes of one structure, and their distribution as a shape of SVG."""

    def __init__(self, sizes: Sequence[float], identity: str) -> None:
        """The axis ends at the extremes, but at most four interquartile ranges from the median."""
        values = np.array(sizes)
        q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75])
        low = max(values.min(), median - 4 * (q3 - q1)) if q3 > q1 else values.min()
        high = min(values.max(), median + 4 * (q3 - q1)) if q3 > q1 else values.max()
        margin = 0.08 * (high - low) or 0.1 * abs(median) or 1.0
        self.low, self.high, self.identity = float(low - margin), float(high + margin), identity
        counts = np.histogram(np.clip(values, self.low, self.high), BINS, (self.low, self.high))[0]
        heights = HEIGHT * counts / counts.max()
        step = WIDTH / BINS
        bars = "".join(
            f"M{n * step:g} {HEIGHT}v{-height:.1f}h{step:g}v{height:.1f}z" for n, height in enumerate(heights) if height
        )
        self.shape = f'<path id="{identity}" d="{bars}"/>'

    def at(self, size: float) -> float:
        """Place of a size in pixels, inside the strip."""
        return float(np.clip((size - self.low) / (self.high - self.low), 0.01, 0.99)) * WIDTH


def _scales(rows: Sequence[Row]) -> dict[tuple[str, str, str], _Scale]:
    sizes: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        for one in row["structures"]:
            sizes.setdefault((row["model"], row["unit"], one["name"]), []).append(one["size"])
    return {key: _Scale(values, f"d{n}") for n, (key, values) in enumerate(sizes.items())}


def _sizes(row: Row, scales: Mapping[tuple[str, str, str], _Scale]) -> str:
    symbol, lines = Units(row["unit"]).symbol, []
    for one in row["structures"]:
        scale, bounds = scales[row["model"], row["unit"], one["name"]], one["interval90"]
        middle = HEIGHT / 2
        text, line = f"{_number(one['size'])} {symbol}", ""
        if bounds is not None:
            text += f" ({_number(bounds[0])} – {_number(bounds[1])})"
            line = (
                f'<line x1="{scale.at(bounds[0]):.1f}" x2="{scale.at(bounds[1]):.1f}" y1="{middle:g}" y2="{middle:g}"/>'
            )
        lines.append(
            f'<div class="size"><span title="{escape(one["name"])}">{escape(one["name"])}</span>'
            f'<svg class="strip" width="{WIDTH}" height="{HEIGHT}"><use href="#{scale.identity}"/>{line}'
            f'<circle cx="{scale.at(one["size"]):.1f}" cy="{middle:g}" r="3"/></svg><span>{text}</span></div>'
        )
    return f'<td class="sizes">{"".join(lines)}</td>'


def _number(size: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 2 - math.floor(math.log10(abs(size))) if size else 1
    return f"{size:,.{min(max(digits, 0), 3)}f}"
