"""A converted MONAI bundle: its metadata, and its network with weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..model.metadata import MONAI, file_error, kind, read_metadata
from ..model.monai_metadata import MAX_NETWORK_WEIGHTS, classes_of
from ..model.weights import MISMATCH, WEIGHTS, has_weights, read_weights
from .network import canonical_names, sketch


@dataclass(frozen=True)
class MonaiModel:
    """A model folder of the kind "monai"."""

    folder: Path
    metadata: dict[str, Any]

    @property
    def section(self) -> dict[str, Any]:
        """Our section of the metadata."""
        return self.metadata["diffusion_segmentation"]

    @property
    def settings(self) -> dict[str, Any]:
        """The entry `monai` of the metadata."""
        return self.section["monai"]

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return classes_of(self.settings)

    def require_weights(self) -> None:
        """Raise ModelError unless the file of weights is there, with the size that the metadata state."""
        if not has_weights(self.folder, self.metadata):
            raise file_error(self.folder, "weights", "are incomplete")

    @cached_property
    def network(self) -> torch.nn.Module:
        """The network in evaluation mode on the CPU. Raises ModelError."""
        network = sketch(self.settings["network"]).network
        names = canonical_names(network)
        state = read_weights(self.folder, WEIGHTS, self.section["weights"]["sha256"], MAX_NETWORK_WEIGHTS)
        own = network.state_dict()
        if set(state) != set(names.values()) or any(own[name].shape != t.shape for name, t in state.items()):
            raise file_error(self.folder, *MISMATCH)
        # Integers, such as tables of positions, are those of the network itself.
        network.load_state_dict({name: state[first] for name, first in names.items()}, strict=False, assign=True)
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            raise file_error(self.folder, *MISMATCH)
        return network.requires_grad_(False)


def read_model(folder: Path) -> MonaiModel:
    """The converted bundle in a model folder. Raises ModelError."""
    metadata = read_metadata(folder)
    if kind(metadata["diffusion_segmentation"]) != MONAI:
        raise ModelError("This model is no network of MONAI; choose another one.")
    return MonaiModel(folder, metadata)
