"""A stand-in for a graphics card on a machine that has none.

Its tensors report the device cuda:0 and hold CPU tensors that do the arithmetic. As with CUDA, an operation on tensors
of both devices is an error, and so is a conversion to NumPy without `.cpu()`: a tensor that was not moved is detected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class OnCard(torch.Tensor):
    """A tensor of the stand-in. For PyTorch's own code it is one on `meta`, which has no memory to read."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnCard:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, device="meta")
        tensor.held = held
        return tensor

    @property
    def device(self) -> torch.device:
        return CARD

    def __deepcopy__(self, memo: dict) -> OnCard:
        copy = OnCard(self.held.detach().clone()).requires_grad_(self.requires_grad)
        copy._is_param = getattr(self, "_is_param", False)
        return copy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        on_card = any(isinstance(tensor, OnCard) for tensor in tensors)
        # Scalars are allowed on either device.
        if on_card and func not in MOVES and any(type(t) is not OnCard and t.dim() for t in tensors):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu")
        for device in (leaf for leaf in leaves if isinstance(leaf, torch.device)):
            on_card = device != CPU
        args, kwargs = tree_map_only(torch.device, lambda device: CPU, (args, kwargs or {}))
        args, kwargs = tree_map_only(OnCard, lambda tensor: tensor.held, (args, kwargs))
        result = func(*args, **kwargs)
        with torch.inference_mode(False):  # else a view of what was made before that mode fails
            return tree_map_only(torch.Tensor, OnCard, result) if on_card else result


class MadeOnCard(TorchDispatchMode):
    """Wraps tensors that are created on the card or moved there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return OnCard.__torch_dispatch__(func, types, args, kwargs)


class FirstCard(TorchFunctionMode):
    """Reads "cuda" as "cuda:0", for which PyTorch would ask the driver."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = tree_map_only(torch.device, lambda d: CARD if d.type == "cuda" else d, (args, kwargs or {}))
        return func(*args, **kwargs)


ANSWERS = dict.fromkeys(("_lazy_init", "synchronize", "empty_cache", "reset_peak_memory_stats")) | {
    **{"is_available": True, "is_bf16_supported": True, "device_count": 1, "get_device_name": "Stand-in"},
    **{"get_device_capability": (9, 0), "mem_get_info": (6 * 10**9, 8 * 10**9), "max_memory_allocated": 123_456},
    **{"is_initialized": False, "memory_reserved": 300, "memory_allocated": 100},
}


@contextmanager
def graphics_card() -> Iterator[list[tuple]]:
    """Replaces torch.cuda by the stand-in; yields the names and arguments of the calls of torch.cuda."""
    calls: list[tuple] = []
    with pytest.MonkeyPatch.context() as patch, MadeOnCard(), FirstCard():
        for name, answer in ANSWERS.items():
            patch.setattr(
                torch.cuda, name, lambda *given, name=name, answer=answer: (calls.append((name, *given)), answer)[1]
            )
        yield calls
