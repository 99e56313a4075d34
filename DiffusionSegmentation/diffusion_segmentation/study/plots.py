"""Figures of a study as PNG. Series differ in colour (safe for colour blindness) and marker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..evaluation.report.figures import COLORS, png, subplots

MARKS = "osD^vP"
SHADES = ("#555555", "#a9a9a9", "#222222", "#cccccc")
WIDE = (10.4, 3.9)
FAR = 3  # times the ideal score, beyond which a score is a number at the edge, so that the others can be told apart
LOG_SNR = "log-SNR (left noise, right mask)"


def dots(
    rows: Mapping[str, Mapping[str, Any]], measures: Mapping[str, str], ideal: Mapping[str, float] | None = None
) -> bytes:
    """Scores with intervals: one panel per measure, one line per row; `rows` by title, scores by the measure's key.

    `ideal` scores are drawn as a vertical line. Where it is not 0, the panel ends at `FAR` times the ideal score, and
    scores beyond stand at the edge as numbers.
    """
    size, names = (WIDE[0], 1.1 + 0.28 * len(rows)), list(rows)
    figure, [panels] = subplots(1, len(measures), size, sharey=True, squeeze=False)
    for axes, (key, title) in zip(panels, measures.items(), strict=True):
        edge = FAR * (ideal or {}).get(key, 0) or np.inf
        if ideal and key in ideal:
            axes.axvline(ideal[key], color="black", lw=0.8, ls=":")
        reach = 0.0
        for at, name in enumerate(names):
            if (score := rows[name][key]) is None:
                continue
            reach = max(reach, score["value"], score["high"] or 0)
            color = COLORS[1] if name.startswith("diffusion") else COLORS[0]
            color = "#555555" if name.startswith("exact") else color
            if score["value"] > edge:
                between = "" if score["high"] is None else f" ({score['low']:.1f} to {score['high']:.1f})"
                text = axes.text(edge, at, f"{score['value']:.1f}{between} → ", color=color, fontsize=8)
                text.set(ha="right", va="center")
            else:
                _bar(axes, score, at, color, MARKS[name.startswith("diffusion")], upright=False)
        axes.set(xlabel=title)
        if reach > edge:
            axes.set_xlim(right=edge)  # at the end, because the other limit is no longer adapted afterwards
        axes.grid(axis="x", color="#e6e6e6", lw=0.8)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return png(figure)


def lines(series: Mapping[str, Sequence[tuple[float, Mapping[str, Any]]]], x: str, y: str) -> bytes:
    """Scores with intervals over a number on a logarithmic axis, one line per series."""
    figure, axes = subplots(size=(6.4, 3.9))
    ticks = sorted({at for points in series.values() for at, _ in points})
    for n, (name, points) in enumerate(series.items()):
        shift = 1.03 ** (n - (len(series) - 1) / 2)
        at = [place * shift for place, _ in points]
        color, mark = COLORS[n % len(COLORS)], MARKS[n % len(MARKS)]
        axes.plot(at, [score["value"] for _, score in points], color=color, lw=1.3, label=name, marker=mark, ms=4)
        for place, (_, score) in zip(at, points, strict=True):
            _bar(axes, score, place, color, mark, upright=True)
    axes.axhline(0, color="black", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel=x, ylabel=y)
    axes.legend(fontsize=7)
    return png(figure)


def noise_levels(series: Mapping[str, Sequence[tuple[Mapping[str, Any], np.ndarray]]], levels: np.ndarray) -> bytes:
    """Error of x0 (left) and noise-prediction loss (right) over log-SNR; one line for each seed of a series."""
    figure, (left, right) = subplots(1, 2, (WIDE[0], WIDE[1] + 0.3))
    for n, (name, seeds) in enumerate(series.items()):
        for k, (curve, noise) in enumerate(seeds):
            error, loss = np.array(curve["error"]).mean(0), noise.mean(0)
            style = dict(color=COLORS[n], lw=1.4, ls=("-", "--", "-.", ":")[n % 4], label=None if k else name)
            left.plot(levels, error / error[0], **style)
            right.plot(levels, loss / max(loss.max(), 1e-12), **style)
    left.axhline(0.5, color="black", lw=0.8, ls=":")
    left.set(xlabel=LOG_SNR, ylabel="error of x0 / error in pure noise", ylim=(0, 1.15))
    right.set(xlabel=LOG_SNR, ylabel="noise-prediction loss / maximum", ylim=(0, 1.05))
    figure.legend(*left.get_legend_handles_labels(), fontsize=7, loc="outside upper center", ncols=4)
    return png(figure)


def path(grids: Sequence[np.ndarray], seeds: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """Dice along the sampler's path and shares of voxels decided, over the steps; one line for each seed."""
    figure, (above, below) = subplots(2, 1, (6.4, 4.6), sharex=True, height_ratios=(2, 1))
    steps = np.arange(1, len(grids[0]) + 1)
    names = {"own": "with the final sample", "reference": "with true masks"}
    for k, one in enumerate(seeds):
        for n, (key, name) in enumerate(names.items()):
            style = dict(color=COLORS[n], marker=MARKS[n], ms=3, lw=1.2, label=None if k else name)
            above.plot(steps, one[key], **style)
        width = 0.8 / len(seeds)
        at = steps + width * (k - (len(seeds) - 1) / 2)
        below.bar(at, one["decided"], width, color=SHADES[k % len(SHADES)], label=f"seed {k + 1}")
    above.set(ylabel="Dice", ylim=(0, 1.02))
    shown = steps[:: max(1, len(steps) // 7)]
    levels = np.mean(grids, axis=0)
    below.set_xticks(shown, [f"{step}\n{levels[step - 1]:.1f}" for step in shown])
    below.set(xlabel="step, and its log-SNR", ylabel="decided here,\nshare of voxels")
    figure.legend(fontsize=7, loc="outside upper center", ncols=4)
    return png(figure)


def heat(values: Mapping[str, float], columns: Sequence[str], marked: Mapping[str, str]) -> bytes:
    """Heat map of the value of each "row, column" key; `marked` maps words to the keys they are written on."""
    rows = list(dict.fromkeys(key.rpartition(", ")[0] for key in values))

    figure, axes = subplots(size=(6.8, 1.2 + 0.42 * len(rows)))
    table = np.array([[values[f"{row}, {column}"] for column in columns] for row in rows])
    axes.imshow(table, cmap="Greys", aspect="auto", vmin=min(0, table.min()), vmax=table.max() * 1.3 or 1)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            words = " ".join(word for word, key in marked.items() if key == f"{row}, {column}")
            color = "white" if table[i, j] > 0.75 * table.max() else "black"
            text = axes.text(j, i, f"{table[i, j]:.4f}" + (f"\n{words}" if words else ""), color=color)
            text.set(ha="center", va="center", fontsize=7, fontweight="bold" if words else "normal")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set(xlabel="step grid", ylabel="training schedule and input scale")
    return png(figure)


def _bar(axes: Axes, score: Mapping[str, Any], at: float, color: str, mark: str, upright: bool) -> None:
    """Draw a score, with its interval if it has one."""
    value, low, high = score["value"], score["low"], score["high"]
    reach = None if low is None or high is None else [[max(0, value - low)], [max(0, high - value)]]
    x, y = (at, value) if upright else (value, at)
    yerr, xerr = (reach, None) if upright else (None, reach)
    axes.errorbar(x, y, yerr, xerr, fmt=mark, ms=4, capsize=2, lw=1.2, color=color)
