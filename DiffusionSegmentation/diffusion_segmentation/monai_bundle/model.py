"""A converted MONAI bundle: its metadata, and its network with weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ..model.converted import ConvertedModel
from ..model.metadata import MONAI, file_error
from ..model.monai_metadata import MAX_NETWORK_WEIGHTS
from ..model.weights import MISMATCH, WEIGHTS, read_weights
from .network import canonical_names, sketch


@dataclass(frozen=True)
class MonaiModel(ConvertedModel):
    """A model folder of the kind "monai"."""

    kind, described = MONAI, "a network of MONAI"

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


read_model = MonaiModel.read
