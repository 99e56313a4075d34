"""Reading and writing model folders; no code of a folder is run.

    <name>/metadata.json       MONAI's bundle metadata with our section `diffusion_segmentation`
    <name>/model.safetensors   weights of encoder and denoiser, with their SHA-256 in the metadata, and the statistics
                               of the training scans if the metadata have an entry `input_statistics`

Weights are stored as float16, bfloat16 or float32 and used as float32. Only the folder itself may be a symbolic link.
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
from safetensors import torch as safetensors

from ..diffusion.copula import Covariance
from ..diffusion.process import adapted_grid
from ..errors import ModelError, shown
from ..images.writing import replace as replace_file
from ..networks import (
    CHANNELS_LAST,
    AnyEncoder,
    Denoiser,
    Encoder,
    GivenLogits,
    InputStatistics,
)
from ..runtime.locations import user_models
from .building import build_on_meta_device
from .frozen import given_logits, is_foreign, on_frozen, require_fit
from .metadata import (
    DIFFUSION,
    METADATA,
    NNUNET,
    dims,
    file_error,
    folder_name,
    kind,
    lowest_log_snr,
    read_metadata,
)
from .metadata import SCHEMA as SCHEMA
from .weights import MISMATCH, WEIGHTS, has_weights, read_weights

SHIPPED = Path(__file__).parents[1] / "models"
INPUT_STATISTICS = "input_statistics"
"""Prefix of the tensors of `InputStatistics`, and name of their entry in the metadata."""
MIN_NODE_DISTANCE = 0.5  # minimum distance in log-SNR between a correlated start and the next node of the step grid
DEFAULT_SAMPLES, DEFAULT_COPULA_SAMPLES = 8, 64


@dataclass(frozen=True)
class Start:
    """Correlated start of the sampler: a copula mask with this covariance, noised to `log_snr` and then denoised."""

    covariance: Covariance
    log_snr: float | None  # None: the copula mask is the sample and the denoiser is not used

    def as_json(self) -> dict[str, Any]:
        """The entry `start` of a model's metadata."""
        return {"covariance": self.covariance.as_json(), "log_snr": self.log_snr}


@dataclass
class Model:
    """Networks in evaluation mode with the content of metadata.json."""

    metadata: dict[str, Any]
    encoder: AnyEncoder
    denoiser: Denoiser
    input_statistics: InputStatistics | None = None  # of the scans that the model was made for, if the folder has them

    @property
    def section(self) -> dict[str, Any]:
        """Our section of the metadata."""
        return self.metadata["diffusion_segmentation"]

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Label, id, name, colour and terminology of each foreground class, ordered by label."""
        return self.section["labels"]

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels) + 1

    @property
    def names(self) -> list[str]:
        """Names of the classes, background first."""
        return ["background", *(entry["name"] for entry in self.labels)]

    @property
    def spacing(self) -> float:
        """Edge of a voxel of the working grid (mm)."""
        return self.section["working_spacing_mm"]

    @property
    def start(self) -> Start | None:
        """Correlated start fitted to this model; None if the sampler starts from white noise."""
        entry = self.section.get("start")
        if entry is None:
            return None
        return Start(Covariance.read(entry["covariance"]), entry["log_snr"])

    @property
    def lowest_log_snr(self) -> float:
        return lowest_log_snr(self.section)

    def with_start(self, start: Start | None) -> Model:
        """Return this model with another start of the sampler; the networks are shared."""
        section = {key: value for key, value in self.section.items() if key != "start"}
        if start is not None:
            section["start"] = start.as_json()
        return replace(self, metadata={**self.metadata, "diffusion_segmentation": section})

    @property
    def is_copula_only(self) -> bool:
        """Whether copula masks are the samples: no denoiser is run and their exact mean is the direct head."""
        start = self.start
        return start is not None and start.log_snr is None

    @property
    def default_samples(self) -> int:
        """Number of samples unless a run sets one."""
        return DEFAULT_COPULA_SAMPLES if self.is_copula_only else DEFAULT_SAMPLES

    def default_steps(self, device: torch.device) -> int:
        """Number of nodes of the step grid on `device` unless a run sets it."""
        return self.section["steps"]["cpu" if device.type == "cpu" else "gpu"]

    @property
    def map_prior(self) -> float:
        """k of the map (n * mean of n samples + k * direct head) / (n + k); infinite for the direct head alone."""
        if "map_prior" in self.section:
            return float(self.section["map_prior"])
        # Models of version 0.3 and older name one source of the map.
        return math.inf if self.section["map_source"] == "direct" else 0.0

    @property
    def dims(self) -> int:
        """Spatial dimensions: 3 for volumes, 2 for pictures."""
        return dims(self.section["network"])

    @property
    def multiple(self) -> int:
        """Window edges are multiples of this number of voxels."""
        return 2**self.encoder.levels

    @property
    def foreign(self) -> dict[str, Any] | None:
        """The entry `frozen` for a model on top of a network that others trained, which runs apart from this one.

        None for all other models.
        """
        frozen = self.section.get("frozen")
        return frozen if frozen is not None and is_foreign(frozen) else None

    def step_grid(self, steps: int) -> np.ndarray:
        """Rising log-SNR nodes [<= `steps`] from the training loss curve; see `adapted_grid`.

        With a correlated start the first node is its log-SNR and earlier nodes are dropped.
        """
        curve = self.section["process"]["loss_curve"]
        grid = adapted_grid(np.array(curve["log_snr"]), np.array(curve["cross_entropy"]), steps)
        if self.start is None or self.start.log_snr is None:
            return grid
        first = self.start.log_snr
        return np.concatenate([[first], grid[grid > first + MIN_NODE_DISTANCE]])

    def to(self, device: torch.device) -> Model:
        """Move to a device, channels last in memory: twice as fast for convolutions on CPU and GPU."""
        for network in (self.encoder, self.denoiser):
            layout = CHANNELS_LAST[self.dims]
            network.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # torch types lack memory_format
        return self


def available(root: Path = SHIPPED) -> list[dict[str, Any]]:
    """Metadata of the models in the folder `root`, ordered by name.

    Subfolders that fail to load, or whose name differs from the model's name, are omitted. Of models of other kinds
    only the metadata and the sizes of the files are checked.
    """
    models = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            metadata = read_metadata(folder)
            if metadata["diffusion_segmentation"]["name"] != folder.name:
                continue
            if kind(metadata["diffusion_segmentation"]) == DIFFUSION:
                models.append(load(folder).metadata)
            elif has_weights(folder, metadata):
                models.append(metadata)
        except ModelError:
            continue
    return models


def find(name: str) -> Path:
    """Folder of an installed model (`name`) or of any other (`name` is its path).

    A shipped model comes before one of the user. Raises ModelError if there is none.
    """
    installed = [root / name for root in (SHIPPED, user_models())] if name and name == Path(name).name else []
    for folder in (*installed, Path(name)):
        try:
            if (folder / METADATA).is_file():
                return folder
        except (OSError, ValueError):  # invalid file name, or no permission
            continue
    models = available() + available(user_models())
    names = ", ".join(m["diffusion_segmentation"]["name"] for m in models) or "none"
    raise ModelError(
        f"There is no model '{shown(name)}'; give the name of an installed one ({names}) or a model folder."
    )


def load(folder: Path) -> Model:
    """Read a model folder onto the CPU.

    Raises ModelError if a file is missing or a link, the metadata are invalid or of another schema, the checksum
    differs, or the weights do not fit the metadata or are not finite.
    """
    metadata = read_metadata(folder)
    section = metadata["diffusion_segmentation"]
    if kind(section) != DIFFUSION:
        what = "an nnU-Net" if kind(section) == NNUNET else "a network of MONAI"
        raise ModelError(
            f"The model '{folder_name(folder)}' is {what}, which has no denoiser; `segment` can run it, and "
            "`train --on` can train a sampler on top of it."
        )
    classes = len(section["labels"]) + 1
    on_top = section.get("frozen") is not None
    encoder, denoiser = build_on_meta_device(section["network"], classes, on_top)
    stated = section.get(INPUT_STATISTICS)
    input_statistics = InputStatistics(classes, section["network"]["encoder"]["channels"][0]) if stated else None
    modules = _module_dict(encoder, denoiser, input_statistics)
    count = sum(tensor.numel() for tensor in modules.state_dict().values())
    state = read_weights(folder, WEIGHTS, section["sha256"], count)
    try:
        modules.load_state_dict(state, assign=True)
    except RuntimeError:
        raise file_error(folder, *MISMATCH) from None
    if input_statistics is not None and not (
        input_statistics.sound and float(input_statistics.scans) == stated["scans"]
    ):
        raise file_error(folder, *MISMATCH)
    modules.eval().requires_grad_(False)
    whole: AnyEncoder = encoder
    if on_top:
        found = find_by_digest(section["frozen"]["name"], section["frozen"]["sha256"], folder.resolve().parent)
        whole = on_frozen(_frozen_network(found, folder, section), encoder, section["frozen"])
    return Model(metadata, whole, denoiser, input_statistics)


def _frozen_network(found: Path, folder: Path, section: dict[str, Any]) -> Encoder | GivenLogits:
    """The network of the model in `found`, on which the one in `folder` was trained, or what stands for a foreign one.

    Raises ModelError.
    """
    require_fit(found, folder, section)
    return given_logits(section) if is_foreign(section["frozen"]) else load(found).encoder.trained


def frozen_section(folder: Path, section: dict[str, Any]) -> dict[str, Any] | None:
    """Our section of the model that the one in `folder`, with `section`, is on top of; None for others.

    Raises ModelError if it is missing.
    """
    if (frozen := section.get("frozen")) is None:
        return None
    found = find_by_digest(frozen["name"], frozen["sha256"], folder.resolve().parent)
    return read_metadata(found)["diffusion_segmentation"]


def find_by_digest(name: str, sha256: str, beside: Path) -> Path:
    """Folder of the model with this checksum: an installed one, or one that lies in the folder `beside`.

    Raises ModelError, which names it as `name`, if there is none.
    """
    roots = [root for root in (SHIPPED, user_models(), beside) if root.is_dir()]
    candidates = [path for root in roots for path in sorted(root.iterdir()) if path.is_dir()]
    for folder in candidates:
        try:
            if read_metadata(folder)["diffusion_segmentation"]["sha256"] == sha256:
                return folder
        except ModelError:
            continue
    raise ModelError(
        f"This model needs the model '{name}' that it was trained on (checksum {sha256[:12]}); add it with "
        "`diffusion-segmentation models add`, or put its folder beside this one."
    )


def save(
    folder: Path,
    metadata: dict[str, Any],
    encoder: AnyEncoder,
    denoiser: Denoiser,
    input_statistics: InputStatistics | None = None,
) -> None:
    """Write a model folder: float16 weights, then metadata with their checksum, each file atomically.

    Weights of a frozen model on which this one was trained are not written.

    `input_statistics` stay float32: float16 is too coarse for an inverse covariance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {}
    for name, tensor in _module_dict(encoder.trained, denoiser, input_statistics).state_dict().items():
        tensor = tensor.detach()
        state[name] = (tensor if name.startswith(f"{INPUT_STATISTICS}.") else tensor.half()).contiguous().cpu()
    data = safetensors.save(state)
    section = {**metadata["diffusion_segmentation"], "sha256": hashlib.sha256(data).hexdigest()}
    section.pop(INPUT_STATISTICS, None)
    if input_statistics is not None:
        section[INPUT_STATISTICS] = {"scans": int(input_statistics.scans)}
    metadata = {**metadata, "diffusion_segmentation": section}
    text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
    for name, content in ((WEIGHTS, data), (METADATA, text.encode())):
        part = folder / (name + ".part")
        part.write_bytes(content)
        replace_file(part, folder / name)


def _module_dict(encoder: Encoder, denoiser: Denoiser, input_statistics: InputStatistics | None) -> torch.nn.ModuleDict:
    """All stored modules; its keys are the prefixes of the stored tensors."""
    optional = {} if input_statistics is None else {INPUT_STATISTICS: input_statistics}
    return torch.nn.ModuleDict({"encoder": encoder, "denoiser": denoiser, **optional})
