"""Numbers near zero: flushed while networks run, as they are everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed() -> Iterator[None]:
    """Flush denormal numbers to zero inside: activations near zero can make a CPU tens of times slower.

    Not outside: SciPy's KDTree, which MONAI's surface distances use, splits points at the smallest number above zero,
    takes it for zero then, and recurses until the process dies.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
