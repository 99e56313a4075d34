"""Pictures of the worst, the median and the best case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap

from .figures import COLORS, new_figure, png

PANEL_INCHES = 1.75
OPACITY = 0.55


def pick(order: Mapping[str, float]) -> dict[str, str]:
    """Names of the worst, median and best case by a number that is large for bad ones: {"worst": name, ...}.

    With fewer than three cases no case is shown twice.
    """
    ranked = sorted(order, key=lambda name: -order[name])
    places = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    chosen: dict[str, str] = {}
    for word, place in places.items():
        if ranked and ranked[place] not in chosen.values():
            chosen[word] = ranked[place]
    return chosen


def strip(picture: Mapping[str, np.ndarray], truth: str, colors: Sequence[Sequence[float]] | None = None) -> bytes:
    """One case as a row of panels: image, truth (headed `truth`), consensus, entropy, two samples.

    `picture` has arrays [j, i] as the case store holds them, "spacing" in mm; `colors` of the foreground classes.
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

    figure = new_figure((PANEL_INCHES * len(headings), height))
    panels = dict(zip(headings, figure.subplots(1, len(headings)), strict=True))
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
