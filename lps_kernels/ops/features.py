"""Features with any trailing axes and dtype, as the ops want them: one channel axis, and scores in its dtype."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.ops.rows import compute_dtype


def flatten(x: Tensor, leading: int) -> Tensor:
    """(leading axes..., c): the trailing axes as one channel axis, complex numbers as two channels."""
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    if x.dim() == leading + 1:
        return x
    return x.reshape(*x.shape[:leading], math.prod(x.shape[leading:]))


def unflatten(y: Tensor, x: Tensor, leading: int) -> Tensor:
    """Undo `flatten(x, leading)` on a result whose leading axes may be others."""
    if x.is_complex():
        return complex_of(y.reshape(*y.shape[:-1], *x.shape[leading:], 2))
    if x.dim() == leading + 1:
        return y
    return y.reshape(*y.shape[:-1], *x.shape[leading:])


def complex_of(pairs: Tensor) -> Tensor:
    """Complex numbers of pairs (..., 2) in any layout."""
    # What has no numbers counts as contiguous whatever its strides are, which view_as_complex looks at.
    return torch.view_as_complex(pairs.contiguous() if pairs.numel() else pairs.new_zeros(pairs.shape))


def soft_arguments(soft: tuple | None, x: Tensor, hard: bool) -> tuple[Tensor | None, ...]:
    """t, row and col in the dtype that x is computed in; None where they could change nothing."""
    differentiable = x.dtype in checks.FLOATING or x.is_complex()
    if soft is None or not differentiable:
        if not hard:
            what = f"floating point features, got {x.dtype}" if soft is not None else "the soft part of a permutation"
            raise TypeError(f"hard=False: expected {what}")
        return None, None, None
    dtype = compute_dtype(x.dtype)
    return tuple([s if s.dtype == dtype else s.to(dtype) for s in soft[-3:]])
