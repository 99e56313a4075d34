"""Attention of all cells to those with facts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .blocks import zero_initialised

MOST_KEYS = 192  # cells with facts that are attended to, chosen at random if there are more
QUERIES = 8192  # cells at a time without gradients: 67 MB of weights
HEADS = 4
RANGES = (0.0, 1 / 512, 1 / 64, 1 / 8)  # initial decay of each head's weights, per square cell


class FactAttention(nn.Module):
    """Lets each cell look up the facts of the cells that are like it, near or far.

    A fact without noise decides alone what holds at all cells of its kind (those as far from a border, or of the same
    object): a maximum over cells, not a mean or a sum, which convolutions and pooling learn slowly. Softmax attention
    weighs by likeness and distance; a learned null key takes part, so that a cell can find nothing of its kind.

    The last layer is zero-initialised, so a new module is the identity.
    """

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query, self.key, self.value = (nn.Linear(channels, hidden) for _ in range(3))
        self.null = nn.Parameter(torch.zeros(2, hidden))
        self.decay = nn.Parameter(torch.tensor(RANGES))
        self.tell = zero_initialised(nn.Linear(hidden, channels))

    def forward(self, h: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """`h` [N, channels, *cells] plus what the facts tell; `known` bool [N, *cells] marks cells with facts."""
        cells, size = h.movedim(1, -1).flatten(1, -2), h.shape[2:]
        at = torch.stack(torch.meshgrid(*(torch.arange(n, device=h.device) for n in size), indexing="ij"), -1)
        at = at.flatten(0, -2).to(cells.dtype)
        chosen, valid = chosen_cells(known.flatten(1))
        tokens = self.norm(cells)
        picked = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
        key, value = (
            self._by_head(torch.cat([null.expand(len(h), 1, -1), layer(picked)], 1))
            for null, layer in zip(self.null.to(tokens.dtype), (self.key, self.value), strict=True)
        )
        step = len(at) if torch.is_grad_enabled() else QUERIES
        found = [
            self._attend(self._by_head(self.query(part)), place, key, value, at[chosen], valid)
            for part, place in zip(tokens.split(step, 1), at.split(step), strict=True)
        ]
        cells = cells + self.tell(torch.cat(found, 1))
        return cells.view(len(h), *size, -1).movedim(-1, 1)

    def _attend(
        self,
        query: torch.Tensor,
        place: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_place: torch.Tensor,
        valid: torch.Tensor,
    ) -> torch.Tensor:
        """Values [N, queries, hidden] found by the queries [N, heads, queries, ...] at `place` [queries, dims]."""
        apart = torch.cdist(place.expand(len(valid), -1, -1), key_place).square()
        bias = -self.decay.abs().view(1, -1, 1, 1).to(query.dtype) * apart[:, None]
        bias = functional.pad(bias.masked_fill(~valid[:, None, None], -1e4), (1, 0))  # the null key is everywhere
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(2, 3)) + bias
        return torch.matmul(scores.softmax(-1), value).transpose(1, 2).flatten(2)

    @staticmethod
    def _by_head(x: torch.Tensor) -> torch.Tensor:
        """[N, cells, hidden] -> [N, heads, cells, hidden / heads]."""
        return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


def chosen_cells(known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices [N, K] of at most MOST_KEYS of the known cells, bool [N, cells], and which of them are known [N, K]."""
    order = torch.rand(known.shape[1], generator=torch.Generator().manual_seed(0)).to(known.device)
    count = max(1, min(MOST_KEYS, int(known.sum(1).max())))
    chosen = (known + order / 2).topk(count, 1).indices
    return chosen, known.gather(1, chosen)
