"""gram_schmidt: vectors to orthonormal columns, for any finite input and for what is not finite too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.op import op
from lps_kernels.ops.rows import compute_dtype

# A completed column starts from the first standard vector of which more than this part of the average is left. Not a
# number that a matrix of small integers would meet, so that rounding does not choose.
COMPLETION = 0.4


@op(outputs=("q", "degenerate"), differentiable=("v",), saves=("q", "degenerate"))
def _gram_schmidt(v: Tensor, special: bool) -> tuple[Tensor, Tensor]:
    """v (b, d, m), or (b, d, m, 2) for complex numbers as pairs -> q of that shape and degenerate (b, m) bool.

    q has orthonormal columns with q^T v upper triangular and its diagonal positive. Each column is scaled by its
    largest magnitude first and projected twice. A column of which no more than rounding is left, or that is below the
    smallest normal number, is completed from the standard basis and is a constant to the gradient. A matrix with NaN
    or inf gives the identity. special: the first column takes the sign that makes the determinant 1.
    """
    z = v.to(compute_dtype(v.dtype))
    z = torch.view_as_complex(z.contiguous()) if v.dim() == 4 else z
    _, d, m = z.shape
    info = torch.finfo(v.dtype if v.dtype == torch.float64 else torch.float32)
    finite = z.isfinite().all(-1).all(-1)
    z = torch.where(finite[:, None, None], z, torch.eye(d, m, dtype=z.dtype, device=z.device))
    parts = torch.view_as_real(z) if z.is_complex() else z[..., None]
    largest = parts.detach().abs().amax((1, 3)) if d else parts.new_zeros(z.shape[0], m)
    nonzero = largest >= info.tiny
    scaled = z / torch.where(nonzero, largest, 1)[:, None]
    tolerance = (info.eps * (4 + d**0.5)) ** 2
    columns: list[Tensor] = []
    flags = []
    for j in range(m):
        u = start = scaled[..., j]
        if columns:
            u = _project(start, columns)
            u = u + (_project(u, columns) - u).detach()  # repairs rounding, which has no derivative
        good = nonzero[:, j] & (_square(u) > tolerance * _square(start)).detach()
        u = torch.where(good[:, None], u, _completion(columns, u))
        columns.append(u / _square(u).sqrt()[:, None])
        flags.append(~(good & finite))
    q = torch.stack(columns, -1) if columns else z
    if special and d:
        sign = torch.linalg.det(q.detach()).sign()
        q = torch.cat((q[..., :1] * sign[:, None, None], q[..., 1:]), -1)
    degenerate = torch.stack(flags, -1) if flags else finite.new_empty(z.shape[0], 0)
    return (torch.view_as_real(q) if q.is_complex() else q), degenerate


def _square(u: Tensor) -> Tensor:
    """|u|^2 over the last axis."""
    return (torch.view_as_real(u).square().sum(-1) if u.is_complex() else u.square()).sum(-1)


def _project(u: Tensor, columns: list[Tensor]) -> Tensor:
    basis = torch.stack(columns, -1)
    return u - (basis @ (basis.mH @ u[..., None]))[..., 0]


def _completion(columns: list[Tensor], like: Tensor) -> Tensor:
    """A vector (b, d) orthogonal to the columns: what is left of a standard vector."""
    d = like.shape[-1]
    index = torch.arange(d, device=like.device)
    if not columns:
        return (index == 0).to(like.dtype).expand(like.shape)
    columns = [c.detach() for c in columns]
    left = 1 - torch.stack(columns, -1).abs().square().sum(-1)
    first = (left > COMPLETION * (d - len(columns)) / d).long().argmax(-1)
    u = (index == first[:, None]).to(like.dtype)
    return _project(_project(u, columns), columns)


def gram_schmidt(v: Tensor, special: bool = False, backend: str | None = None) -> Tensor:
    """Orthonormalize columns from the first to the last.

    >>> import torch, lps_kernels as lk
    >>> q = lk.gram_schmidt(torch.tensor([[3.0, 1.0], [4.0, 1.0]]))
    >>> assert torch.allclose(q, torch.tensor([[0.6, 0.8], [0.8, -0.6]]))

    Arguments:
        v: (..., d, m) with m <= d, floating or complex; float16 and bfloat16 are computed and returned in float32.
            Columns that depend on earlier ones, or are zero, are completed from the standard basis, with gradient
            zero; a matrix with NaN or inf gives the identity.
        special: the first column takes the sign that makes the determinant 1; for real square v.
        backend: a backend's name, see `backend`.
    Returns: q (..., d, m) with q^H q = 1 and q^H v upper triangular with a positive diagonal (but for that sign).
    Raises: TypeError or ValueError for arguments of the wrong kind, shape or value.
    Source: Gram-Schmidt with reorthogonalization; Giraud et al., Numerische Mathematik 101, 2005.
    """
    checks.vectors(v, special)
    return orthonormalize(v, special, backend)[0]


def orthonormalize(v: Tensor, special: bool, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """q and degenerate (..., m) of vectors that are known to be good."""
    pairs = torch.view_as_real(v.resolve_conj()) if v.is_complex() else v
    leading, own = v.shape[:-2], pairs.shape[v.dim() - 2 :]
    q, degenerate = _gram_schmidt(pairs.reshape(math.prod(leading), *own), special, backend=backend)
    q = q.reshape(*leading, *own)
    return (torch.view_as_complex(q) if v.is_complex() else q), degenerate.reshape(*leading, v.shape[-1])
