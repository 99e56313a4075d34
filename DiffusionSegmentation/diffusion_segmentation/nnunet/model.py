"""A converted nnU-Net: its metadata, its network, and its settings in the form that nnU-Net's classes read.

All names that nnU-Net looks up or imports come from the tables of `model.nnunet_metadata`, by which the metadata were
checked, or from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from ..errors import ModelError
from ..model.metadata import NNUNET, file_error, kind, read_metadata
from ..model.nnunet_metadata import INTENSITIES, MAX_FOLD_WEIGHTS, NETWORKS
from ..model.weights import MISMATCH, read_weights
from .orientation import Turn


@dataclass(frozen=True)
class NnunetModel:
    """A model folder of the kind "nnunet"."""

    folder: Path
    metadata: dict[str, Any]

    @property
    def section(self) -> dict[str, Any]:
        """Our section of the metadata."""
        return self.metadata["diffusion_segmentation"]

    @property
    def settings(self) -> dict[str, Any]:
        """The entry `nnunet` of the metadata."""
        return self.section["nnunet"]

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Table of the foreground classes."""
        return self.section["labels"]

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels) + 1

    @property
    def folds(self) -> list[dict[str, Any]]:
        """Entries of the folds in the metadata."""
        return self.section["folds"]

    def turn(self, image: sitk.Image) -> Turn:
        """How nnU-Net's reader turns the axes of a volume for this model."""
        return Turn.to_ras(image.GetDirection()) if self.settings["reoriented"] else Turn()

    @cached_property
    def network(self) -> torch.nn.Module:
        """The network in evaluation mode on the CPU, with the weights of no fold. Raises ModelError."""
        with torch.device("meta"):
            network = _network(self.settings, len(self.section["inputs"]), self.classes)
        if sum(parameter.numel() for parameter in network.parameters()) > MAX_FOLD_WEIGHTS:
            raise file_error(self.folder, *MISMATCH)
        return network.to_empty(device="cpu").eval().requires_grad_(False)

    def load_fold(self, fold: dict[str, Any]) -> None:
        """Give the network the weights of a fold, by its entry. Raises ModelError."""
        state = read_weights(self.folder, fold["file"], fold["sha256"], MAX_FOLD_WEIGHTS)
        own = self.network.state_dict()
        given = {own[name].data_ptr() for name in state if name in own}
        # A layer has several names of which one is stored; see `checkpoint`.
        complete = all(tensor.data_ptr() in given for tensor in own.values())
        if not complete or any(name not in own or own[name].shape != t.shape for name, t in state.items()):
            raise file_error(self.folder, *MISMATCH)
        for name, tensor in state.items():
            own[name].copy_(tensor)

    def plans(self) -> dict[str, Any]:
        """Content of a plans.json with the configuration of this model."""
        settings = self.settings
        transpose = settings["transpose"]
        intensities = {
            str(n): dict(zip(INTENSITIES, map(entry.get, INTENSITIES), strict=True))
            for n, entry in enumerate(settings["intensities"])
        }
        resampling = {f"resampling_fn_{what}": entry["function"] for what, entry in settings["resampling"].items()}
        options = {f"resampling_fn_{what}_kwargs": entry["options"] for what, entry in settings["resampling"].items()}
        configuration = {
            "preprocessor_name": "DefaultPreprocessor",
            "patch_size": settings["patch_size"],
            "spacing": settings["spacing_mm"],
            "normalization_schemes": settings["normalization"],
            "use_mask_for_norm": settings["use_mask_for_norm"],
            "architecture": {},  # without it nnU-Net reads the network from the keys of old plans
            **resampling,
            **options,
        }
        return {
            "dataset_name": "Dataset001_Model",
            "plans_name": "nnUNetPlans",
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "transpose_forward": transpose,
            "transpose_backward": [transpose.index(axis) for axis in range(len(transpose))],
            "foreground_intensity_properties_per_channel": intensities,
            "configurations": {settings["configuration"]: configuration},
        }

    def dataset(self) -> dict[str, Any]:
        """Content of a dataset.json with the labels and inputs of this model."""
        labels = {"background": 0, **{f"label {entry['label']}": entry["label"] for entry in self.labels}}
        channels = {str(n): f"input {n}" for n in range(len(self.section["inputs"]))}
        return {"labels": labels, "channel_names": channels, "file_ending": ".nrrd"}


def read_model(folder: Path) -> NnunetModel:
    """The converted nnU-Net in a model folder. Raises ModelError."""
    metadata = read_metadata(folder)
    if kind(metadata["diffusion_segmentation"]) != NNUNET:
        raise ModelError("This model is no nnU-Net; choose another one.")
    return NnunetModel(folder, metadata)


def _network(settings: dict[str, Any], inputs: int, classes: int) -> torch.nn.Module:
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
        num_classes=classes,
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
