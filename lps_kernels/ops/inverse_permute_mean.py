"""inverse_permute_mean: P y on nodes, P Y P^T on edges, back to node order, and the mean over samples."""

from __future__ import annotations

from torch import Tensor

from lps_kernels import checks
from lps_kernels.op import op
from lps_kernels.ops.features import flatten, soft_arguments, unflatten
from lps_kernels.ops.rows import along, apply_sorted, compute_dtype, mask_nodes
from lps_kernels.ops.soft_sort import SoftSort


@op(outputs=("x",), differentiable=("y", "t", "row", "col", "weights"))
def _inverse_permute_mean(
    y: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    tau: float,
    order: int,
    hard: bool,
    mean: bool,
) -> Tensor:
    """y (b, k, n, c) or (b, k, n, n, c), perm (b, k, n) int64 -> y without k, or all of it where mean is false.

    weights (b, k) multiply the samples, which are then summed; without them each counts 1 / k.
    """
    b, k, _ = perm.shape
    x = y.to(compute_dtype(y.dtype)) if mean or t is not None else y
    x = apply_sorted(mask_nodes(x, num_nodes, order), t, row, col, tau, hard, order, back=True)
    x = mask_nodes(x, num_nodes, order)  # again: no gradient comes from padding
    inverse = perm.argsort(-1)
    for axis in range(2, 2 + order):
        x = x.gather(axis, along(inverse, x, axis).expand(x.shape))
    if mean:
        x = x.sum(1) / k if weights is None else (x * weights.view(b, k, *[1] * (x.dim() - 2))).sum(1)
    return x.to(y.dtype)


def inverse_permute(
    y: Tensor,
    perm: Tensor,
    order: int = 1,
    *,
    num_nodes: Tensor | None = None,
    weights: Tensor | None = None,
    reduce: str | None = "mean",
    soft: SoftSort | None = None,
    tau: float = 0.01,
    hard: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Take samples back to node order, x[b, perm[b, k, r]] = y[b, k, r], and average them.

    >>> import torch, lps_kernels as lk
    >>> perm = torch.tensor([[[2, 0, 1], [0, 2, 1]]])
    >>> x = lk.inverse_permute(lk.permute(torch.tensor([[10.0, 20.0, 30.0]]), perm), perm)
    >>> assert x.tolist() == [[10.0, 20.0, 30.0]]

    Arguments:
        y: (b, k, n, ...) for order 1, (b, k, n, n, ...) for order 2, any trailing axes.
        perm: (b, k, n) int64, perm[r] is the node placed at rank r; a bijection.
        order: how many axes are permuted, 1 or 2.
        num_nodes: (b,) int64; the rest is padding and is written as zero.
        weights: (b, k) of the samples in the mean; they are divided by their sum.
        reduce: "mean", or None to keep the samples.
        soft: the `softsort` that perm came from, which then receives the straight-through gradient.
        tau: the temperature of `soft`.
        hard: False multiplies by the soft matrix itself.
        backend: a backend's name, see `backend`.
    Returns: (b, n, ...) or (b, n, n, ...), with the axis k kept where reduce is None; dtype of y.
    Raises: TypeError or ValueError for arguments of the wrong kind, shape or value.
    Source: Kim et al., NeurIPS 2023, equation 4; the gradient in O(n) is this library's.
    """
    checks.permutation(perm, num_nodes)
    checks.temperature(tau)
    checks.flags(hard=hard)
    checks.soft(soft, perm)
    return run_inverse_permute(y, perm, soft, num_nodes, weights, tau, order, hard, reduce, backend)


def run_inverse_permute(y, perm, soft, num_nodes, weights, tau, order, hard, reduce="mean", backend=None) -> Tensor:
    """`inverse_permute` of a permutation that is known to be one."""
    checks.features("y", y, perm.shape[:2], order, perm.shape[-1], perm.device)
    weights = checks.weights(weights, y, reduce)
    t, row, col = soft_arguments(soft, y, hard)
    flat = flatten(y, 2 + order)
    mean = reduce is not None
    x = _inverse_permute_mean(
        flat, perm, t, row, col, num_nodes, weights, float(tau), order, hard or t is None, mean, backend=backend
    )
    return unflatten(x, y, 2 + order)
