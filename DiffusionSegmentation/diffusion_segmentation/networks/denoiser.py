"""Denoiser: a small network, because it runs samples x steps times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..diffusion.process import alpha_sigma
from .block_shifts import BlockShifts
from .blocks import CONV, CONV_TRANSPOSE, ResidualBlock, class_softmax, class_softmax_, zero_initialised
from .facts import FactsNetwork
from .pooled_evidence import PooledEvidence
from .soft_regions import SoftRegionPooling


class Denoiser(nn.Module):
    """Class logits of x0 from the noisy state and the encoder's features.

    If voxels were independent given the image, the posterior would have a closed form: by Bayes, with
    x | class k ~ N(alpha * x0(k), sigma^2) and x0 = 2 * onehot - 1,

        log p(k | x, image) = log p(k | image) + 2 * alpha / sigma^2 * x_k + const.

    The direct head supplies the first term, the state the second; the network learns only the dependence between
    voxels. Its head is zero-initialised, so training starts from the independent posterior.

    States and logits are in space-to-depth layout throughout ([N, 8 * classes, z/2, y/2, x/2]; in two dimensions
    [N, 4 * classes, y/2, x/2]), in which the sampler works too, so no pass reorders memory. The arithmetic around the
    network is float32: at log-SNR 8 the factor of x is 6,000.

    Options: `pools` are block sizes in cells for `PooledEvidence`, or with `pool_variances` for `BlockShifts`; `strata`
    is the number of regions of `SoftRegionPooling` (0: none). Both act within a window. With `gain` > 0 the network's
    output is multiplied by gain * e / (1 + e), e = 2 * alpha / sigma^2: correlated voxels carry the same evidence as
    the voxel itself, e times their own x, so the network sums x alike at every noise level and adds nothing where the
    state is pure noise.
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
        pool_variances: bool = False,
        facts: tuple[int, ...] | None = None,
    ) -> None:
        """`facts`: channels of the levels of the `FactsNetwork`; None for a denoiser that cannot be given facts."""
        super().__init__()
        self.gain = gain
        fine, coarse = channels
        conv, cells = CONV[dims], 2**dims * classes
        self.embedding = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.condition = conv(features, fine, 1)
        self.enter = conv(cells, fine, 1)
        self.enter_posterior = conv(cells, fine, 1)
        self.first = ResidualBlock(fine, 64, dims)
        self.strata = SoftRegionPooling(features, fine, strata, 64, dims) if strata else None
        pooled = BlockShifts if pool_variances else PooledEvidence
        self.pooled = pooled(classes, fine, pools, 64, dims) if pools else None
        self.shrink = conv(fine, coarse, 2, stride=2)
        self.middle = nn.ModuleList(ResidualBlock(coarse, 64, dims) for _ in range(blocks))
        self.grow = CONV_TRANSPOSE[dims](coarse, fine, 2, stride=2)
        self.last = conv(fine, fine, 3, padding=1)
        self.norm = nn.GroupNorm(8, fine)
        self.head = zero_initialised(conv(fine, cells, 1))
        self.facts = None if facts is None else FactsNetwork(classes, features, facts, dims)

    def prepare(self, features: torch.Tensor, direct: torch.Tensor) -> torch.Tensor:
        """Inputs that depend on the window alone, computed once for all samples and steps.

        [N, fine + strata + 2 * classes, z/2, y/2, x/2]: the first layer's response to the encoder's features, the
        region assignment, and the expected state from the direct head's logits; the last two only with `strata` and
        `pools`, and all in float32 with `pool_variances`.
        """
        parts = [self.condition(features)]
        if self.strata is not None:
            parts.append(self.strata.assignment(features).to(parts[0].dtype))
        if self.pooled is not None:
            expected = self.pooled.expected(direct)
            parts.append(expected if isinstance(self.pooled, BlockShifts) else expected.to(parts[0].dtype))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def observe(self, direct: torch.Tensor, x0: torch.Tensor) -> None:
        """Measure what gradients do not learn, in a training step; arguments as for `BlockShifts.observe`."""
        if self.pooled is not None and self.pooled.weigh.weight.requires_grad:
            self.pooled.observe(direct, x0)

    def prepare_given(
        self, features: torch.Tensor, direct: torch.Tensor, facts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `prepare`, and the logits that take the place of the direct head's, given `facts` (see `FactsNetwork`).

        Raises ValueError if the denoiser cannot be given facts.
        """
        if self.facts is None:
            raise ValueError("This denoiser was not made to be given facts.")
        features, logits = self.facts.given(features, direct, facts)
        return self.prepare(features, logits.detach()), logits

    def forward(
        self, x: torch.Tensor, log_snr: torch.Tensor, prepared: torch.Tensor, direct: torch.Tensor
    ) -> torch.Tensor:
        """Logits of x0 in float32, shaped as the state `x` [N, 8 * classes, z/2, y/2, x/2].

        log_snr [N]; `prepared` [1 or N, channels, z/2, y/2, x/2] from `prepare`; `direct`, the direct head's logits,
        shaped as `x` or with N = 1.
        """
        h, evidence, shifts, embedded = self._hidden(x, log_snr, prepared, direct)
        logits = self._scaled_head(h, self.gain * evidence / (1 + evidence))
        logits = logits.addcmul_(x.float(), evidence).add_(direct.float())
        return logits if self.pooled is None else self.pooled.add(logits, shifts, embedded)

    def network_output(
        self, x: torch.Tensor, log_snr: torch.Tensor, prepared: torch.Tensor, direct: torch.Tensor
    ) -> torch.Tensor:
        """Output of the head alone, without gain and closed form, for targets that are not logits. As `forward`."""
        return self.head(self._hidden(x, log_snr, prepared, direct)[0]).float()

    def _hidden(
        self, x: torch.Tensor, log_snr: torch.Tensor, prepared: torch.Tensor, direct: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Input of the head [N, fine, z/2, y/2, x/2]; 2 * alpha / sigma^2 [N, 1, ...]; block shifts; embedding.

        Without `pools` there are no shifts, [0].
        """
        x, direct = x.float(), direct.float()
        alpha, sigma = (a.view(-1, *(1,) * (x.ndim - 1)) for a in alpha_sigma(log_snr))
        evidence = 2 * alpha / sigma**2
        embedded = self.embedding(sinusoids(log_snr))
        with torch.autocast(x.device.type, enabled=False):
            independent = torch.addcmul(direct, x, evidence)
            posterior = class_softmax(independent) if torch.is_grad_enabled() else class_softmax_(independent)
        fine, shifts = self.condition.out_channels, x.new_empty((0,))
        # The layer acts on 2p - 1; the scaling is in its weights instead of two passes over p.
        weight, bias = self.enter_posterior.parameters()
        entered = _convolve(posterior, 2 * weight, bias - weight.flatten(1).sum(1))
        h = self.enter(x).add_(entered).add_(prepared[:, :fine])
        if self.pooled is not None:
            shifts = self.pooled.shifts(x, log_snr, prepared[:, -2 * self.pooled.classes :], posterior, direct)
            h = h.add_(self.pooled.enter(shifts))
        h = self.first(h, embedded)
        if self.strata is not None:
            h = self.strata(h, prepared[:, fine : fine + self.strata.count], embedded)
        low = self.shrink(h)
        for block in self.middle:
            low = block(low, embedded)
        h = nn.functional.silu(self.norm(self.last(nn.functional.silu(h + self.grow(low)))))
        return h, evidence, shifts, embedded

    def _scaled_head(self, h: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """The head's float32 logits times `gain` [N, 1, ...]; for N = 1 the weights are scaled, which saves a pass."""
        if not self.gain:
            return self.head(h).float()
        if len(gain) > 1:
            return self.head(h).float() * gain
        weight, bias = self.head.parameters()
        return _convolve(h, weight * gain.view(()), bias * gain.view(())).float()


def _convolve(h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (nn.functional.conv2d if h.ndim == 4 else nn.functional.conv3d)(h, weight, bias)


def sinusoids(log_snr: torch.Tensor) -> torch.Tensor:
    """Time embedding [N] -> [N, 32]: sines and cosines of the log-SNR, periods 2 pi / 4 to 2 pi * 16."""
    frequencies = torch.exp(torch.linspace(math.log(1 / 16), math.log(4), 16, device=log_snr.device))
    angles = log_snr.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
