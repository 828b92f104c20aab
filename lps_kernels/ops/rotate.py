"""rotate: q^T (x - center) on vectors, q^T A q on tensors, for all samples at once."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.op import op
from lps_kernels.ops.rows import compute_dtype, mask_nodes
from lps_kernels.ops.space import flatten, real_matrix, unflatten


@op(outputs=("y",), differentiable=("x", "q", "center"))
def _rotate(x: Tensor, q: Tensor, center: Tensor | None, num_nodes: Tensor | None, order: int) -> Tensor:
    """x (b, n, d, c) or (b, n, d, d, c), q (b, k, d, d) -> (b, k, n, d, c) or (b, k, n, d, d, c).

    q in the dtype that x is computed in. center (b, 1 or k, d), for order 1, in that dtype too. Nodes from num_nodes
    (b,) on are written as zero.
    """
    y = apply_rotation(centered(x, center, num_nodes), q, order, transpose=True)
    return y.to(x.dtype)


def centered(x: Tensor, center: Tensor | None, num_nodes: Tensor | None) -> Tensor:
    """x - center (b, 1 or k, n, d, ...) in the dtype that x is computed in, zero at padding."""
    x = x.to(compute_dtype(x.dtype))[:, None]
    if center is not None:
        x = x - center[:, :, None, :, None]
    return mask_nodes(x, num_nodes, 1)


def apply_rotation(x: Tensor, q: Tensor, order: int, transpose: bool) -> Tensor:
    """q x, or q^T x, and q x q^T or q^T x q, of x (b, 1 or k, n, d, ...)."""
    q = q.mT if transpose else q
    x = x.expand(*q.shape[:2], *x.shape[2:])
    if order == 1:
        return torch.einsum("bkij,bknjc->bknic", q, x)
    return torch.einsum("bkij,bknjmc,bklm->bknilc", q, x, q)


def rotate(
    x: Tensor,
    q: Tensor,
    order: int = 1,
    *,
    center: Tensor | None = None,
    num_nodes: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Take vectors, or second-order tensors, into the frame of every sample: q^T (x - center), q^T A q.

    >>> import torch, lps_kernels as lk
    >>> q = torch.tensor([[[[0.0, -1.0], [1.0, 0.0]]]])
    >>> y = lk.rotate(torch.tensor([[[1.0, 0.0]]]), q)
    >>> assert y.tolist() == [[[[0.0, -1.0]]]]

    Arguments:
        x: (b, n, d, ...) or (b, d) for order 1, (b, n, d, d, ...) or (b, d, d) for order 2, any trailing axes.
        q: (b, k, d, d) with orthonormal columns; complex for unitary ones.
        order: how many axes are rotated, 1 or 2.
        center: (b, d) or (b, k, d), subtracted first; for order 1.
        num_nodes: (b,) int64; the rest of n is padding and is written as zero.
        backend: a backend's name, see `backend`.
    Returns: (b, k, n, d, ...), or what x has behind b; dtype of x.
    Raises: TypeError or ValueError for arguments of the wrong kind, shape or value.
    Source: Kim et al., NeurIPS 2023, section 2.2.
    """
    checks.rotations(q)
    return run_rotate(x, q, center, num_nodes, order, backend)


def run_rotate(x, q, center, num_nodes, order, backend=None) -> Tensor:
    """`rotate` by matrices that are known to be good."""
    checks.space("x", x, q.shape[:1], order, q)
    center = checks.center(center, q, order)
    x, q, center, unitary = real_arguments(x, q, center)
    if num_nodes is not None:
        checks.num_nodes(num_nodes, x.shape[0], x.shape[1] if x.dim() > 1 + order else 1, x.device)
    y = _rotate(flatten(x, 1, order, unitary), q, center, num_nodes, order, backend=backend)
    return unflatten(y, x, 1, order, unitary)


def real_arguments(x: Tensor, q: Tensor, center: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """x, q and center in matching dtypes, and whether x is to be flattened as what a unitary matrix acts on."""
    # A real center moves the real part of complex points alone, which no channels of a real matrix can say.
    unitary = q.is_complex() or (center is not None and (x.is_complex() or center.is_complex()))
    if unitary:
        x = x if x.is_complex() else x.to(compute_dtype(x.dtype)) + 0j
        q = real_matrix(q if q.is_complex() else q + 0j)
        if center is not None:
            center = torch.view_as_real(center.to(torch.promote_types(center.dtype, torch.complex64))).flatten(-2)
    dtype = compute_dtype(x.dtype)
    if center is not None and center.dtype != dtype:
        center = center.to(dtype)
    return x, q if q.dtype == dtype else q.to(dtype), center, unitary
