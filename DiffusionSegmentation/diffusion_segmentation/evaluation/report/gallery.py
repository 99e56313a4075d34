"""Cases to look at: the worst, the one in the middle and the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from .figures import COLORS, png

PANEL_INCHES = 1.75
OPACITY = 0.55


def pick(order: Mapping[str, float]) -> dict[str, str]:
    """Names of the worst, middle and best case by a number that is large for bad ones: {"worst": name, ...}.

    With fewer than three cases the same case is not shown twice.
    """
    ranked = sorted(order, key=lambda name: -order[name])
    places = {"worst": 0, "middle": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    chosen: dict[str, str] = {}
    for word, place in places.items():
        if ranked and ranked[place] not in chosen.values():
            chosen[word] = ranked[place]
    return chosen


def strip(picture: Mapping[str, np.ndarray], truth: str, colors: Sequence[Sequence[float]] | None = None) -> bytes:
    """One case in a row of panels: image, truth (its heading is `truth`), consensus, entropy, two samples.

    `picture` holds [j, i] arrays as `cases` and `known` keep them, "spacing" in mm; `colors` are those of the
    foreground classes. Labels lie over the image, entropy has its scale in bits beside it.
    """
    first, second = picture["samples"][:2]
    labels = {truth: picture["truth"], "consensus": picture["consensus"], "a sample": first, "another": second}
    entropies = {"entropy, bits": picture["entropy"]}
    if "exact_entropy" in picture:
        entropies["exact entropy, bits"] = picture["exact_entropy"]
    columns = 1 + len(labels) + len(entropies)
    most = max(1, *(int(mask.max()) for mask in labels.values()))
    palette = ListedColormap([tuple(color) for color in colors] if colors else list(COLORS[:most]))
    grey = picture["image"].astype(float)
    rows, cols = grey.shape
    aspect = float(picture["spacing"][0] / picture["spacing"][1])
    height = PANEL_INCHES * min(2.0, max(0.5, rows * aspect / cols)) + 0.35

    def draw(figure: Figure) -> None:
        panels = iter(figure.subplots(1, columns))
        _grey(next(panels), grey, aspect, "image")
        for heading, mask in list(labels.items())[:2]:
            _labelled(next(panels), grey, mask, aspect, heading, palette)
        scale = max(float(np.max(bits)) for bits in entropies.values()) or 1.0
        for heading, bits in entropies.items():
            axes = next(panels)
            shown = axes.imshow(
                bits.astype(float), cmap="magma", vmin=0, vmax=scale, aspect=aspect, interpolation="nearest"
            )
            _plain(axes, heading)
        bar = figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=6)
        for heading, mask in list(labels.items())[2:]:
            _labelled(next(panels), grey, mask, aspect, heading, palette)

    return png(draw, (PANEL_INCHES * columns, height))


def _labelled(axes, grey: np.ndarray, mask: np.ndarray, aspect: float, heading: str, palette: ListedColormap) -> None:
    _grey(axes, grey, aspect, heading)
    there = np.ma.masked_equal(mask, 0)
    axes.imshow(
        there, cmap=palette, vmin=0.5, vmax=palette.N + 0.5, alpha=OPACITY, aspect=aspect, interpolation="nearest"
    )


def _grey(axes, grey: np.ndarray, aspect: float, heading: str) -> None:
    axes.imshow(grey, cmap="gray", aspect=aspect, interpolation="nearest")
    _plain(axes, heading)


def _plain(axes, heading: str) -> None:
    axes.set_title(heading, fontsize=8)
    axes.set_axis_off()
