"""The networks that a study trains, each described by its settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

SCHEMA = 5  # raise whenever training changes, so that cached variants are trained again
ENSEMBLE_SIZE = 5  # networks of a deep ensemble, which share the training time of one variant
DROPOUT_RATE = 0.1


@dataclass(frozen=True)
class Variant:
    """Settings of one network to train. Field names and values are part of the cache key."""

    task: str
    seed: int = 0
    form: str = "diffusion"
    """diffusion: masks from noise given the image; direct: probabilities from the image alone; stochastic: direct with
    correlated Gaussian logits (SSN); mask: denoises masks without the image; image: denoises images."""
    architecture: str = "pair"
    loss: str = "ce"
    """Cross-entropy (ce), plus Dice (dice); for diffusion also the squared error of x0 (mse), v or the noise (eps)."""
    state: str = "mask"
    """Network input: the noisy mask (mask), pure noise, another case's noisy mask (shuffled), or nothing."""
    schedule: str = "adapted"
    """Training noise levels: adapted to the loss curve, or from the cosine or linear schedule."""
    input_scale: float = 0.5
    dropout: float = 0.0
    halved: bool = False  # whether it is trained on windows of half the edge
    crops: str = "image"
    """Position of these windows: uniform (image), or half of them around a labelled voxel (labels), which is biased."""
    noise: str = "white"
    """Noise of a diffusion model: white, or a mixture of widths (mixed); see `noise.SPECTRA`."""
    on: str = ""
    """Loss of the direct network of the same task and seed on top of which a diffusion model is trained, if any."""
    member: int = -1  # index in a deep ensemble, 0 to ENSEMBLE_SIZE - 1; -1 for a single network

    @property
    def share(self) -> float:
        """Training time as a share of a single network's."""
        return 1.0 if self.member < 0 else 1 / ENSEMBLE_SIZE

    @property
    def frozen(self) -> Variant | None:
        """The direct network on top of which this variant is trained."""
        return Variant(self.task, self.seed, form="direct", loss=self.on) if self.on else None

    @property
    def random_seed(self) -> int:
        return 1000 * self.seed + self.member + 1

    def key(self, content: str, minutes: float, processor: str) -> str:
        """Cache key of the training: settings, hash of the task's arrays, time, and "cpu" or the name of the GPU."""
        identity = {
            **asdict(self),
            "task": content,
            "minutes": round(minutes, 3),
            "device": processor,
            "schema": SCHEMA,
        }
        if self.noise == "white":
            del identity["noise"]  # networks cached before there was a choice stay valid
        return json_digest(identity)

    def title(self) -> str:
        """Short description: the settings that differ from the defaults."""
        parts = [self.task, self.form, self.loss]
        parts += [self.architecture] if self.architecture != "pair" else []
        parts += [f"state {self.state}"] if self.state != "mask" else []
        parts += [f"{self.schedule} {self.input_scale:g}"] if self.schedule != "adapted" else []
        parts += [f"{self.noise} noise"] if self.noise != "white" else []
        parts += [f"on top of direct, {self.on}"] if self.on else []
        parts += ["dropout"] if self.dropout else []
        parts += [f"crops by {self.crops}"] if self.halved else []
        parts += [f"member {self.member + 1}"] if self.member >= 0 else []
        return f"{', '.join(parts)}, seed {self.seed}"


def ensemble(task: str, seed: int, loss: str = "ce") -> list[Variant]:
    """The members of a deep ensemble (Lakshminarayanan et al. 2017); they differ in their random seeds only."""
    return [Variant(task, seed, form="direct", loss=loss, member=member) for member in range(ENSEMBLE_SIZE)]


def json_digest(content: object, digits: int = 16) -> str:
    """First hexadecimal digits of the SHA-256 of the content as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:digits]
