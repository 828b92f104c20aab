"""sample_permute: soft_sort, then permute of nodes and edges.

Launches follow one another, one for scores and one each for nodes and edges: a row is sorted by one program, and its
edges, n times as many, want to be read and written by many.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.triton.launch import compute, nothing
from lps_kernels.triton.permute import permute, permute_backward
from lps_kernels.triton.soft_sort import soft_sort, soft_sort_backward


def _parts(x: Tensor, soft: bool, parts: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """t, row and col in the dtype that x is computed in."""
    return tuple(p.to(compute(x.dtype)[0]) if soft else None for p in parts)


def sample_permute(
    scores: Tensor,
    seed: Tensor,
    x: Tensor,
    edges: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    n_iter: int,
    normalize: bool,
    hard: bool,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    perm, t, row, col = soft_sort(scores, seed, num_nodes, tau, n_iter, normalize, soft)
    parts = _parts(x, soft, (t, row, col))
    x_k = permute(x, perm, *parts, num_nodes, tau, 1, hard)
    if edges is None:
        return perm, t, row, col, x_k, x_k.new_empty(scores.shape[0], 0)
    return perm, t, row, col, x_k, permute(edges, perm, *parts, num_nodes, tau, 2, hard)


def sample_permute_backward(
    grad_perm: Tensor | None,
    grad_t: Tensor | None,
    grad_row: Tensor | None,
    grad_col: Tensor | None,
    grad_x_k: Tensor | None,
    grad_edges_k: Tensor | None,
    scores: Tensor,
    seed: Tensor,
    x: Tensor,
    edges: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    n_iter: int,
    normalize: bool,
    hard: bool,
    soft: bool,
    saved_perm: Tensor,
    saved_t: Tensor,
    saved_row: Tensor,
    saved_col: Tensor,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    perm, saved = saved_perm, (saved_t, saved_row, saved_col)
    vectors, found = [grad_t, grad_row, grad_col], [nothing(x), nothing(x)]
    through = 14 if soft and needs & 1 else 0
    for order, (features, grad) in enumerate(((x, grad_x_k), (edges, grad_edges_k)), 1):
        if features is None or not needs & (1 << order | 1):
            continue
        if grad is None:
            found[order - 1] = torch.zeros_like(features) if needs >> order & 1 else nothing(x)
            continue
        parts = _parts(features, soft, saved)
        own, *grads = permute_backward(
            grad, features, perm, *parts, num_nodes, tau, order, hard, through | (needs >> order & 1)
        )
        found[order - 1] = own
        if through:
            grads = [g.to(s.dtype) for g, s in zip(grads, saved)]
            vectors = [g if v is None else v + g for v, g in zip(vectors, grads)]
    grad_scores = nothing(scores)
    if needs & 1:
        grad_scores = soft_sort_backward(
            None, *vectors, scores, seed, num_nodes, tau, n_iter, normalize, soft, perm, *saved, 1
        )
    return grad_scores, *found
