"""Orthogonal and Unitary: samples of O(d), SO(d) and U(d)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.elements.base import GroupElement, check_sizes, multiply
from lps_kernels.elements.finite import plane_group
from lps_kernels.ops.gram_schmidt import orthonormalize
from lps_kernels.ops.inverse_rotate_mean import run_inverse_rotate
from lps_kernels.ops.random_orthogonal import random_orthogonal
from lps_kernels.ops.rotate import run_rotate
from lps_kernels.random import new_seed

# What a group of motions may act on, by name. A translation moves points only.
WORDS = {"scalar": 0, "vector": 1, "point": 1, "tensor": 2}


def haar(b, k, d, special, generator, device, dtype, unitary=False) -> Tensor:
    """(b, k, d, d) Haar matrices in a dtype, complex for unitary."""
    check_sizes(b=b, d=d)
    checks.samples(k)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    checks.floating_dtype(dtype)
    checks.flags(special=special)
    double = dtype in (torch.float64, torch.complex128)
    q = random_orthogonal(new_seed(generator, device), b, k, d, special, unitary, double)
    if unitary:
        return torch.view_as_complex(q)
    return q.to(dtype)


class Orthogonal(GroupElement):
    """k orthogonal d x d matrices for each of b inputs, which act on the space axis of vectors and tensors.

    Features of order 1 are (b, n, d, ...) or (b, d), of order 2 (b, n, d, d, ...) or (b, d, d). Words do as well:
    "scalar" is 0, "vector" and "point" are 1, "tensor" is 2.

    >>> import torch, lps_kernels as lk
    >>> g = lk.Orthogonal.from_vectors(torch.randn(2, 4, 3, 3), special=True)
    >>> x = torch.randn(2, 5, 3)
    >>> x_k = g.transform_input(x)
    >>> assert x_k.shape == (2, 4, 5, 3) and torch.allclose(g.transform_output(x_k), x, atol=1e-5)
    """

    _acts_on = "space"
    _fields = ("q", "degenerate")

    def __init__(self, q: Tensor, degenerate: Tensor | None = None) -> None:
        self._set(q=q, degenerate=degenerate)

    @classmethod
    def from_vectors(cls, v: Tensor, special: bool = False) -> Orthogonal:
        """Gram-Schmidt of v (b, k, d, d), see `gram_schmidt`; special: SO(d)."""
        checks.tensor("v", v, "(b, k, d, d)")
        checks.floating("v", v)
        check_square(v, special)
        return cls(*orthonormalize(v, special))

    @classmethod
    def uniform(
        cls,
        b: int,
        k: int,
        d: int,
        special: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Orthogonal:
        """Haar-distributed matrices of O(d), or SO(d) where special."""
        return cls(haar(b, k, d, special, generator, device, dtype))

    @classmethod
    def identity(cls, b: int, k: int, d: int, device=None, dtype: torch.dtype | None = None) -> Orthogonal:
        """Matrices that move nothing."""
        check_sizes(b=b, d=d)
        checks.samples(k)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        checks.floating_dtype(dtype)
        return cls(torch.eye(d, dtype=dtype, device=device).expand(b, k, d, d))

    @classmethod
    def from_matrix(cls, q: Tensor) -> Orthogonal:
        """Matrices (b, k, d, d) that are orthogonal already, to 1e-3; on CPU it is looked at."""
        checks.rotations(q)
        checks.orthogonal(q)
        return cls(q)

    @classmethod
    def all_of(cls, group: str, b: int, device=None, dtype: torch.dtype | None = None) -> Orthogonal:
        """Every element of a group of the plane, "C_m" or "D_m" with a number m, for exact means."""
        check_sizes(b=b)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        checks.floating_dtype(dtype)
        q = plane_group(group, device).to(dtype)
        return cls(q.expand(b, *q.shape))

    @classmethod
    def from_frames(cls, points: Tensor, num_nodes: Tensor | None = None, special: bool = False) -> Orthogonal:
        """The frames of frame averaging: principal axes of points (b, n, d) with every choice of signs.

        2^d samples, 2^(d-1) where special; constants to the gradient. Axes whose variances are equal to rounding are
        any orthonormal ones, and are marked in `degenerate`: there the average is not equivariant.
        Source: Puny et al., "Frame Averaging", ICLR 2022.
        """
        return cls(*frames(points, num_nodes, special))

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self._q.shape[:3])

    @property
    def q(self) -> Tensor:
        """(b, k, d, d), orthonormal columns."""
        return self._q

    @property
    def degenerate(self) -> Tensor:
        """(b, k, d) bool: columns that the vectors did not determine, chosen from the standard basis."""
        if self._degenerate is None:
            return torch.zeros(self._shape, dtype=torch.bool, device=self._q.device)
        return self._degenerate

    def __repr__(self) -> str:
        b, k, d = self._shape
        return f"{type(self).__name__}(b={b}, k={k}, d={d}, dtype={self._q.dtype}, device={self._q.device})"

    def _order(self, order):
        return WORDS.get(order, order) if isinstance(order, str) else order

    def __getitem__(self, index) -> Orthogonal:
        """Some of the samples; an int keeps the axis, with one sample."""
        index = self._samples(index)
        return type(self)(self._q[:, index], None if self._degenerate is None else self._degenerate[:, index])

    def inverse(self) -> Orthogonal:
        """The inverse matrices, their (conjugate) transposes."""
        return type(self)(self._q.mH)

    def __matmul__(self, other: GroupElement) -> GroupElement:
        if type(self) is Orthogonal and hasattr(other, "_turned"):
            return other._turned(self)
        if type(other) is not type(self):
            return super().__matmul__(other)
        check_same(self, other)
        return type(self)(multiply(self._q, other._q))

    def matrix(self) -> Tensor:
        """The matrices (b, k, d, d)."""
        return self._q

    def _transform_input(self, x: Tensor, order: int) -> Tensor:
        return run_rotate(x, self._q, None, None, order)

    def _each_input(self, x: Tensor, order: int) -> Tensor:
        """g^-1 x where every sample has its own x, (b, k, ...)."""
        self._check_leading("x", x, 2)
        q = self._q.reshape(-1, 1, *self._q.shape[2:])
        return run_rotate(x.flatten(0, 1), q, None, None, order).reshape(x.shape)

    def _transform_output(self, y: Tensor, order: int, weights: Tensor | None, reduce: str | None) -> Tensor:
        return run_inverse_rotate(y, self._q, None, None, weights, order, reduce)


class Unitary(Orthogonal):
    """k unitary d x d matrices for each of b inputs; they act like `Orthogonal`, on complex features.

    >>> import torch, lps_kernels as lk
    >>> g, x = lk.Unitary.uniform(2, 4, 2), torch.randn(2, 5, 2, dtype=torch.complex64)
    >>> assert torch.allclose(g.transform_output(g.transform_input(x)), x, atol=1e-5)
    """

    @classmethod
    def from_vectors(cls, v: Tensor) -> Unitary:
        """Gram-Schmidt of complex v (b, k, d, d), see `gram_schmidt`."""
        checks.tensor("v", v, "(b, k, d, d)")
        if not v.is_complex():
            raise TypeError(f"v: expected complex64 or complex128, got {v.dtype}")
        check_square(v, False)
        return cls(*orthonormalize(v, False))

    @classmethod
    def uniform(
        cls,
        b: int,
        k: int,
        d: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Unitary:
        """Haar-distributed matrices of U(d)."""
        return cls(haar(b, k, d, False, generator, device, dtype, unitary=True))

    @classmethod
    def identity(cls, b: int, k: int, d: int, device=None, dtype: torch.dtype | None = None) -> Unitary:
        """Matrices that move nothing."""
        dtype = torch.get_default_dtype().to_complex() if dtype is None else dtype
        return super().identity(b, k, d, device, dtype)


def check_square(v: Tensor, special: bool) -> None:
    checks.vectors(v, special)
    checks.samples(v.shape[1])
    if v.shape[-1] != v.shape[-2]:
        raise ValueError(f"v: expected square matrices (b, k, d, d), got {tuple(v.shape)}")


def check_same(g: GroupElement, h: GroupElement) -> None:
    if g._shape != h._shape:
        raise ValueError(f"@: expected elements of the same shape, got {g._shape} and {h._shape}")


def centroid(points: Tensor, num_nodes: Tensor | None) -> Tensor:
    """(b, 1, d): the mean over real nodes of points (b, n, d), zero where there are none."""
    checks.tensor("points", points, "(b, n, d)")
    checks.floating("points", points)
    b, n, _ = points.shape
    checks.num_nodes(num_nodes, b, n, points.device)
    x = points.to(torch.float64 if points.dtype == torch.float64 else torch.float32)
    if num_nodes is None:
        return x.sum(1, keepdim=True) / max(n, 1)
    valid = torch.arange(n, device=x.device) < num_nodes[:, None]
    return x.masked_fill(~valid[..., None], 0).sum(1, keepdim=True) / num_nodes.clamp(max=n).clamp(min=1)[:, None, None]


@torch.no_grad()
def frames(points: Tensor, num_nodes: Tensor | None, special: bool) -> tuple[Tensor, Tensor]:
    """q (b, 2^d or 2^(d-1), d, d) and degenerate (b, same, d) of points (b, n, d), see `Orthogonal.from_frames`."""
    checks.flags(special=special)
    center = centroid(points, num_nodes)
    b, n, d = points.shape
    x = points.to(center.dtype) - center
    if num_nodes is not None:
        x = x.masked_fill((torch.arange(n, device=x.device) >= num_nodes[:, None])[..., None], 0)
    if n and d:  # axes do not depend on the scale, squares would overflow or vanish; what is not finite has none
        largest = x.abs().amax((1, 2), keepdim=True)
        x = torch.where((largest > 0) & largest.isfinite(), x / largest, 0)
    values, axes = torch.linalg.eigh(multiply(x.mT, x))
    eps = torch.finfo(x.dtype).eps
    close = values.diff(dim=-1) <= 100 * eps * values[..., -1:].clamp(min=torch.finfo(x.dtype).tiny)
    none = close.new_zeros(b, 1)
    degenerate = torch.cat((close, none), -1) | torch.cat((none, close), -1)
    signs = x.new_tensor(list(itertools.product((1.0, -1.0), repeat=d))).reshape(2**d, d)
    q = axes[:, None] * signs[:, None, :]
    if special:  # half of the signs, with determinant 1
        half = signs[:, :-1] if d else signs
        q = axes[:, None] * torch.cat((half, torch.ones_like(signs[:, :1])), -1)[:: 2 if d else 1, None, :]
        last = torch.linalg.det(q).sign()[..., None, None]
        q = torch.cat((q[..., :-1], q[..., -1:] * last), -1)
    return q, degenerate[:, None].expand(b, q.shape[1], d)
