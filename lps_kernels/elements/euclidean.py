"""Euclidean: samples of E(d) and SE(d)."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.elements.base import GroupElement, multiply
from lps_kernels.elements.orthogonal import Orthogonal, centroid, check_same, check_square, frames, haar
from lps_kernels.ops.gram_schmidt import orthonormalize
from lps_kernels.ops.inverse_rotate_mean import run_inverse_rotate
from lps_kernels.ops.rotate import run_rotate


class Euclidean(GroupElement):
    """k motions of d-dimensional space for each of b inputs: y = q y' + center, x' = q^T (x - center).

    Of what an order of 1 may mean, this group moves "point" by rotation and translation and "vector" (a velocity, a
    force) by rotation alone; a plain 1 is "point". 0 or "scalar" stays, 2 or "tensor" is rotated. Shapes are those of
    `Orthogonal`; nodes beyond num_nodes are written as zero.

    >>> import torch, lps_kernels as lk
    >>> x = torch.randn(2, 5, 3)
    >>> g = lk.Euclidean.from_vectors(torch.randn(2, 4, 3, 3), points=x)
    >>> x_k = g.transform_input(x, "point")
    >>> assert torch.allclose(x_k.mean(2), torch.zeros(2, 4, 3), atol=1e-5)
    >>> assert torch.allclose(g.transform_output(x_k, "point"), x, atol=1e-5)
    """

    _acts_on = "space"
    _fields = ("q", "center", "degenerate", "num_nodes")

    def __init__(self, q: Tensor, center: Tensor, degenerate: Tensor | None = None, num_nodes: Tensor | None = None):
        self._set(q=q, center=center, degenerate=degenerate, num_nodes=num_nodes)

    @classmethod
    def from_vectors(
        cls, v: Tensor, points: Tensor, special: bool = False, num_nodes: Tensor | None = None
    ) -> Euclidean:
        """Gram-Schmidt of v (b, k, d, d) and the centroid of the real ones of points (b, n, d); special: SE(d)."""
        checks.tensor("v", v, "(b, k, d, d)")
        checks.floating("v", v)
        check_square(v, special)
        center = centroid(points, num_nodes)
        b, d = v.shape[0], v.shape[-1]
        if points.shape[0] != b or points.shape[-1] != d:
            raise ValueError(f"points: expected shape ({b}, n, {d}), got {tuple(points.shape)}")
        checks.same_device("points", points, v.device)
        q, degenerate = orthonormalize(v.double() if center.dtype == torch.float64 else v, special)
        return cls(q, center.to(q.dtype), degenerate, num_nodes)

    @classmethod
    def uniform(
        cls,
        points: Tensor,
        k: int,
        special: bool = False,
        num_nodes: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Euclidean:
        """Haar-distributed rotations about the centroid of points (b, n, d)."""
        center = centroid(points, num_nodes)
        b, _, d = center.shape
        q = haar(b, k, d, special, generator, center.device, center.dtype)
        return cls(q, center, None, num_nodes)

    @classmethod
    def identity(cls, b: int, k: int, d: int, device=None, dtype: torch.dtype | None = None) -> Euclidean:
        """Motions that move nothing."""
        q = Orthogonal.identity(b, k, d, device, dtype).q
        return cls(q, q.new_zeros(b, 1, d))

    @classmethod
    def from_matrix(cls, q: Tensor, center: Tensor, num_nodes: Tensor | None = None) -> Euclidean:
        """Orthogonal matrices (b, k, d, d) and translations (b, d) or (b, k, d), which become of q's dtype."""
        checks.rotations(q)
        checks.floating("q", q)
        checks.orthogonal(q)
        if center is None:
            raise TypeError("center: expected a tensor (b, d) or (b, k, d), got None")
        center = checks.center(center, q, 1)
        if center.is_complex():
            raise TypeError(f"center: expected a real translation, got {center.dtype}")
        checks.num_nodes(num_nodes, q.shape[0], sys.maxsize, q.device)
        return cls(q, center.to(q.dtype), None, num_nodes)

    @classmethod
    def from_frames(cls, points: Tensor, num_nodes: Tensor | None = None, special: bool = False) -> Euclidean:
        """Principal axes with every choice of signs, about the centroid; see `Orthogonal.from_frames`."""
        q, degenerate = frames(points, num_nodes, special)
        return cls(q, centroid(points, num_nodes), degenerate, num_nodes)

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self._q.shape[:3])

    @property
    def q(self) -> Tensor:
        """(b, k, d, d), orthonormal columns."""
        return self._q

    @property
    def center(self) -> Tensor:
        """(b, k, d), what is added last to an output and subtracted first from an input."""
        return self._center.expand(self._shape)

    @property
    def num_nodes(self) -> Tensor | None:
        return self._num_nodes

    @property
    def degenerate(self) -> Tensor:
        """(b, k, d) bool: columns that the vectors did not determine, chosen from the standard basis."""
        return Orthogonal(self._q, self._degenerate).degenerate

    def __repr__(self) -> str:
        b, k, d = self._shape
        return f"Euclidean(b={b}, k={k}, d={d}, dtype={self._q.dtype}, device={self._q.device})"

    def _order(self, order):
        names = {0: 0, "scalar": 0, 1: "point", "point": "point", "vector": "vector", 2: "tensor", "tensor": "tensor"}
        if isinstance(order, (int, str)) and not isinstance(order, bool) and order in names:
            return names[order]
        raise ValueError(f"order: expected one of 'scalar', 'vector', 'point', 'tensor', 0, 1 or 2, got {order!r}")

    def __getitem__(self, index) -> Euclidean:
        """Some of the samples; an int keeps the axis, with one sample."""
        index = self._samples(index)
        degenerate = None if self._degenerate is None else self._degenerate[:, index]
        return Euclidean(self._q[:, index], self.center[:, index], degenerate, self._num_nodes)

    def inverse(self) -> Euclidean:
        """The inverse motions."""
        center = -multiply(self._q.mT, self._center[..., None])[..., 0]
        return Euclidean(self._q.mT, center, None, self._num_nodes)

    def __matmul__(self, other: GroupElement) -> GroupElement:
        if type(other) is Orthogonal:  # a Unitary is complex, and motions are real
            other = _about_origin(other)
        if not isinstance(other, Euclidean):
            return super().__matmul__(other)
        check_same(self, other)
        checks.same_nodes(self._num_nodes, other._num_nodes)
        center = multiply(self._q, other._center[..., None])[..., 0] + self._center
        num_nodes = self._num_nodes if other._num_nodes is None else other._num_nodes
        return Euclidean(multiply(self._q, other._q), center, None, num_nodes)

    def _turned(self, g: Orthogonal) -> Euclidean:
        """g @ self."""
        return _about_origin(g) @ self

    def matrix(self) -> Tensor:
        """Homogeneous matrices (b, k, d + 1, d + 1)."""
        b, k, d = self._shape
        last = torch.eye(d + 1, dtype=self._q.dtype, device=self._q.device)[-1:].expand(b, k, 1, d + 1)
        return torch.cat((torch.cat((self._q, self.center[..., None]), -1), last), -2)

    def _act(self, order: str) -> tuple[Tensor | None, int]:
        """The center where it counts, and the order as a number."""
        return (self._center if order == "point" else None), (2 if order == "tensor" else 1)

    def _nodes(self, x: Tensor, leading: int, order: int) -> Tensor | None:
        return self._num_nodes if isinstance(x, Tensor) and x.dim() > leading + order else None

    def _transform_input(self, x: Tensor, order: str) -> Tensor:
        center, order = self._act(order)
        return run_rotate(x, self._q, center, self._nodes(x, 1, order), order)

    def _each_input(self, x: Tensor, order: str) -> Tensor:
        """g^-1 x where every sample has its own x, (b, k, ...)."""
        self._check_leading("x", x, 2)
        center, order = self._act(order)
        q = self._q.reshape(-1, 1, *self._q.shape[2:])
        center = None if center is None else self.center.reshape(-1, 1, center.shape[-1])
        nodes = self._nodes(x, 2, order)
        nodes = None if nodes is None else nodes.repeat_interleave(self.n_samples)
        return run_rotate(x.flatten(0, 1), q, center, nodes, order).reshape(x.shape)

    def _transform_output(self, y: Tensor, order: str, weights: Tensor | None, reduce: str | None) -> Tensor:
        center, order = self._act(order)
        return run_inverse_rotate(y, self._q, center, self._nodes(y, 2, order), weights, order, reduce)


def _about_origin(g: Orthogonal) -> Euclidean:
    return Euclidean(g.q, g.q.new_zeros(g.batch_size, 1, g.q.shape[-1]))
