"""sample_permute: scores and features to a permutation and the permuted features, in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.elements.permutation import Permutation, wants_soft
from lps_kernels.op import op
from lps_kernels.ops.features import flatten, unflatten
from lps_kernels.ops.permute import _permute
from lps_kernels.ops.rows import compute_dtype
from lps_kernels.ops.soft_sort import _soft_sort
from lps_kernels.random import new_seed


@op(
    outputs=("perm", "t", "row", "col", "x_k", "edges_k"),
    differentiable=("scores", "x", "edges"),
    saves=("perm", "t", "row", "col"),
    shapeless={"n_iter": 0},
    causes={
        **{name: ["scores"] for name in ("t", "row", "col")},
        **{f"{name}_k": ["scores", name] for name in ("x", "edges")},
    },
)
def _sample_permute(
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
    """scores (b, k, n), x (b, n, c), edges (b, n, n, c) -> perm, t, row, col, x (b, k, n, c), edges (b, k, n, n, c).

    Exactly `soft_sort` followed by `permute` of x and of edges; without edges the last output is empty.
    """
    perm, t, row, col = _soft_sort.reference(scores, seed, num_nodes, tau, n_iter, normalize, soft)
    parts = [p.to(compute_dtype(x.dtype)) if soft else None for p in (t, row, col)]
    x_k = _permute.reference(x, perm, *parts, num_nodes, tau, 1, hard)
    if edges is None:
        return perm, t, row, col, x_k, x_k.new_empty(scores.shape[0], 0)
    return perm, t, row, col, x_k, _permute.reference(edges, perm, *parts, num_nodes, tau, 2, hard)


def sample_permute(
    scores: Tensor,
    x: Tensor,
    edges: Tensor | None = None,
    *,
    num_nodes: Tensor | None = None,
    tau: float = 0.01,
    n_iter: int = 20,
    normalize: bool = True,
    hard: bool = True,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> tuple[Permutation, Tensor] | tuple[Permutation, Tensor, Tensor]:
    """`Permutation.from_scores`, then `transform_input` of nodes and, where given, of edges, in one call.

    >>> import torch, lps_kernels as lk
    >>> g, x_k = lk.sample_permute(torch.tensor([[[0.1, 0.9, 0.5]]]), torch.tensor([[10.0, 20.0, 30.0]]))
    >>> assert x_k.tolist() == [[[20.0, 30.0, 10.0]]]

    Arguments:
        scores: (b, k, n), as in `softsort`, with num_nodes, tau, n_iter, normalize and generator.
        x: (b, n, ...) node features, floating point.
        edges: (b, n, n, ...) edge features, of the dtype of x.
        hard: False multiplies by the soft matrix itself.
        backend: a backend's name, see `backend`.
    Returns: the permutation, x (b, k, n, ...) and, where given, edges (b, k, n, n, ...).
    Raises: TypeError or ValueError for arguments of the wrong kind, shape or value.
    Source: Kim et al., NeurIPS 2023, section 2.2.
    """
    checks.scores(scores, num_nodes)
    checks.temperature(tau, n_iter)
    checks.flags(normalize=normalize, hard=hard)
    b, _, n = scores.shape
    checks.features("x", x, (b,), 1, n, scores.device, floating=True)
    if edges is not None:
        checks.features("edges", edges, (b,), 2, n, scores.device, floating=True)
        if edges.dtype != x.dtype:
            raise TypeError(f"edges: expected the dtype of x, {x.dtype}, got {edges.dtype}")
    flat_edges = None if edges is None else flatten(edges, 3)
    soft = wants_soft(scores, hard)
    perm, *parts, x_k, edges_k = _sample_permute(
        scores,
        new_seed(generator, scores.device),
        flatten(x, 2),
        flat_edges,
        num_nodes,
        float(tau),
        n_iter,
        normalize,
        hard,
        soft,
        backend=backend,
    )
    g = Permutation(perm, *(parts if soft else (parts[0], None, None)), num_nodes, tau, n_iter, hard)
    if edges is None:
        return g, unflatten(x_k, x, 2)
    return g, unflatten(x_k, x, 2), unflatten(edges_k, edges, 3)
