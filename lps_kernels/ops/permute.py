"""permute: P^T x on nodes, P^T A P on edges, for all samples at once."""

from __future__ import annotations

from torch import Tensor

from lps_kernels import checks
from lps_kernels.op import op
from lps_kernels.ops.features import flatten, soft_arguments, unflatten
from lps_kernels.ops.rows import along, apply_sorted, compute_dtype, mask_nodes
from lps_kernels.ops.soft_sort import SoftSort


@op(outputs=("y",), differentiable=("x", "t", "row", "col"))
def _permute(
    x: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    order: int,
    hard: bool,
) -> Tensor:
    """x (b, n, c) or (b, n, n, c), perm (b, k, n) int64 -> (b, k, n, c) or (b, k, n, n, c).

    t, row, col (b, k, n) in the dtype that x is computed in; without them the permutation is a constant.
    """
    y = x[:, None].expand(*perm.shape[:2], *x.shape[1:])
    if t is not None:
        y = y.to(compute_dtype(x.dtype))
    for axis in range(2, 2 + order):
        y = y.gather(axis, along(perm, y, axis).expand(y.shape))
    y = apply_sorted(mask_nodes(y, num_nodes, order), t, row, col, tau, hard, order, back=False)
    return mask_nodes(y, num_nodes, order).to(x.dtype)  # again: no gradient comes from padding


def permute(
    x: Tensor,
    perm: Tensor,
    order: int = 1,
    *,
    num_nodes: Tensor | None = None,
    soft: SoftSort | None = None,
    tau: float = 0.01,
    hard: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Reorder nodes, or both axes of edges, for every sample: y[b, k, r] = x[b, perm[b, k, r]].

    >>> import torch, lps_kernels as lk
    >>> y = lk.permute(torch.tensor([[10.0, 20.0, 30.0]]), torch.tensor([[[2, 0, 1]]]))
    >>> assert y.tolist() == [[[30.0, 10.0, 20.0]]]

    Arguments:
        x: (b, n, ...) for order 1, (b, n, n, ...) for order 2; any dtype, any trailing axes.
        perm: (b, k, n) int64, perm[r] is the node placed at rank r; a bijection.
        order: how many axes are permuted, 1 or 2.
        num_nodes: (b,) int64; the rest is padding and is written as zero.
        soft: the `softsort` that perm came from, which then receives the straight-through gradient.
        tau: the temperature of `soft`.
        hard: False multiplies by the soft matrix itself.
        backend: a backend's name, see `backend`.
    Returns: (b, k, n, ...) or (b, k, n, n, ...), dtype of x.
    Raises: TypeError or ValueError for arguments of the wrong kind, shape or value.
    Source: Kim et al., NeurIPS 2023, section 2.2; the gradient in O(n) is this library's.
    """
    checks.permutation(perm, num_nodes)
    checks.temperature(tau)
    checks.flags(hard=hard)
    checks.soft(soft, perm)
    return run_permute(x, perm, soft, num_nodes, tau, order, hard, backend)


def run_permute(x, perm, soft, num_nodes, tau, order, hard, backend=None) -> Tensor:
    """`permute` of a permutation that is known to be one."""
    checks.features("x", x, perm.shape[:1], order, perm.shape[-1], perm.device)
    t, row, col = soft_arguments(soft, x, hard)
    flat = flatten(x, 1 + order)
    y = _permute(flat, perm, t, row, col, num_nodes, float(tau), order, hard or t is None, backend=backend)
    return unflatten(y, x, 1 + order)
