"""A direct network with jointly Gaussian logits, which gives coherent samples from one pass."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from ..networks import Encoder
from ..networks.blocks import CONV

RANK = 10
DRAWS = 16  # samples of the logits for the loss


class Stochastic(nn.Module):
    """Stochastic segmentation network (Monteiro et al., "Stochastic Segmentation Networks", NeurIPS 2020).

    Logits ~ N(mean, F F^T + diag); mean, F (rank 10) and diag are computed from the features of the encoder of `Pair`.
    All tensors are in space-to-depth form.
    """

    def __init__(self, classes: int, dims: int, width: int, inputs: int = 1) -> None:
        super().__init__()
        self.classes, self.dims = classes, dims
        cells = 2**dims * classes
        self.encoder = Encoder(classes, (width, 2 * width, 2 * width), (2, 2, 2), dims, inputs)
        self.factor = CONV[dims](width, cells * RANK, 1)
        self.diagonal = CONV[dims](width, cells, 1)
        nn.init.normal_(self.factor.weight, std=0.01)
        nn.init.zeros_(self.diagonal.weight)
        nn.init.constant_(self.diagonal.get_parameter("bias"), -4.0)

    def draw(self, image: torch.Tensor, samples: int) -> torch.Tensor:
        """Logits [N, samples, cells * classes, ...] from images [N, inputs, ...]."""
        features, mean = self.encoder(image)
        h = functional.silu(features)
        n, channels, *size = mean.shape
        factor = self.factor(h).view(n, RANK, channels, *size)
        weights = torch.randn(n, samples, RANK, device=mean.device)
        low_rank = torch.einsum("nsr,nrc...->nsc...", weights, factor)
        deviation = functional.softplus(self.diagonal(h))[:, None].sqrt()
        return mean[:, None] + low_rank + deviation * torch.randn_like(low_rank)

    def loss(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Negative mean log-likelihood of masks [N, R, 2^dims, ...], nats per voxel, from DRAWS samples (eq. 6)."""
        logits = self.draw(image, DRAWS)
        n, raters = target.shape[:2]
        by_class = logits.unflatten(2, (self.classes, -1)).log_softmax(2)
        # [N, S, R]: the log-probability of each mask under each sample of the logits.
        by_rater = (target[:, r, None, None].expand(n, DRAWS, 1, *target.shape[2:]) for r in range(raters))
        each = [by_class.gather(2, labels).flatten(2).sum(2, dtype=torch.float64) for labels in by_rater]
        likelihood = torch.stack(each, dim=2)
        mean = torch.logsumexp(likelihood, 1) - math.log(DRAWS)
        return (-mean.mean() / target[0, 0].numel()).float()
