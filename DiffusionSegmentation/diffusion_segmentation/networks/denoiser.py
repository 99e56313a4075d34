"""The denoiser: light, because it is what runs samples x steps times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..diffusion.process import alpha_sigma
from .blocks import CONV, CONV_TRANSPOSE, ResidualBlock, class_softmax, class_softmax_
from .pooled import PooledEvidence
from .strata import Strata


class Denoiser(nn.Module):
    """Class probabilities of x0 from the noisy state and the encoder's features.

    Were voxels independent given the image, the posterior would be known in closed form: by Bayes, with
    x | class k ~ N(alpha * x0(k), sigma^2) and x0 = 2 * onehot - 1,

        log p(k | x, image) = log p(k | image) + 2 * alpha / sigma^2 * x_k + const.

    The direct head supplies the first term, the state the second; the network learns only what neighbours add. It
    starts at zero, so training starts from the independent posterior instead of from nothing.

    States and logits are in space-to-depth form throughout ([N, 8 * classes, z/2, y/2, x/2]; in two dimensions
    [N, 4 * classes, y/2, x/2]): noise is drawn in it,
    steps are taken in it, and only what leaves the sampler is brought back: no pass spends time on moving memory.

    The arithmetic around the network is float32: at log-SNR 8 the factor of x is 6,000.

    With `pools`, blocks of so many cells tell each place what their states say together (`PooledEvidence`). With
    `strata` > 0, places that look alike pool what their states say (`Strata`). Both within a window.

    With `gain` > 0, what the network adds is multiplied by gain * e / (1 + e), e = 2 * alpha / sigma^2. Neighbours that
    share the voxel's fate have the same evidence to give as the voxel itself, e times their own x: the network then
    adds up x alike at every noise level, and where the state says nothing it adds nothing.
    """

    def __init__(
        self,
        classes: int,
        features: int,
        channels: tuple[int, int],
        blocks: int,
        dims: int = 3,
        strata: int = 0,
        gain: float = 0.0,
        pools: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.gain = gain
        fine, coarse = channels
        conv, cells = CONV[dims], 2**dims * classes
        self.embedding = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.condition = conv(features, fine, 1)
        self.enter = conv(cells, fine, 1)
        self.enter_posterior = conv(cells, fine, 1)
        self.first = ResidualBlock(fine, 64, dims)
        self.strata = Strata(features, fine, strata, 64, dims) if strata else None
        self.pooled = PooledEvidence(classes, fine, pools, 64, dims) if pools else None
        self.shrink = conv(fine, coarse, 2, stride=2)
        self.middle = nn.ModuleList(ResidualBlock(coarse, 64, dims) for _ in range(blocks))
        self.grow = CONV_TRANSPOSE[dims](coarse, fine, 2, stride=2)
        self.last = conv(fine, fine, 3, padding=1)
        self.norm = nn.GroupNorm(8, fine)
        self.head = conv(fine, cells, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def prepare(self, features: torch.Tensor, direct: torch.Tensor) -> torch.Tensor:
        """What the denoiser needs of a window, computed once and kept for all samples and steps.

        [N, fine + strata + 2 * classes, z/2, y/2, x/2]: the features' part of the first layer, the strata's shares, and
        what the direct head's logits let one expect of the state; the latter two where there are strata and pools.
        """
        parts = [self.condition(features)]
        if self.strata is not None:
            parts.append(self.strata.shares(features).to(parts[0].dtype))
        if self.pooled is not None:
            parts.append(self.pooled.expected(direct).to(parts[0].dtype))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def forward(
        self, x: torch.Tensor, log_snr: torch.Tensor, prepared: torch.Tensor, direct: torch.Tensor
    ) -> torch.Tensor:
        """Logits of x0 in float32, shaped as the state `x` [N, 8 * classes, z/2, y/2, x/2].

        log_snr [N]; prepared [1 or N, channels, z/2, y/2, x/2] from `prepare`; direct, the head's logits, as `x`
        or with N = 1.
        """
        evidence = _evidence(x, log_snr)
        x, direct = x.float(), direct.float()
        embedded = self.embedding(sinusoids(log_snr))
        shifts = self._shifts(x, log_snr, prepared)
        h = self._body(x, embedded, prepared, direct, evidence, shifts)
        logits = self._added(h, self.gain * evidence / (1 + evidence)).addcmul_(x, evidence).add_(direct)
        return logits if shifts is None else self.pooled.add(logits, shifts, embedded)

    def added(
        self, x: torch.Tensor, log_snr: torch.Tensor, prepared: torch.Tensor, direct: torch.Tensor
    ) -> torch.Tensor:
        """The network's own part of the answer, without gain and rule: for targets that are no logits. As `forward`."""
        x, direct = x.float(), direct.float()
        shifts = self._shifts(x, log_snr, prepared)
        embedded = self.embedding(sinusoids(log_snr))
        return self.head(self._body(x, embedded, prepared, direct, _evidence(x, log_snr), shifts)).float()

    def _body(
        self,
        x: torch.Tensor,
        embedded: torch.Tensor,
        prepared: torch.Tensor,
        direct: torch.Tensor,
        evidence: torch.Tensor,
        shifts: torch.Tensor | None,
    ) -> torch.Tensor:
        """What the head makes the answer of, [N, fine, z/2, y/2, x/2]."""
        with torch.autocast(x.device.type, enabled=False):
            independent = torch.addcmul(direct, x, evidence)
            posterior = class_softmax(independent) if torch.is_grad_enabled() else class_softmax_(independent)
        fine = self.condition.out_channels
        h = self.enter(x).add_(self._enter_posterior(posterior)).add_(prepared[:, :fine])
        if shifts is not None:
            h = h.add_(self.pooled.enter(shifts))
        h = self.first(h, embedded)
        if self.strata is not None:
            h = self.strata(h, prepared[:, fine : fine + self.strata.count], embedded)
        low = self.shrink(h)
        for block in self.middle:
            low = block(low, embedded)
        return nn.functional.silu(self.norm(self.last(nn.functional.silu(h + self.grow(low)))))

    def _shifts(self, x: torch.Tensor, log_snr: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor | None:
        if self.pooled is None:
            return None
        return self.pooled.shifts(x, log_snr, prepared[:, -2 * self.pooled.classes :])

    def _added(self, h: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """The head's float32 logits times `gain` [N, 1, ...]; of one sample in the weights, which spares a pass."""
        if not self.gain:
            return self.head(h).float()
        if len(gain) > 1:
            return self.head(h).float() * gain
        return _convolve(h, self.head.weight * gain.view(()), self.head.bias * gain.view(())).float()

    def _enter_posterior(self, p: torch.Tensor) -> torch.Tensor:
        """The layer `enter_posterior` on 2p - 1, with the scaling in the weights instead of two passes over p."""
        weight, bias = self.enter_posterior.weight, self.enter_posterior.bias
        return _convolve(p, 2 * weight, bias - weight.flatten(1).sum(1))


def _convolve(h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (nn.functional.conv2d if h.ndim == 4 else nn.functional.conv3d)(h, weight, bias)


def _evidence(x: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """2 * alpha / sigma^2 at the log-SNR [N], [N, 1, ...] with the axes of `x`."""
    alpha, sigma = (a.view(-1, *(1,) * (x.ndim - 1)) for a in alpha_sigma(log_snr))
    return 2 * alpha / sigma**2


def sinusoids(log_snr: torch.Tensor) -> torch.Tensor:
    """[N] -> [N, 32]: sines and cosines of lambda, periods from 2 pi / 4 to 2 pi * 16 in log-SNR."""
    frequencies = torch.exp(torch.linspace(math.log(1 / 16), math.log(4), 16, device=log_snr.device))
    angles = log_snr.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
