"""How a model sees its images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from .input_names import Input, inputs_of, intensities_of
from .intensity import normalise
from .resampling import working_image, working_picture


@dataclass(frozen=True)
class Grid:
    """Voxel size (mm) of the working grid of a model, its inputs, their intensity scales, and its 2 or 3 axes."""

    spacing_mm: float
    inputs: tuple[Input, ...]
    intensities: list[dict[str, Any] | None]
    dims: int = 3

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Grid:
        """That of a model, by our section of its metadata."""
        dims = section.get("network", {}).get("dims", 3)
        return cls(section["working_spacing_mm"], inputs_of(section), intensities_of(section), dims)

    def resampled(self, image: sitk.Image, outside: float | None = None) -> sitk.Image:
        """`image` on the working grid."""
        if self.dims == 2:
            return working_picture(image, self.spacing_mm, outside)
        return working_image(image, self.spacing_mm, outside=outside)

    def normalised(self, channels: Iterable[np.ndarray]) -> np.ndarray:
        """Each channel by itself, as `normalise`, float32 [channels, *shape]. Raises InputError for a constant input.

        One colour of several may be constant; it becomes 0.
        """
        of_colours = [one.channels > 1 for one in self.inputs for _ in range(one.channels)]
        return np.stack(
            [
                np.zeros(channel.shape, np.float32)
                if colour and channel.min() == channel.max()
                else normalise(channel, intensity)
                for channel, intensity, colour in zip(channels, self.intensities, of_colours, strict=True)
            ]
        )
