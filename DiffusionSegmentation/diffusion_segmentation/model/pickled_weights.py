"""Reading weights that PyTorch pickled, without running what a pickle can contain.

`torch.load(weights_only=True)` builds tensors, containers and the classes of an allow-list, and calls nothing else;
`pickle_scan` refuses before what would take its memory or time. Nothing is allocated because a file claims a size.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import is_out_of_memory
from .pickle_scan import require_plain
from .refusal import Refusal
from .weights import WEIGHT_TYPES

PICKLED_TYPES = (*WEIGHT_TYPES, torch.float64)
MAX_TENSORS = 10_000


def read_pickled(path: Path, what: str, name: str) -> Any:
    """Content of a pickle of PyTorch, with tensors on the CPU; `what` it is and its `name` for a message.

    Any exception of a reader that is fed with foreign bytes is a refusal. Raises Refusal.
    """
    refusal = Refusal(
        f"has a {what} in {name} that is damaged or contains more than weights and numbers, which is not "
        "loaded; copy its folder again from a source that you trust"
    )
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Refusal(f"has a link in place of the {what} in {name}; copy the file itself there")
        _require_stored(path)
        require_plain(path)
    except Refusal:
        raise
    except Exception:
        raise refusal from None
    try:
        with _allowed_classes():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Refusal:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise refusal from None


def _require_stored(path: Path) -> None:
    """Raise an exception unless a file has the format of PyTorch 1.6 or newer: a .zip archive without compression."""
    with zipfile.ZipFile(path) as zipped:
        names = zipped.namelist()
        if len(set(names)) < len(names) or any(info.compress_type != zipfile.ZIP_STORED for info in zipped.infolist()):
            raise ValueError("files of one name, or compressed ones")


def are_within(tensors: Iterable[torch.Tensor], path: Path) -> bool:
    """Whether a file is as large as the tensors that were read from it, which can share or repeat their numbers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= path.stat().st_size


def _allowed_classes() -> AbstractContextManager[Any]:
    """Context in which numbers of NumPy, of which checkpoints have the history of the training, can be loaded."""
    if not hasattr(torch.serialization, "safe_globals"):
        raise Refusal("can be read with PyTorch 2.6 and newer only; update PyTorch")
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"}
    # Files name the function by its place in NumPy 1 or 2.
    named = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    return torch.serialization.safe_globals([np.dtype, *kinds, *named])


def is_weight(key: Any, tensor: Any, buffers: bool = False) -> bool:
    """Whether an entry of a state dict is a named tensor of floating-point numbers, or a counter of batches.

    `buffers`: integers of any shape are allowed, too.
    """
    return (
        isinstance(key, str)
        and 0 < len(key) <= 200
        and key.isascii()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and tensor.device.type == "cpu"
        and (tensor.dtype in PICKLED_TYPES or (tensor.dtype == torch.int64 and (buffers or tensor.ndim == 0)))
    )
