"""Folder and metadata of a model that others trained and that was converted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from ..errors import ModelError
from .metadata import file_error, kind, read_metadata
from .weights import has_weights


@dataclass(frozen=True)
class ConvertedModel:
    """A model folder of one of the kinds that are run apart from our own."""

    folder: Path
    metadata: dict[str, Any]
    kind: ClassVar[str]
    described: ClassVar[str]
    """The kind in a message, such as "an nnU-Net"."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The model in a folder. Raises ModelError, also for one of another kind."""
        metadata = read_metadata(folder)
        if kind(metadata["diffusion_segmentation"]) != cls.kind:
            raise ModelError(f"This model is not {cls.described}; choose another one.")
        return cls(folder, metadata)

    @property
    def section(self) -> dict[str, Any]:
        """Our section of the metadata."""
        return self.metadata["diffusion_segmentation"]

    @property
    def settings(self) -> dict[str, Any]:
        """The entry of the metadata that has the name of the kind."""
        return self.section[self.kind]

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Table of the foreground classes."""
        return self.section["labels"]

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels) + 1

    def require_weights(self) -> None:
        """Raise ModelError unless all files of weights are there, with the sizes that the metadata state."""
        if not has_weights(self.folder, self.metadata):
            raise file_error(self.folder, "weights", "are incomplete")
