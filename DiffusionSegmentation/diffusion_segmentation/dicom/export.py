"""Results of a run as DICOM objects beside its other files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError
from .extra import quiet, require_extra
from .maps import Maps
from .series import Series

if TYPE_CHECKING:
    from pydicom import Dataset

Kind = Literal["labelmap", "binary"]

NAMES = ("segmentation.dcm", "probabilities.dcm", "entropy.dcm", "volumes.dcm")
"""Files of the objects."""

SEGMENTATION, PROBABILITIES, ENTROPY, VOLUMES = NAMES


class Exporter:
    """Writes the DICOM objects of a result."""

    def __init__(self, series: Series | object, kind: Kind) -> None:
        """Check, before a run, that objects can be written for the source `series`; `kind` is that of the segmentation.

        Raises InputError if the input is no DICOM series of several images, if its headers cannot be used, and without
        the extra [dicom].
        """
        if not isinstance(series, Series):
            raise InputError("--dicom needs a DICOM series as input; give its folder, or leave out --dicom.")
        if series.size[2] == 1:
            raise InputError("--dicom writes results of volumes and the series has a single image; leave out --dicom.")
        require_extra("--dicom", "highdicom")
        self._series, self._kind = series, kind
        self._require_usable()

    def _require_usable(self) -> None:
        """Raise InputError if an object of one plane cannot be made with the headers of the source."""
        columns, rows, _ = self._series.size
        plane = np.ones((1, rows, columns), np.uint8)
        label = {"label": 1, "name": "Test", "color": (1, 1, 1), "terminology": ""}
        try:
            with quiet():
                from . import objects
                from .source import Source

                source = Source(self._series, [label], "Test", "1")
                objects.segmentation(source, Maps(plane, plane, [plane], (0, 0, 0)), "BINARY")
        except InputError:
            raise
        except Exception as error:  # highdicom raises many kinds, whose texts quote the header, so none is a cause
            raise InputError(
                f"The headers of the series are not valid DICOM ({type(error).__name__}), so --dicom cannot refer to "
                "it; leave it out."
            ) from None

    def write(
        self, folder: Path, maps: Maps, labels: Sequence[dict[str, Any]], report: Mapping[str, Any]
    ) -> dict[str, str]:
        """Write the objects of a result with `report` into `folder`.

        Returns a warning by the name of each that could not be made, so that the result is not lost. Raises OSError.
        """
        from . import objects
        from .measurements import measurement_report
        from .source import Source

        missing: dict[str, str] = {}
        with quiet():
            model = report["model"]
            source = Source(self._series, labels, model["title"], str(model["version"]))

            def save(name: str, make: Callable[[], Dataset]) -> Dataset | None:
                try:
                    made = make()
                except Exception as error:  # its text may quote the header
                    missing[name] = f"'{name}' could not be made ({type(error).__name__}) and is missing."
                    return None
                made.save_as(folder / name)
                return made

            segments = save(SEGMENTATION, lambda: objects.segmentation(source, maps, self._kind.upper()))
            if segments is None:
                missing[VOLUMES] = f"'{VOLUMES}' refers to '{SEGMENTATION}' and is missing, too."
            else:
                save(VOLUMES, lambda: measurement_report(source, segments, report["volumes"]))
            save(ENTROPY, lambda: objects.entropy(source, maps, report["max_entropy_bits"]))
            save(PROBABILITIES, lambda: objects.probabilities(source, maps))
        return missing
