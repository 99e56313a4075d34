"""The architectures by name, and the choice of widths of equal cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...networks.blocks import space_to_depth, voxels_per_cell
from .conditioned_unets import Concatenated, Injected, Summed
from .filtered import Filtered
from .interface import Architecture
from .pair import Pair

ARCHITECTURES: dict[str, type[Architecture]] = {
    kind.name: kind for kind in (Pair, Concatenated, Summed, Filtered, Injected)
}
WIDTHS = range(8, 257, 8)


def flops(network: Architecture, shape: Sequence[int]) -> int:
    """Floating-point operations of encoding one image [*shape] and denoising one state.

    Counts convolutions and matrix products, a multiply-add as two operations; not Fourier transforms, norms and
    interpolations.
    """
    device = next(network.parameters()).device
    image = torch.zeros((1, network.inputs, *shape), device=device)
    cells = space_to_depth(image)
    state = torch.zeros((1, network.classes * voxels_per_cell(cells), *cells.shape[2:]), device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.denoise(state, torch.zeros(1, device=device), network.encode(image))
    return counter.get_total_flops()


def scaled(
    name: str,
    classes: int,
    dims: int,
    shape: Sequence[int],
    target_flops: float,
    closed_form: bool = True,
    inputs: int = 1,
) -> Architecture:
    """The architecture of that name with the width whose `flops` on `shape` are nearest to `target_flops`.

    Widths are 8, 16, ... 256; nearest on a log scale, so around a width of 16 the count may be off by a factor of 1.5.
    Does not advance torch's random numbers, except to initialise the result. Raises ValueError for an unknown name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture '{name}'; known are {', '.join(ARCHITECTURES)}.")
    kind, best, nearest = ARCHITECTURES[name], WIDTHS[0], math.inf
    for width in WIDTHS:
        # Not on the meta device, which torch.autocast does not support.
        with torch.random.fork_rng(devices=[]):
            count = flops(kind(classes, dims, width, closed_form, inputs), shape)
        distance = abs(math.log(count / target_flops))
        if distance > nearest:  # cost rises with width
            break
        best, nearest = width, distance
    return kind(classes, dims, best, closed_form, inputs)
