"""The network of an nnU-Net, built from its metadata.

Its classes come from the tables of this file; the names in the metadata are looked up there and never imported.
"""

from __future__ import annotations

from typing import Any

import torch

from ..model.metadata import file_error
from ..model.nnunet_metadata import MAX_FOLD_WEIGHTS, NETWORKS
from ..model.weights import MISMATCH, read_weights
from .model import NnunetModel


class FoldNetwork:
    """The network of a model in evaluation mode, with the weights of one fold after another.

    Raises ModelError if it is too large.
    """

    def __init__(self, model: NnunetModel) -> None:
        with torch.device("meta"):
            network = _network(model.settings, len(model.section["inputs"]), model.heads)
        if sum(parameter.numel() for parameter in network.parameters()) > MAX_FOLD_WEIGHTS:
            raise file_error(model.folder, *MISMATCH)
        self._folder = model.folder
        self.module = network.to_empty(device="cpu").eval().requires_grad_(False)

    def load(self, fold: dict[str, Any]) -> None:
        """Give the network the weights of a fold, by its entry in the metadata. Raises ModelError."""
        state = read_weights(self._folder, fold["file"], fold["sha256"], MAX_FOLD_WEIGHTS)
        own = self.module.state_dict()
        given = {own[name].data_ptr() for name in state if name in own}
        # A layer has several names of which one is stored; see `checkpoint`.
        complete = all(tensor.data_ptr() in given for tensor in own.values())
        if not complete or any(name not in own or own[name].shape != t.shape for name, t in state.items()):
            raise file_error(self._folder, *MISMATCH)
        for name, tensor in state.items():
            own[name].copy_(tensor)


def _network(settings: dict[str, Any], inputs: int, heads: int) -> torch.nn.Module:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    network, axes = settings["network"], len(settings["patch_size"])
    classes_of_networks = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}
    norms = {
        ("instance", 2): torch.nn.InstanceNorm2d,
        ("instance", 3): torch.nn.InstanceNorm3d,
        ("batch", 2): torch.nn.BatchNorm2d,
        ("batch", 3): torch.nn.BatchNorm3d,
    }
    nonlins = {"LeakyReLU": torch.nn.LeakyReLU, "ReLU": torch.nn.ReLU}
    copied = ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias")
    return classes_of_networks[network["class"]](
        input_channels=inputs,
        num_classes=heads,
        n_stages=len(network["features_per_stage"]),
        conv_op={2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[axes],
        norm_op=norms[network["norm"], axes],
        norm_op_kwargs=network["norm_options"],
        dropout_op=None,
        dropout_op_kwargs=None,
        nonlin=nonlins[network["nonlin"]],
        nonlin_kwargs={"inplace": True, **network["nonlin_options"]},
        deep_supervision=False,
        **{NETWORKS[network["class"]]: network["blocks_per_stage"]},
        **{name: network[name] for name in copied},
    )
