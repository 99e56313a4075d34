"""The floating-point mode of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero inside the context; activations near zero can make a CPU tens of times slower.

    Outside they must be kept: SciPy's KDTree, which MONAI's surface distances use, splits points at the smallest
    positive number. Flushed to zero, it recurses until the process dies.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
