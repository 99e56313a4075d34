"""Files of a case: one or several images that are segmented together, such as T1 and FLAIR, or a colour picture.

Each input is a file of its own, or all of them are volumes of one file (a fourth axis, as in the Decathlon). A colour
picture is one input with several channels. All lie on the grid of the first input; others are resampled to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..dicom.export import Exporter, Kind
from ..dicom.series import Series
from ..dicom.slices import is_multi_frame
from ..errors import GeometryError, InputError, shown
from .channels import ChannelFile
from .input_names import Input, channel_count, missing_input, order_by_name
from .resampling import on_grid_of, overlap
from .volume import Spacing, check_values

LOW_OVERLAP = 0.5
"""Share of the first input's voxels that another input should cover at least."""


Volumes = Path | Sequence[Path] | Mapping[str, Path]
"""Files of a case: one file, files in the order of the model's inputs, or files by the names of inputs."""


class CaseFiles:
    """The files of one case, with valid headers; `read` reads their voxels.

    `warnings` are sentences about assumptions and about what was resampled; `exporter` writes results as DICOM objects.
    """

    def __init__(
        self,
        files: Volumes,
        spacing: Spacing | None = None,
        called: str | None = None,
        series: str | None = None,
        dicom: Kind | None = None,
    ) -> None:
        """Check the headers. Raises as `VolumeFile`, `Series` and `Exporter`, and InputError if a file is given twice.

        A folder is a DICOM series, of several the one with the UID `series`. With `dicom` results can be written as
        DICOM objects. Messages name the files, or the inputs if the files are `called` "The volume".
        """
        self._names = tuple(files) if isinstance(files, Mapping) else None
        paths = [files] if isinstance(files, Path) else [*(files.values() if isinstance(files, Mapping) else files)]
        if len({path.resolve() for path in paths}) < len(paths):
            raise InputError("The same file was given for two inputs; give each input its own file.")
        of_inputs = [f" for {shown(name)}" for name in self._names or ()] or [""] * len(paths)
        if series is not None and len(paths) > 1:
            raise InputError("--series is for one folder; give each input the folder of its own series.")
        self._files: list[ChannelFile | Series] = []
        for path, of_input in zip(paths, of_inputs, strict=True):
            if os.path.isdir(path) or is_multi_frame(path):  # False for a name that is too long
                self._files.append(Series(path, series, spacing, f"{called or 'The series'}{of_input}"))
            elif series is not None:
                raise InputError("--series chooses a series of a DICOM folder; give a folder, or leave it out.")
            else:
                self._files.append(
                    ChannelFile(path, spacing=spacing, pictures=True, called=called and f"{called}{of_input}")
                )
        self.exporter = Exporter(self.first, dicom) if dicom else None
        self.warnings: list[str] = []

    @property
    def first(self) -> ChannelFile | Series:
        """The file of the first input, whose grid is that of the result."""
        return self._files[0]

    @property
    def series_uid(self) -> str:
        """UID of the DICOM series of the first input; "" for other files."""
        return self.first.series_uid if isinstance(self.first, Series) else ""

    @property
    def is_picture(self) -> bool:
        """Whether the first file has a single slice."""
        return self.first.size[2] == 1

    def require_fit(self, inputs: Sequence[Input]) -> None:
        """Order the files as `inputs`, those of a model. Raises InputError, which names what is missing."""
        if self._names is not None:
            self._files = [self._files[at] for at in order_by_name(self._names, inputs)]
            self._names = None
        if self._holds_all(inputs):
            return
        if len(self._files) < len(inputs):
            raise InputError(missing_input(inputs[len(self._files)].name, inputs, len(self._files)))
        if len(self._files) > len(inputs):
            names = ", ".join(one.name for one in inputs)
            raise InputError(
                f"{len(self._files)} files were given and the model has {len(inputs)} "
                f"input{'s' * (len(inputs) > 1)} ({names}); give one file for each."
            )
        for file, one in zip(self._files, inputs, strict=True):
            file.require_channels(one.channels)

    def read(
        self, inputs: Sequence[Input], clean: Callable[[sitk.Image], sitk.Image] = lambda channel: channel
    ) -> list[sitk.Image]:
        """The channels of all inputs, float32, on the grid of the first. Call once.

        A channel that is resampled is `clean`ed before, because interpolation mixes a fill value with its neighbours.

        Raises as `require_fit`, `VolumeFile.read`, and GeometryError if an input has no voxel in common with the first.
        """
        self.require_fit(inputs)
        stacked = self._holds_all(inputs)
        images: list[sitk.Image] = []
        for number, file in enumerate(self._files):
            channels = file.read_all() if stacked else file.read_images(inputs[number].channels)
            self.warnings += file.warnings
            if stacked:
                names = ", ".join(one.name for one in inputs)
                self.warnings.append(f"The volumes of {file.name[0].lower()}{file.name[1:]} were taken for {names}.")
            constant = [_is_constant(channel) for channel in channels]
            for channel in channels:  # a single colour of a picture may be constant
                check_values(channel, file.name, may_be_constant=not stacked and not all(constant))
            if number and (file.missing or self.first.missing):
                self._place(file, channels, images[0])
            elif number and not same_grid(channels[0], images[0]):
                channels = self._resampled([*map(clean, channels)], images[0], inputs[number].name, file.name)
            images += channels
        return images

    def _holds_all(self, inputs: Sequence[Input]) -> bool:
        """Whether the only file has all inputs of several along its fourth axis."""
        file = self._files[0]
        several = file.is_4d or not self.is_picture  # the values of a picture are colours
        return len(self._files) == 1 < len(inputs) and several and file.channels == channel_count(inputs)

    def _place(self, file: ChannelFile | Series, channels: list[sitk.Image], first: sitk.Image) -> None:
        """Put the channels on the grid of the first input, where one of the two files does not state its own."""
        if channels[0].GetSize() != first.GetSize():
            raise GeometryError(
                f"{file.name} and the first input differ in size, and one does not state its position; save both on "
                "one grid."
            )
        for channel in channels:
            channel.CopyInformation(first)
        if bool(file.missing) != bool(self.first.missing):
            self.warnings.append(
                f"{file.name} was taken to lie on the grid of the first input, because one of the two does not state "
                "its position."
            )

    def _resampled(self, channels: list[sitk.Image], first: sitk.Image, name: str, file: str) -> list[sitk.Image]:
        share = overlap(channels[0], first)
        if share == 0:
            raise GeometryError(f"{file} has no voxel in common with the first input; choose images of one place.")
        self.warnings.append(f"The input {name} was resampled to the grid of the first input.")
        if share < LOW_OVERLAP:
            self.warnings.append(
                f"The input {name} covers only {100 * share:.0f} % of the first input; check that they belong together."
            )
        return [on_grid_of(channel, first) for channel in channels]


def _is_constant(image: sitk.Image) -> bool:
    values = sitk.GetArrayViewFromImage(image)
    return bool(values.min() == values.max())


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether two images lie on one grid, within 1 % of a voxel at their corners."""
    if one.GetSize() != other.GetSize():
        return False
    corners = [[0, 0, 0], [n - 1 for n in one.GetSize()]]
    corners += [[n - 1 if axis == a else 0 for axis, n in enumerate(one.GetSize())] for a in range(3)]
    apart = [np.subtract(*(image.TransformIndexToPhysicalPoint(c) for image in (one, other))) for c in corners]
    return bool(np.abs(apart).max() < min(one.GetSpacing()) / 100)
