"""inverse_rotate_mean: q y + center on vectors, q A q^T on tensors, and the mean over samples."""

from __future__ import annotations

from torch import Tensor

from lps_kernels import checks
from lps_kernels.op import op
from lps_kernels.ops.rotate import apply_rotation, real_arguments
from lps_kernels.ops.rows import compute_dtype, mask_nodes
from lps_kernels.ops.space import flatten, unflatten


@op(outputs=("x",), differentiable=("y", "q", "center", "weights"))
def _inverse_rotate_mean(
    y: Tensor,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    order: int,
    mean: bool,
) -> Tensor:
    """y (b, k, n, d, c) or (b, k, n, d, d, c), q (b, k, d, d) -> y without k, or all of it where mean is false.

    q, center (b, 1 or k, d) and weights (b, k) in the dtype that y is computed in. weights multiply the samples, which
    are then summed; without them each counts 1 / k. Nodes from num_nodes (b,) on are written as zero.
    """
    y_wide = mask_nodes(y.to(compute_dtype(y.dtype)), num_nodes, 1)
    x = apply_rotation(y_wide, q, order, transpose=False)
    return finish_output(x, center, num_nodes, weights, mean).to(y.dtype)


def finish_output(
    x: Tensor, center: Tensor | None, num_nodes: Tensor | None, weights: Tensor | None, mean: bool
) -> Tensor:
    """Add the center, zero the padding and average samples of x (b, k, n, d, ...)."""
    if center is not None:
        x = x + center[:, :, None, :, None]
    x = mask_nodes(x, num_nodes, 1)
    if not mean:
        return x
    if weights is None:
        return x.sum(1) / x.shape[1]
    return (x * weights.view(*x.shape[:2], *[1] * (x.dim() - 2))).sum(1)


def inverse_rotate(
    y: Tensor,
    q: Tensor,
    order: int = 1,
    *,
    center: Tensor | None = None,
    num_nodes: Tensor | None = None,
    weights: Tensor | None = None,
    reduce: str | None = "mean",
    backend: str | None = None,
) -> Tensor:
    """Take samples back from their frames, q y + center or q A q^T, and average them.

    >>> import torch, lps_kernels as lk
    >>> x, q = torch.tensor([[[1.0, 2.0]]]), lk.gram_schmidt(torch.randn(1, 3, 2, 2))
    >>> assert torch.allclose(lk.inverse_rotate(lk.rotate(x, q), q), x)

    Arguments:
        y: (b, k, n, d, ...) or (b, k, d) for order 1, (b, k, n, d, d, ...) or (b, k, d, d) for order 2.
        q: (b, k, d, d) with orthonormal columns; complex for unitary ones.
        order: how many axes are rotated, 1 or 2.
        center: (b, d) or (b, k, d), added last; for order 1.
        num_nodes: (b,) int64; the rest of n is padding and is written as zero.
        weights: (b, k) of the samples in the mean; they are divided by their sum.
        reduce: "mean", or None to keep the samples.
        backend: a backend's name, see `backend`.
    Returns: (b, n, d, ...), or what y has behind b and k; with the axis k where reduce is None; dtype of y.
    Raises: TypeError or ValueError for arguments of the wrong kind, shape or value.
    Source: Kim et al., NeurIPS 2023, equation 4.
    """
    checks.rotations(q)
    return run_inverse_rotate(y, q, center, num_nodes, weights, order, reduce, backend)


def run_inverse_rotate(y, q, center, num_nodes, weights, order, reduce="mean", backend=None) -> Tensor:
    """`inverse_rotate` by matrices that are known to be good."""
    checks.space("y", y, q.shape[:2], order, q)
    center = checks.center(center, q, order)
    weights = checks.weights(weights, y, reduce)
    y, q, center, unitary = real_arguments(y, q, center)
    if num_nodes is not None:
        checks.num_nodes(num_nodes, y.shape[0], y.shape[2] if y.dim() > 2 + order else 1, y.device)
    flat = flatten(y, 2, order, unitary)
    x = _inverse_rotate_mean(flat, q, center, num_nodes, weights, order, reduce is not None, backend=backend)
    return unflatten(x, y, 2, order, unitary)
