"""The architectures by name, and the width at which each costs as much as another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...networks.blocks import space_to_depth, voxels_per_cell
from .concatenated import Concatenated
from .filtered import Filtered
from .injected import Injected
from .interface import Architecture
from .pair import Pair
from .summed import Summed

ARCHITECTURES: dict[str, type[Architecture]] = {
    kind.name: kind for kind in (Pair, Concatenated, Summed, Filtered, Injected)
}
WIDTHS = range(8, 257, 8)


def flops(network: Architecture, shape: Sequence[int]) -> int:
    """Floating-point operations of encoding one image [*shape] and denoising one state.

    Counts convolutions and matrix products, a multiplication and an addition as two; Fourier transforms, norms and
    interpolations are not counted.
    """
    device = next(network.parameters()).device
    image = torch.zeros((1, 1, *shape), device=device)
    cells = space_to_depth(image)
    state = torch.zeros((1, network.classes * voxels_per_cell(cells), *cells.shape[2:]), device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.denoise(state, torch.zeros(1, device=device), network.encode(image))
    return counter.get_total_flops()


def scaled(
    name: str, classes: int, dims: int, shape: Sequence[int], target_flops: float, closed_form: bool = True
) -> Architecture:
    """The architecture of that name, as wide as brings its `flops` on `shape` nearest to `target_flops`.

    Widths go in steps of 8 channels from 8 to 256, and nearest is meant on a log scale: with widths around 16 a count
    may be 1.5 times off. Widths that are only tried leave torch's random numbers alone. Raises ValueError for a name
    that there is none of.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"There is no architecture '{name}'; there are {', '.join(ARCHITECTURES)}.")
    kind, best, nearest = ARCHITECTURES[name], WIDTHS[0], math.inf
    for width in WIDTHS:
        # Not on the meta device, which torch.autocast refuses.
        with torch.random.fork_rng(devices=[]):
            count = flops(kind(classes, dims, width, closed_form), shape)
        away = abs(math.log(count / target_flops))
        if away > nearest:  # wider only costs more
            break
        best, nearest = width, away
    return kind(classes, dims, best, closed_form)
