"""Attention whose bias is a function of the signed distance query - key, where token i stands at place i.

What is unusual here:
- The bias is a table (H, 2 S - 1), one row a head, one entry a distance; no tensor of S x S is kept, in either
  direction, and gradients go to the table. PyTorch's own way is a mask of S x S scores; on CPU a mask that needs a
  gradient also keeps its flash kernel from being used.
- Queries are taken in blocks of rows, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135): the backward pass
  computes the weights of a block again. Blocks of a causal model end at the diagonal.

This file is uploaded beside every checkpoint: it imports nothing but torch.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

ROWS = 64  # queries at a time; twice as many no longer fit the cache of a core and are slower at 1,024 tokens


def distances(length: int, device: torch.device) -> torch.Tensor:
    """The signed distances of `length` tokens in the order of the table: 1 - length ... length - 1."""
    return torch.arange(1 - length, length, device=device)


def distance_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor, scaling: float, causal: bool
) -> torch.Tensor:
    """softmax(query key^T x scaling + bias) value, the bias of (i, j) being table[:, i - j + S - 1].

    Args:
        query, key, value: (B, H, S, D).
        table: (H, 2 S - 1), in the order of `distances`.
        scaling: factor of the products.
        causal: keys behind the query are invisible.

    Returns:
        (B, H, S, D).
    """
    length = query.shape[2]
    table = table.flip(1)  # along a row of scores the keys rise, so the distances fall
    if causal:
        table = table.masked_fill(distances(length, table.device) > 0, -torch.inf)
    states = [x.reshape(-1, *x.shape[2:]) for x in (query * scaling, key, value)]
    output: Any = _DistanceAttention.apply(*states, table, causal)
    return output.view(query.shape)


def _blocks(length: int, causal: bool) -> list[tuple[slice, slice]]:
    """Rows of the scores, and the columns that they may see."""
    rows = [slice(start, min(start + ROWS, length)) for start in range(0, length, ROWS)]
    return [(block, slice(0, block.stop if causal else length)) for block in rows]


class _DistanceAttention(torch.autograd.Function):
    """(N, S, D) queries (scaled), keys and values, N = B x H, and a table of falling distances, (H, 2 S - 1)."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, table: Any, causal: bool) -> torch.Tensor:
        output, normal = torch.empty_like(value), query.new_empty(*query.shape[:2], 1)
        for rows, columns in _blocks(query.shape[1], causal):
            scores = _scores(query, key, table, rows, columns)
            top = scores.amax(-1, keepdim=True)
            weights = scores.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            output[:, rows] = torch.bmm(weights, value[:, columns]).div_(total)
            normal[:, rows] = total.log_().add_(top)
        ctx.save_for_backward(query, key, value, table, output, normal)
        ctx.causal = causal
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Any) -> tuple[torch.Tensor | None, ...]:
        query, key, value, table, output, normal = ctx.saved_tensors
        common = (gradient * output).sum(-1, keepdim=True)
        of_query, of_key, of_value, of_table = (torch.zeros_like(x) for x in (query, key, value, table))
        for rows, columns in _blocks(query.shape[1], ctx.causal):
            weights = _scores(query, key, table, rows, columns).sub_(normal[:, rows]).exp_()
            of_value[:, columns].baddbmm_(weights.mT, gradient[:, rows])
            of_scores = torch.bmm(gradient[:, rows], value[:, columns].mT).sub_(common[:, rows]).mul_(weights)
            of_query[:, rows] = torch.bmm(of_scores, key[:, columns])
            of_key[:, columns].baddbmm_(of_scores.mT, query[:, rows])
            _window(of_table, rows, columns).add_(_diagonals(of_scores.unflatten(0, (-1, len(table))).sum(0)))
        return of_query, of_key, of_value, of_table, None


def _window(table: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
    """The part of (H, 2 S - 1) that a block of scores reads: its lower left corner comes first."""
    first = (table.shape[1] + 1) // 2 - rows.stop
    return table[:, first : first + rows.stop - rows.start + columns.stop - 1]


def _scores(query: Any, key: Any, table: Any, rows: slice, columns: slice) -> torch.Tensor:
    scores = torch.bmm(query[:, rows], key[:, columns].mT)
    # Row r from below is the window from r on.
    bias = _window(table, rows, columns).unfold(1, columns.stop, 1).flip(1)
    scores.view(-1, *bias.shape).add_(bias)
    return scores


def _diagonals(block: torch.Tensor) -> torch.Tensor:
    """Sums (H, R + C - 1) over the diagonals of (H, R, C), that of the lower left corner first."""
    rows, columns = block.shape[1:]
    # Read with rows one shorter than they are written, row r from below is moved r to the right.
    slanted = functional.pad(block.flip(1), (0, rows)).flatten(1)[:, : rows * (rows + columns - 1)]
    return slanted.unflatten(1, (rows, -1)).sum(1)
