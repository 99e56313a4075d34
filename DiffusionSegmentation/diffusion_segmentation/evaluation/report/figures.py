"""The figures of an evaluation as PNG: reliability, risk against coverage, ranks, interval coverage."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Told apart in colour blindness too (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# What the others are held against.
FIXED = {"exact sampler": "#555555", "direct head": "#e69f00"}
DPI = 150
SIZE = (4.8, 3.9)


def png(draw: Callable[[Figure], None], size: tuple[float, float] = SIZE) -> bytes:
    """A figure as PNG; `draw` fills it. `size` in inches."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    # The same picture gives the same bytes: no software version in the file.
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def reliability(series: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Accuracy over confidence with counts below; `series` by name, each as `pooling.diagram` gives it."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
        for color, name, found in _colored(series):
            values = {key: _array(found[key]) for key in ("confidence", "accuracy", "low", "high", "counts")}
            there = np.isfinite(values["confidence"])
            x, y = values["confidence"][there], values["accuracy"][there]
            above.plot(x, y, "o-", ms=3, lw=1.2, color=color, label=name)
            low, high = values["low"][there], values["high"][there]
            above.fill_between(
                x,
                np.where(np.isfinite(low), low, y),
                np.where(np.isfinite(high), high, y),
                color=color,
                alpha=0.18,
                lw=0,
            )
            edges = np.linspace(0, 1, len(values["counts"]) + 1)
            below.stairs(values["counts"], edges, color=color, lw=1.2)
        lowest = min(
            (np.nanmin(_array(found["confidence"])) for found in series.values() if any(found["counts"])), default=0
        )
        above.set(ylabel="right, share", xlim=(max(0, lowest - 0.05), 1.005), ylim=(0, 1.02))
        above.legend(fontsize=7, loc="upper left")
        below.set(xlabel="probability of the chosen class", ylabel="voxels")
        if any(any(found["counts"]) for found in series.values()):
            below.set_yscale("log")

    return png(draw)


def risk_coverage(series: Mapping[str, Mapping[str, Any]], risk: str) -> bytes:
    """Mean risk of the most certain cases; `risk` says in words what it is. Dashed: the best possible order."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for color, name, found in _colored(series):
            axes.plot(found["share"], found["risk"], color=color, lw=1.4, label=name, drawstyle="steps-post")
            axes.plot(found["share"], found["oracle"], color=color, lw=0.9, ls="--")
        axes.set(xlabel="share of the cases kept, most certain first", ylabel=risk, xlim=(0, 1.01))
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, title="dashed: best possible order", title_fontsize=7)

    return png(draw)


def ranks(series: Mapping[str, Any], counted: int | None) -> bytes:
    """Rank histograms as shares; `counted` is the number of volumes, for the band of counting noise, None for none."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        bins = len(next(iter(series.values())))
        flat = 1 / bins
        if counted:
            noise = 1.96 * np.sqrt(flat * (1 - flat) / counted)
            axes.axhspan(
                max(0, flat - noise), flat + noise, color="#dddddd", lw=0, label="where 95 % of right bars lie"
            )
        axes.axhline(flat, color="black", lw=0.8, ls=":")
        width = 0.8 / len(series)
        for n, (color, name, shares) in enumerate(_colored(series)):
            at = np.arange(bins) + (n - (len(series) - 1) / 2) * width
            axes.bar(at, np.array(shares, float) / max(np.sum(shares), 1e-12), width, color=color, label=name)
        axes.set(xlabel=f"samples with a smaller volume than the true one, of {bins - 1}", ylabel="share")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7)

    return png(draw)


def coverage(series: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> bytes:
    """Share of true volumes inside intervals over what the intervals promise (%); scores with bounds by level."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0.4, 1], [0.4, 1], color="black", lw=0.8, ls=":")
        for n, (color, name, levels) in enumerate(_colored(series)):
            at = np.array(list(levels)) / 100 + 0.006 * (n - (len(series) - 1) / 2)
            value, low, high = (_array([score[key] for score in levels.values()]) for key in ("value", "low", "high"))
            reach = np.nan_to_num(np.stack([value - low, high - value]).clip(0))
            axes.errorbar(at, value, reach, fmt="o-", ms=4, lw=1.2, capsize=2, color=color, label=name)
        axes.set(xlabel="promised", ylabel="held", xlim=(0.45, 0.95), ylim=(0, 1.02), xticks=(0.5, 0.8, 0.9))
        axes.legend(fontsize=7)

    return png(draw)


def entropy_levels(series: Mapping[str, list[Mapping[str, Any]]]) -> bytes:
    """Share of wrong voxels over entropy."""

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        for color, name, levels in _colored(series):
            there = [level for level in levels if level["wrong"] is not None]
            at = [" to ".join(f"{bits:g}" for bits in level["bits"]) for level in there]
            axes.plot(at, [level["wrong"] for level in there], "o-", ms=4, lw=1.2, color=color, label=name)
        axes.set(xlabel="entropy, bits", ylabel="wrong, share", ylim=(0, 1))
        axes.tick_params("x", labelsize=7, rotation=30)
        axes.legend(fontsize=7)

    return png(draw)


def _colored(series: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Colour, name and content of each series; what is named in FIXED looks the same in all figures."""
    free = iter(COLORS)
    return [(FIXED.get(name) or next(free), name, content) for name, content in series.items()]


def _array(values: Any) -> np.ndarray:
    """Numbers, NaN where there is None."""
    return np.array([np.nan if value is None else value for value in values], float)
