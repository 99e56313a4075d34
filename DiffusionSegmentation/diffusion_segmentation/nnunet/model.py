"""A converted nnU-Net: its metadata, and its settings in the form that nnU-Net's classes read.

All names that nnU-Net looks up or imports come from the tables of `model.nnunet_metadata`, by which the metadata were
checked, or from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import SimpleITK as sitk

from ..model.converted import ConvertedModel
from ..model.metadata import NNUNET
from ..model.nnunet_metadata import INTENSITIES
from .orientation import Turn
from .regions import nnunet_dataset


@dataclass(frozen=True)
class NnunetModel(ConvertedModel):
    """A model folder of the kind "nnunet"."""

    kind, described = NNUNET, "an nnU-Net"

    @property
    def regions(self) -> list[int] | None:
        """For a network of nested regions, the label of what each has more than the next one; None for others."""
        return self.section.get("regions")

    @property
    def heads(self) -> int:
        """Number of logits of each voxel."""
        return len(self.labels) if self.regions else self.classes

    @property
    def folds(self) -> list[dict[str, Any]]:
        """Entries of the folds in the metadata."""
        return self.section["folds"]

    def turn(self, image: sitk.Image) -> Turn:
        """How nnU-Net's reader turns the axes of a volume for this model."""
        return Turn.to_ras(image.GetDirection()) if self.settings["reoriented"] else Turn()

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
        content = {"labels": labels} if self.regions is None else nnunet_dataset(self.regions)
        channels = {str(n): f"input {n}" for n in range(len(self.section["inputs"]))}
        return {**content, "channel_names": channels, "file_ending": ".nrrd"}


read_model = NnunetModel.read
