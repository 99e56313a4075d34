"""The figures of an evaluation as PNG: scores over their levels, and pictures of single cases."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...runtime.units import VOLUMES, Units

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Safe for colour blindness (Okabe and Ito)."""
FIXED = {"exact sampler": "#555555", "direct head": "#e69f00"}
"""Series with the same colour in all figures."""
DPI = 150
SIZE = (4.8, 3.9)
PANEL_INCHES = 1.75
OPACITY = 0.55


def subplots(rows: int = 1, columns: int = 1, size: tuple[float, float] = SIZE, **options: Any) -> tuple[Figure, Any]:
    """A new figure and its axes, as in `matplotlib.pyplot`; `size` in inches."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def reliability(series: Mapping[str, Mapping[str, Any]], units: Units = VOLUMES) -> bytes:
    """Accuracy over confidence with voxel counts below; `series` by name, each from `pooling.diagram`."""
    figure, (above, below) = subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
    lowest = 1.0
    for color, name, content in _colored(series):
        diagram = {key: np.array(values, float) for key, values in content.items()}  # NaN for None
        filled = np.isfinite(diagram["confidence"])
        x, y, low, high = (diagram[key][filled] for key in ("confidence", "accuracy", "low", "high"))
        lowest = min([lowest, *x])
        above.plot(x, y, "o-", ms=3, lw=1.2, color=color, label=name)
        low, high = (np.where(np.isfinite(bound), bound, y) for bound in (low, high))
        above.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
        below.stairs(diagram["counts"], np.linspace(0, 1, len(diagram["counts"]) + 1), color=color, lw=1.2)
    has_counts = any(any(content["counts"]) for content in series.values())
    above.set(ylabel="accuracy", xlim=(max(0, lowest - 0.05) if has_counts else 0, 1.005), ylim=(0, 1.02))
    above.legend(fontsize=7, loc="upper left")
    below.set(xlabel="probability of the chosen class", ylabel=f"{units.cell}s")
    if has_counts:
        below.set_yscale("log")
    return png(figure)


def risk_coverage(series: Mapping[str, Mapping[str, Any]], risk: str) -> bytes:
    """Mean risk of the most confident cases; `risk` is the label of the axis. Dashed: the best possible order."""
    figure, axes = subplots()
    for color, name, content in _colored(series):
        axes.plot(content["share"], content["risk"], color=color, lw=1.4, label=name, drawstyle="steps-post")
        axes.plot(content["share"], content["oracle"], color=color, lw=0.9, ls="--")
    axes.set(xlabel="share of cases, most confident first", ylabel=risk, xlim=(0, 1.01))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, title="dashed: best possible order", title_fontsize=7)
    return png(figure)


def ranks(series: Mapping[str, Any], volumes: int | None, units: Units = VOLUMES) -> bytes:
    """Rank histograms as shares; `volumes` is their number, for the band of counting noise, None for no band."""
    figure, axes = subplots()
    bins = len(next(iter(series.values())))
    flat = 1 / bins
    if volumes:
        noise = 1.96 * np.sqrt(flat * (1 - flat) / volumes)
        low, high = max(0, flat - noise), flat + noise
        axes.axhspan(low, high, color="#dddddd", lw=0, label="perfect sampler, 95 % of bars")
    axes.axhline(flat, color="black", lw=0.8, ls=":")
    width = 0.8 / len(series)
    for n, (color, name, counts) in enumerate(_colored(series)):
        at = np.arange(bins) + (n - (len(series) - 1) / 2) * width
        axes.bar(at, np.array(counts, float) / max(np.sum(counts), 1e-12), width, color=color, label=name)
    axes.set(xlabel=f"samples with a smaller {units.what} than the true one, of {bins - 1}", ylabel="share")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.legend(fontsize=7)
    return png(figure)


def coverage(series: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> bytes:
    """Coverage of volume intervals over their level (%); scores with bounds by level."""
    figure, axes = subplots()
    axes.plot([0.4, 1], [0.4, 1], color="black", lw=0.8, ls=":")
    for n, (color, name, levels) in enumerate(_colored(series)):
        at = np.array(list(levels)) / 100 + 0.006 * (n - (len(series) - 1) / 2)
        scores = [[score["value"], score["low"], score["high"]] for score in levels.values()]
        value, low, high = np.array(scores, float).T  # NaN for None
        reach = np.nan_to_num(np.stack([value - low, high - value]).clip(0))
        axes.errorbar(at, value, reach, fmt="o-", ms=4, lw=1.2, capsize=2, color=color, label=name)
    axes.set(xlabel="level", ylabel="coverage", xlim=(0.45, 0.95), ylim=(0, 1.02), xticks=(0.5, 0.8, 0.9))
    axes.legend(fontsize=7)
    return png(figure)


def entropy_levels(series: Mapping[str, list[Mapping[str, Any]]], units: Units = VOLUMES) -> bytes:
    """Share of wrong voxels over entropy."""
    figure, axes = subplots()
    for color, name, levels in _colored(series):
        filled = [level for level in levels if level["wrong"] is not None]
        at = [" to ".join(f"{bits:g}" for bits in level["bits"]) for level in filled]
        axes.plot(at, [level["wrong"] for level in filled], "o-", ms=4, lw=1.2, color=color, label=name)
    axes.set(xlabel="entropy (bits)", ylabel=f"share of wrong {units.cell}s", ylim=(0, 1))
    axes.tick_params("x", labelsize=7, rotation=30)
    axes.legend(fontsize=7)
    return png(figure)


def pick_cases(order: Mapping[str, float]) -> dict[str, str]:
    """Names of the worst, median and best case by a number that is large for bad ones: {"worst": name, ...}."""
    ranked = sorted(order, key=lambda name: -order[name])
    last = len(ranked) - 1
    words = {last: "best", last // 2: "median", 0: "worst"}  # later entries win: with one case it is the worst
    return {words[place]: name for place, name in enumerate(ranked) if place in words}


def case_strip(picture: Mapping[str, np.ndarray], truth: str, colors: Sequence[Sequence[float]] | None = None) -> bytes:
    """One case as a row of panels: image, truth (headed `truth`), consensus, entropy, two samples.

    `picture` has arrays [j, i] as the case store holds them, "image" also [j, i, 3] in colour, "spacing" in mm or
    pixels; `colors` of the foreground classes.
    Labels are overlaid on the image; the entropy has a colour bar in bits.
    """
    first, second = picture["samples"][:2]
    maps = {truth: picture["truth"], "consensus": picture["consensus"], "a sample": first, "another sample": second}
    entropies = {"entropy (bits)": picture["entropy"]}
    if "exact_entropy" in picture:
        entropies["exact entropy (bits)"] = picture["exact_entropy"]
    headings = ["image", *list(maps)[:2], *entropies, *list(maps)[2:]]
    most = max(1, *(int(mask.max()) for mask in maps.values()))
    palette = ListedColormap([tuple(color) for color in colors] if colors else list(COLORS[:most]))
    grey = picture["image"].astype(float)
    aspect = float(picture["spacing"][0] / picture["spacing"][1])
    height = PANEL_INCHES * min(2.0, max(0.5, grey.shape[0] * aspect / grey.shape[1])) + 0.35
    options = {"aspect": aspect, "interpolation": "nearest"}

    figure, row = subplots(1, len(headings), (PANEL_INCHES * len(headings), height))
    panels = dict(zip(headings, row, strict=True))
    for heading, axes in panels.items():
        axes.set_title(heading, fontsize=8)
        axes.set_axis_off()
        if heading not in entropies:
            axes.imshow(grey, cmap="gray", **options)
    for heading, mask in maps.items():
        overlay = {"cmap": palette, "vmin": 0.5, "vmax": palette.N + 0.5, "alpha": OPACITY, **options}
        panels[heading].imshow(np.ma.masked_equal(mask, 0), **overlay)
    scale = max(float(np.max(bits)) for bits in entropies.values()) or 1.0
    for heading, bits in entropies.items():
        image = panels[heading].imshow(bits.astype(float), cmap="magma", vmin=0, vmax=scale, **options)
    figure.colorbar(image, ax=panels[heading], fraction=0.05, pad=0.02).ax.tick_params(labelsize=6)
    return png(figure)


def _colored(series: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Colour, name and content of each series."""
    free = iter(COLORS)
    return [(FIXED.get(name) or next(free), name, content) for name, content in series.items()]
