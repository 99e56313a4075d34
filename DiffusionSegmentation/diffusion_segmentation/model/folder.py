"""A model folder: networks, process and metadata, written and read without running anything from it.

    <name>/metadata.json       MONAI's bundle metadata schema, and a section `diffusion_segmentation` of our own
    <name>/model.safetensors   the weights of encoder and denoiser, named by SHA-256 in the metadata, and, where an
                               entry `input_statistics` says so, what the model knows of the scans that it was made for

Weights may be stored as float16 or bfloat16; they are used as float32. The folder may be a link, its files may not.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from ..diffusion.copula import Covariance
from ..diffusion.process import LOG_SNR_MIN, adapted_grid
from ..errors import ModelError
from ..images.writing import replace as replace_file
from ..networks import CHANNELS_LAST, BlockVolumeConstraint, Denoiser, Encoder, InputStatistics, space_to_depth
from .metadata import METADATA, check_network, contents, read_metadata, shown
from .metadata import SCHEMA as SCHEMA

SHIPPED = Path(__file__).parents[1] / "models"
WEIGHTS = "model.safetensors"
INPUT_STATISTICS = "input_statistics"
"""What scans are compared by: the name of its tensors, and of the metadata's entry that says that they are there."""
# Twenty times the shipped model's; 400 MB as float32.
MOST_WEIGHTS = 100_000_000
LARGEST_HEADER = 2**20
CLOSEST_NODES = 0.5
"""Nodes of a step grid lie at least so far apart in log-SNR behind a correlated start."""
SAMPLES, FREE_SAMPLES = 8, 64
"""Default number of samples: of a sampler that runs a network for each, and of one that does not."""
STORED = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Start:
    """Where the sampler starts: a mask of the copula with this covariance, taken to `log_snr` and denoised from there.

    With `log_snr` None the mask of the copula is the sample, and no sample costs a pass of a network. With `kept_mm`
    the denoised sample has as much of each class as that mask in blocks of so many mm (`BlockVolumeConstraint`).
    """

    covariance: Covariance
    log_snr: float | None
    kept_mm: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The entry `start` of a model's metadata."""
        kept = {} if self.kept_mm is None else {"kept_mm": self.kept_mm}
        return {"covariance": self.covariance.as_json(), "log_snr": self.log_snr, **kept}


@dataclass
class Model:
    """Networks in evaluation mode and what is known about them; `metadata` is the whole of metadata.json.

    `input_statistics` are of the scans that the model was made for; None in models that do not have them.
    """

    metadata: dict[str, Any]
    encoder: Encoder
    denoiser: Denoiser
    input_statistics: InputStatistics | None = None

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
    def names(self) -> list[str]:
        """What the classes are called, background first."""
        return ["background", *(entry["name"] for entry in self.labels)]

    @property
    def spacing(self) -> float:
        """Working voxel size, mm."""
        return self.section["working_spacing_mm"]

    @property
    def start(self) -> Start | None:
        """The correlated start that was fitted to this model; None where the sampler starts from white noise."""
        entry = self.section.get("start")
        if entry is None:
            return None
        return Start(Covariance.read(entry["covariance"]), entry["log_snr"], entry.get("kept_mm"))

    @property
    def lowest_log_snr(self) -> float:
        """The lowest noise level at which the denoiser was trained: no sample can start below it."""
        return self.section["process"].get("lowest_log_snr", LOG_SNR_MIN)

    def starting(self, start: Start | None) -> Model:
        """The same networks with another start of the sampler."""
        section = {key: value for key, value in self.section.items() if key != "start"}
        if start is not None:
            section["start"] = start.as_json()
        return replace(self, metadata={**self.metadata, "diffusion_segmentation": section})

    @property
    def is_free(self) -> bool:
        """Whether samples cost no pass of a network: masks of the copula, whose exact mean is the direct head."""
        start = self.start
        return start is not None and start.log_snr is None

    @property
    def default_samples(self) -> int:
        """Samples that are drawn unless a number is asked for: many where they are free."""
        return FREE_SAMPLES if self.is_free else SAMPLES

    @property
    def map_prior(self) -> float:
        """The k of the map (n * mean of the samples + k * direct head) / (n + k); infinite: the direct head alone."""
        if "map_prior" in self.section:
            return float(self.section["map_prior"])
        # Models of version 0.3 and older have no k, but one of two sources.
        return math.inf if self.section["map_source"] == "direct" else 0.0

    @property
    def dims(self) -> int:
        """Axes of what the networks work on: 3, or 2 for pictures."""
        return self.section["network"].get("dims", 3)

    @property
    def multiple(self) -> int:
        """Windows have a multiple of this many voxels along each axis."""
        return Encoder.multiple(tuple(self.section["network"]["encoder"]["channels"]))

    def step_grid(self, steps: int) -> np.ndarray:
        """The log-SNR nodes [at most `steps`], rising, from the loss curve that training recorded.

        From the log-SNR of a correlated start only the later nodes are left.
        """
        curve = self.section["process"]["loss_curve"]
        grid = adapted_grid(np.array(curve["log_snr"]), np.array(curve["cross_entropy"]), steps)
        if self.start is None or self.start.log_snr is None:
            return grid
        first = self.start.log_snr
        return np.concatenate([[first], grid[grid > first + CLOSEST_NODES]])

    def kept_blocks(self, masks: np.ndarray, device: torch.device) -> BlockVolumeConstraint | None:
        """What keeps the class contents of the blocks of start masks uint8 [N, *shape]; None where they are free."""
        if self.start is None or self.start.kept_mm is None:
            return None
        edge = max(1, round(self.start.kept_mm / (2 * self.spacing)))
        labels = space_to_depth(torch.from_numpy(masks)[:, None].to(device))
        return BlockVolumeConstraint(labels, self.classes, edge)

    def to(self, device: torch.device) -> Model:
        """Move to a device. Channels last in memory: convolutions run twice as fast so on CPU and GPU."""
        for network in (self.encoder, self.denoiser):
            network.to(device=device, memory_format=CHANNELS_LAST[self.dims])
        return self


def build(network: dict[str, Any], classes: int) -> tuple[Encoder, Denoiser]:
    """Networks with random weights from the `network` entry of the metadata.

    Raises ModelError when the entry is not one that this version can build.
    """
    _empty(network, classes)
    return _networks(network, classes)


def available(root: Path = SHIPPED) -> list[dict[str, Any]]:
    """Metadata of the models in a folder of models, by name; folders that are no models are left out.

    Only what loads is a model, and only under its own name: half a copy is none, nor one that passes for another.
    """
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            if read_metadata(folder)["diffusion_segmentation"]["name"] == folder.name:
                found.append(load(folder).metadata)
        except ModelError:
            continue
    return found


def find(name: str) -> Path:
    """The folder of a model, by the name of a shipped one or by its path. Raises ModelError when there is none."""
    shipped = [SHIPPED / name] if name and name == Path(name).name else []
    for folder in (*shipped, Path(name)):
        try:
            if (folder / METADATA).is_file():
                return folder
        except (OSError, ValueError):  # a name that no file can have, a folder without permission
            continue
    names = ", ".join(m["diffusion_segmentation"]["name"] for m in available()) or "none"
    raise ModelError(f"There is no model '{shown(name)}'; give the name of a shipped one ({names}) or a model folder.")


def load(folder: Path) -> Model:
    """Read a model folder onto the CPU.

    Raises ModelError: a file is missing or a link, an entry of the metadata is wrong, the schema is another, the
    checksum differs, the weights do not fit or are no finite numbers.
    """
    metadata = read_metadata(folder)
    section = metadata["diffusion_segmentation"]
    classes = len(section["labels"]) + 1
    encoder, denoiser = _empty(section["network"], classes)
    known = section.get(INPUT_STATISTICS)
    input_statistics = InputStatistics(classes, section["network"]["encoder"]["channels"][0]) if known else None
    networks = _parts(encoder, denoiser, input_statistics)
    state = _read_weights(folder, section["sha256"], sum(part.numel() for part in networks.state_dict().values()))
    try:
        networks.load_state_dict(state, assign=True)
    except RuntimeError:
        raise _misfit(folder) from None
    if known and not (input_statistics.sound and float(input_statistics.scans) == known["scans"]):
        raise _misfit(folder)
    networks.eval().requires_grad_(False)
    return Model(metadata, encoder, denoiser, input_statistics)


def save(
    folder: Path,
    metadata: dict[str, Any],
    encoder: Encoder,
    denoiser: Denoiser,
    input_statistics: InputStatistics | None = None,
) -> None:
    """Write a model folder: float16 weights, then metadata with their checksum. A file that exists is whole.

    The numbers of `input_statistics` stay float32: an inverse covariance in float16 is none any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach() for name, tensor in _parts(encoder, denoiser, input_statistics).state_dict().items()}
    kept = f"{INPUT_STATISTICS}."
    data = safetensors.save(
        {name: (part if name.startswith(kept) else part.half()).contiguous().cpu() for name, part in state.items()}
    )
    section = {**metadata["diffusion_segmentation"], "sha256": hashlib.sha256(data).hexdigest()}
    section.pop(INPUT_STATISTICS, None)
    if input_statistics is not None:
        section[INPUT_STATISTICS] = {"scans": int(input_statistics.scans)}
    metadata = {**metadata, "diffusion_segmentation": section}
    for name, content in (
        (WEIGHTS, data),
        (METADATA, json.dumps(metadata, indent=2, ensure_ascii=False).encode() + b"\n"),
    ):
        part = folder / (name + ".part")
        part.write_bytes(content)
        replace_file(part, folder / name)


def _parts(encoder: Encoder, denoiser: Denoiser, input_statistics: InputStatistics | None) -> torch.nn.ModuleDict:
    """What is stored of a model, under the names that its tensors have there."""
    parts = {"encoder": encoder, "denoiser": denoiser}
    return torch.nn.ModuleDict(parts if input_statistics is None else {**parts, INPUT_STATISTICS: input_statistics})


def _networks(network: dict[str, Any], classes: int) -> tuple[Encoder, Denoiser]:
    encoder, denoiser = network["encoder"], network["denoiser"]
    channels, dims = tuple(encoder["channels"]), network.get("dims", 3)
    return (
        Encoder(classes, channels, tuple(encoder["blocks"]), dims),
        Denoiser(
            classes,
            channels[0],
            tuple(denoiser["channels"]),
            denoiser["blocks"],
            dims,
            denoiser.get("strata", 0),
            denoiser.get("gain", 0.0),
            tuple(denoiser.get("pools", ())),
        ),
    )


def _empty(network: dict[str, Any], classes: int) -> tuple[Encoder, Denoiser]:
    """Networks that have shapes and no memory yet. Raises ModelError for what cannot be built or is too large."""
    check_network(network, classes)
    with torch.device("meta"):
        networks = _networks(network, classes)
    count = sum(parameter.numel() for half in networks for parameter in half.parameters())
    if count > MOST_WEIGHTS:
        raise ModelError(
            f"The model's metadata describe a network of {count / 1e6:.0f} million weights and this program takes "
            f"{MOST_WEIGHTS / 1e6:.0f} million at most; choose a smaller model."
        )
    return networks


def _read_weights(folder: Path, sha256: str, count: int) -> dict[str, torch.Tensor]:
    """The tensors of model.safetensors in float32, by name. `count` weights at most are read. Raises ModelError."""
    name = shown(folder)
    data = contents(folder, WEIGHTS, 4 * count + LARGEST_HEADER)
    if data is None:
        raise _misfit(folder)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(
            f"The weights of the model '{name}' differ from their checksum; copy the whole model folder again."
        )
    try:
        stored = safetensors.load(data)
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, AssertionError):
        raise ModelError(
            f"The {WEIGHTS} of the model '{name}' is damaged or of another format; copy the whole model folder again."
        ) from None
    if not all(tensor.dtype in STORED for tensor in stored.values()):
        raise ModelError(
            f"The weights of the model '{name}' are stored in a type that is none of float16, bfloat16 and float32; "
            "choose another model."
        )
    state = {key: tensor.float() for key, tensor in stored.items()}
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise ModelError(
            f"The weights of the model '{name}' are not all finite numbers; copy the whole model folder again."
        )
    return state


def _misfit(folder: Path) -> ModelError:
    return ModelError(
        f"The weights of the model '{shown(folder)}' do not fit its metadata; copy the whole model folder again."
    )
