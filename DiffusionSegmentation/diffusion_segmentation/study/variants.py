"""What a study trains: one network each, described by what is done differently."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

SCHEMA = 1
"""Raised whenever training changes, so that arms trained before do not count."""
FORMS = ("diffusion", "direct", "stochastic", "mask", "image")
MEMBERS = 5
"""Networks of a deep ensemble, which share the time of one arm."""
DROPPED = 0.1


@dataclass(frozen=True)
class Arm:
    """A network in training on a task, by name. Two arms that differ in nothing are one."""

    task: str
    seed: int = 0
    form: str = "diffusion"
    """Draws masks from noise given the image (diffusion), or gives probabilities from the image alone (direct), with
    correlated Gaussian logits (stochastic, SSN); denoises masks without seeing the image (mask), or images (image)."""
    architecture: str = "pair"
    loss: str = "ce"
    """Cross-entropy (ce), with a Dice term (dice); of diffusion also the squared error of x0 (mse), v or epsilon."""
    state: str = "mask"
    """What the network gets as its noisy mask: that (mask), pure noise, one of another case (shuffled), or nothing."""
    schedule: str = "adapted"
    """Where noise levels are drawn in training: where the loss falls (adapted), or by the cosine or linear schedule."""
    input_scale: float = 0.5
    dropout: float = 0.0
    halved: bool = False
    """Whether it is trained on windows of half the edge."""
    crops: str = "image"
    """Such windows anywhere (image), or half of them around the drawn mask (labels), which biases."""
    member: int = -1
    """Of a deep ensemble, 0 to MEMBERS - 1; -1 for a network by itself."""

    @property
    def share(self) -> float:
        """Of the time that an arm gets."""
        return 1.0 if self.member < 0 else 1 / MEMBERS

    @property
    def number(self) -> int:
        """Seed of its random numbers."""
        return 1000 * self.seed + self.member + 1

    def key(self, content: str, minutes: float, device: str) -> str:
        """Tells this training from any other: of which arrays, how long, on what kind of device."""
        said = {**asdict(self), "task": content, "minutes": round(minutes, 3), "device": device, "schema": SCHEMA}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def title(self) -> str:
        """A few words for the progress line."""
        parts = [self.task, self.form, self.loss]
        parts += [self.architecture] if self.architecture != "pair" else []
        parts += [f"state {self.state}"] if self.state != "mask" else []
        parts += [f"{self.schedule} {self.input_scale:g}"] if self.schedule != "adapted" else []
        parts += ["dropout"] if self.dropout else []
        parts += [f"crops by {self.crops}"] if self.halved else []
        parts += [f"member {self.member + 1}"] if self.member >= 0 else []
        return f"{', '.join(parts)}, seed {self.seed}"


def ensemble(task: str, seed: int, **what: str) -> list[Arm]:
    """The members of a deep ensemble (Lakshminarayanan et al. 2017): alike but for their random numbers."""
    return [Arm(task, seed, form="direct", member=member, **what) for member in range(MEMBERS)]
