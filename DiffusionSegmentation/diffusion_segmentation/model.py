"""A model folder: networks, process and metadata, written and read without running anything from it.

    <name>/metadata.json       MONAI's bundle metadata schema, and a section `diffusion_segmentation` of our own
    <name>/model.safetensors   the weights of encoder and denoiser, named by SHA-256 in the metadata

Weights may be stored as float16; they are used as float32.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from .errors import ModelError
from .networks import CHANNELS_LAST, Denoiser, Encoder
from .process import adapted_grid

SCHEMA = 1
SHIPPED = Path(__file__).parent / "models"
METADATA, WEIGHTS = "metadata.json", "model.safetensors"
# A model folder may come from anywhere: no description of a network may ask for more than this.
LARGEST_CHANNELS, LARGEST_STAGES, LARGEST_CLASSES, LARGEST_STRATA, LARGEST_GAIN = 512, 6, 128, 64, 64


@dataclass
class Model:
    """Networks in evaluation mode and what is known about them; `metadata` is the whole of metadata.json."""

    metadata: dict[str, Any]
    encoder: Encoder
    denoiser: Denoiser

    @property
    def section(self) -> dict[str, Any]:
        """Our section of the metadata."""
        return self.metadata["diffusion_segmentation"]

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Label, id, name, colour and terminology of each class but background, by label."""
        return self.section["labels"]

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels) + 1

    @property
    def spacing(self) -> float:
        """Working voxel size, mm."""
        return self.section["working_spacing_mm"]

    @property
    def dims(self) -> int:
        """Axes of what the networks work on: 3, or 2 for pictures."""
        return self.section["network"].get("dims", 3)

    @property
    def multiple(self) -> int:
        """Windows have a multiple of this many voxels along each axis."""
        return Encoder.multiple(tuple(self.section["network"]["encoder"]["channels"]))

    def step_grid(self, steps: int) -> np.ndarray:
        """The task-adapted log-SNR nodes [steps], from the loss curve that training recorded."""
        curve = self.section["process"]["loss_curve"]
        return adapted_grid(np.array(curve["log_snr"]), np.array(curve["cross_entropy"]), steps)

    def to(self, device: torch.device) -> Model:
        """Move to a device. Channels last in memory: convolutions run twice as fast so on CPU and GPU."""
        for network in (self.encoder, self.denoiser):
            network.to(device=device, memory_format=CHANNELS_LAST[self.dims])
        return self


def build(network: dict[str, Any], classes: int) -> tuple[Encoder, Denoiser]:
    """Networks with random weights from the `network` entry of the metadata.

    Raises ModelError when the entry is not one that this version can build.
    """
    try:
        encoder, denoiser = network["encoder"], network["denoiser"]
        channels, blocks = tuple(encoder["channels"]), tuple(encoder["blocks"])
        light, light_blocks = tuple(denoiser["channels"]), denoiser["blocks"]
        dims, strata, gain = network.get("dims", 3), denoiser.get("strata", 0), denoiser.get("gain", 0.0)
        numbers = (*channels, *blocks, *light, light_blocks, classes)
        sound = (
            dims in (2, 3)
            and all(isinstance(n, int) and 0 < n <= LARGEST_CHANNELS for n in numbers)
            and all(c % 8 == 0 for c in (*channels, *light))
            and 2 <= len(channels) == len(blocks) <= LARGEST_STAGES
            and len(light) == 2
            and max(*blocks, light_blocks) <= 8
            and 2 <= classes <= LARGEST_CLASSES
            and isinstance(strata, int)
            and 0 <= strata <= LARGEST_STRATA
            and isinstance(gain, (int, float))
            and 0 <= gain <= LARGEST_GAIN
        )
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ModelError(
            "The model's metadata describe a network that this version cannot build; update the extension or the model."
        )
    return (
        Encoder(classes, channels, blocks, dims),
        Denoiser(classes, channels[0], light, light_blocks, dims, strata, gain),
    )


def available(root: Path = SHIPPED) -> list[dict[str, Any]]:
    """Metadata of the models in a folder of models, by name; folders that are no models are left out."""
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            found.append(read_metadata(folder))
        except ModelError:
            continue
    return found


def find(name: str) -> Path:
    """The folder of a model, by the name of a shipped one or by its path. Raises ModelError when there is none."""
    for folder in (SHIPPED / name, Path(name)):
        if (folder / METADATA).is_file():
            return folder
    names = ", ".join(m["diffusion_segmentation"]["name"] for m in available()) or "none"
    raise ModelError(f"There is no model '{name}'; give the name of a shipped one ({names}) or a model folder.")


def read_metadata(folder: Path) -> dict[str, Any]:
    """metadata.json, checked as far as it can be without the weights. Raises ModelError."""
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        section = metadata["diffusion_segmentation"]
        schema = section["schema"]
    except OSError:
        raise ModelError(
            f"The model '{folder.name}' has no readable {METADATA}; copy the whole model folder again."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"The {METADATA} of the model '{folder.name}' is none of this program's; copy the whole model folder again."
        ) from None
    if schema != SCHEMA:
        raise ModelError(
            f"The model '{folder.name}' has schema version {schema} and this program reads "
            f"version {SCHEMA}; update the older of the two."
        )
    if not _sound(section):
        raise ModelError(
            f"The {METADATA} of the model '{folder.name}' is incomplete; copy the whole model folder again."
        )
    return metadata


def load(folder: Path) -> Model:
    """Read a model folder onto the CPU.

    Raises ModelError: a file is missing, the checksum differs, the schema is another, the weights do not fit.
    """
    metadata = read_metadata(folder)
    section = metadata["diffusion_segmentation"]
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError:
        raise ModelError(f"The model '{folder.name}' lacks its {WEIGHTS}; copy the whole model folder again.") from None
    if hashlib.sha256(data).hexdigest() != section["sha256"]:
        raise ModelError(
            f"The weights of the model '{folder.name}' differ from their checksum; copy the whole model folder again."
        )
    encoder, denoiser = build(section["network"], len(section["labels"]) + 1)
    try:
        state = {name: tensor.float() for name, tensor in safetensors.load(data).items()}
        networks = torch.nn.ModuleDict({"encoder": encoder, "denoiser": denoiser})
        networks.load_state_dict(state)
    except (SafetensorError, RuntimeError):
        raise ModelError(
            f"The weights of the model '{folder.name}' do not fit its metadata; copy the whole model folder again."
        ) from None
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise ModelError(
            f"The weights of the model '{folder.name}' are not all finite numbers; copy the whole model folder again."
        )
    networks.eval().requires_grad_(False)
    return Model(metadata, encoder, denoiser)


def save(folder: Path, metadata: dict[str, Any], encoder: Encoder, denoiser: Denoiser) -> None:
    """Write a model folder: float16 weights, then metadata with their checksum. A file that exists is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = torch.nn.ModuleDict({"encoder": encoder, "denoiser": denoiser})
    state = {name: tensor.detach().half().contiguous().cpu() for name, tensor in networks.state_dict().items()}
    data = safetensors.save(state)
    metadata = {
        **metadata,
        "diffusion_segmentation": {**metadata["diffusion_segmentation"], "sha256": hashlib.sha256(data).hexdigest()},
    }
    for name, content in (
        (WEIGHTS, data),
        (METADATA, json.dumps(metadata, indent=2, ensure_ascii=False).encode() + b"\n"),
    ):
        part = folder / (name + ".part")
        part.write_bytes(content)
        os.replace(part, folder / name)


def _sound(section: dict[str, Any]) -> bool:
    """Whether our section holds what the rest of the engine takes for granted, with the right types."""
    try:
        labels = section["labels"]
        return (
            isinstance(section["name"], str)
            and isinstance(section["title"], str)
            and isinstance(section["sha256"], str)
            and section["map_source"] in ("samples", "direct")
            and 0.2 <= section["working_spacing_mm"] <= 10
            and [entry["label"] for entry in labels] == list(range(1, len(labels) + 1))
            and all(isinstance(entry[key], str) for entry in labels for key in ("id", "name", "terminology"))
            and all(len(entry["color"]) == 3 and all(0 <= c <= 1 for c in entry["color"]) for entry in labels)
            and len(section["window"]) == section["network"].get("dims", 3)
            and all(isinstance(n, int) and 0 < n <= 1024 for n in section["window"])
            and all(section["steps"][device] >= 1 for device in ("cpu", "gpu"))
            and len(section["process"]["loss_curve"]["log_snr"])
            == len(section["process"]["loss_curve"]["cross_entropy"])
            >= 2
            and _sound_intensity(section.get("intensity"))
            and all(len(section["input_range"][key]) == 2 for key in ("spacing_mm", "extent_mm"))
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def _sound_intensity(intensity: Any) -> bool:
    """Whether `normalise` can follow it: nothing, or a window of two rising numbers."""
    if intensity is None:
        return True
    low, high = intensity["window"]
    return isinstance(low, int | float) and isinstance(high, int | float) and low < high
