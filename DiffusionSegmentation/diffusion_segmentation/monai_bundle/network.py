"""Networks of MONAI, built from validated metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks import nets
from monai.utils import OptionalImportError
from torch.overrides import TorchFunctionMode

from ..errors import ModelError, is_out_of_memory
from ..model.monai_metadata import MAX_NETWORK_WEIGHTS
from ..model.monai_networks import NETWORKS

EINOPS = ("UNETR", "SwinUNETR")  # networks that need this package
CLASSES = {name: getattr(nets, name) for name in NETWORKS}


@dataclass(frozen=True)
class Sketch:
    """A network without memory for its weights, and what one pass of it needs.

    Attributes:
        network: in evaluation mode; its weights are on the device "meta".
        channels: of the output; None if it is no volume of the size of the input.
        bytes_of_layer: input and output of its largest layer for this window.
    """

    network: torch.nn.Module
    channels: int | None = None
    bytes_of_layer: int = 0


class _WithoutMemory(TorchFunctionMode):
    """Context in which new tensors of any size have no memory; small ones that are computed from lists do."""

    _CREATE = frozenset((torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full))

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in self._CREATE and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def sketch(network: dict[str, Any], window: Sequence[int] | None = None) -> Sketch:
    """Sketch of the network of an entry `network` of the metadata, which sees a `window`.

    Raises ModelError, with the reason, if it cannot be built.
    """
    name = network["class"]
    try:
        with _WithoutMemory(), torch.random.fork_rng(devices=[]):
            built = CLASSES[name](**network["options"]).eval().requires_grad_(False)
    except OptionalImportError as error:
        if name in EINOPS:
            raise ModelError(
                f"The network {name} needs the Python package einops, which is missing; install it."
            ) from error
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"The arguments of the network {name} do not suit each other; choose another model.") from None
    if sum(parameter.numel() for parameter in built.parameters()) > MAX_NETWORK_WEIGHTS:
        raise ModelError(f"The network {name} has too many weights; choose another model.")
    return Sketch(built) if window is None else _pass(built, network["options"]["in_channels"], window)


def _pass(network: torch.nn.Module, inputs: int, window: Sequence[int]) -> Sketch:
    largest = 0

    def count(_layer: torch.nn.Module, given: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        sizes = [tensor.numel() for tensor in (*given, output) if isinstance(tensor, torch.Tensor)]
        largest = max(largest, sum(sizes))

    layers = [layer for layer in network.modules() if next(layer.children(), None) is None]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with _WithoutMemory(), torch.no_grad():
            output = network(torch.empty(1, inputs, *window, device="meta"))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return Sketch(network)
    finally:
        for handle in handles:
            handle.remove()
    fits = isinstance(output, torch.Tensor) and output.ndim == 5 and output.shape[2:] == torch.Size(window)
    return Sketch(network, output.shape[1] if fits else None, 4 * largest)


def canonical_names(network: torch.nn.Module) -> dict[str, str]:
    """First name of each floating-point tensor of a network, by each of its names: layers can have several."""
    tensors = {
        name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if tensor.is_floating_point()
    }
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}
