"""Permutation: samples of S_n."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.elements.base import Composition, GroupElement, check_sizes
from lps_kernels.elements.finite import permutation_group
from lps_kernels.op import is_differentiated
from lps_kernels.ops.inverse_permute_mean import run_inverse_permute
from lps_kernels.ops.permutation_entropy import permutation_entropy
from lps_kernels.ops.permute import run_permute
from lps_kernels.ops.random_permutation import random_permutation
from lps_kernels.ops.rows import compute_dtype, soft_matrix, valid_nodes
from lps_kernels.ops.soft_sort import SoftSort, _soft_sort
from lps_kernels.random import new_seed


class Permutation(GroupElement):
    """k permutations of n nodes for each of b graphs, hard, with the straight-through gradient of their scores.

    P[i, r] = 1 iff i = perm[r]: perm[b, k, r] is the node placed at rank r. Padding stays in place and is written as
    zero in both directions.

    >>> import torch, lps_kernels as lk
    >>> g = lk.Permutation.from_scores(torch.tensor([[[0.1, 0.9, 0.5]]]))
    >>> x_k = g.transform_input(torch.tensor([[[10.0], [20.0], [30.0]]]))
    >>> assert x_k.flatten().tolist() == [20.0, 30.0, 10.0]
    >>> assert g.transform_output(x_k).flatten().tolist() == [10.0, 20.0, 30.0]
    """

    _acts_on = "nodes"
    _fields = ("perm", "t", "row", "col", "num_nodes", "tau", "n_iter", "hard", "inverted")

    def __init__(self, perm, t, row, col, num_nodes, tau=0.01, n_iter=20, hard=True, inverted=False) -> None:
        self._set(
            perm=perm, t=t, row=row, col=col, num_nodes=num_nodes, tau=tau, n_iter=n_iter, hard=hard, inverted=inverted
        )

    @classmethod
    def from_scores(
        cls,
        scores: Tensor,
        num_nodes: Tensor | None = None,
        tau: float = 0.01,
        n_iter: int = 20,
        normalize: bool = True,
        hard: bool = True,
        generator: torch.Generator | None = None,
    ) -> Permutation:
        """Sort by descending score; see `softsort` for the arguments.

        hard: values are exact gathers and gradients those of the relaxation (straight-through); where no gradient is
            wanted, no Sinkhorn runs. False: the relaxed matrix itself is applied.
        """
        checks.scores(scores, num_nodes)
        checks.temperature(tau, n_iter)
        checks.flags(normalize=normalize, hard=hard)
        soft = wants_soft(scores, hard)
        seed = new_seed(generator, scores.device)
        perm, t, row, col = _soft_sort(scores, seed, num_nodes, float(tau), n_iter, normalize, soft)
        return cls(perm, t, row if soft else None, col if soft else None, num_nodes, tau, n_iter, hard)

    @classmethod
    def uniform(
        cls,
        b: int,
        k: int,
        n: int,
        num_nodes: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Permutation:
        """Uniform permutations of the first num_nodes nodes."""
        check_sizes(b=b, n=n)
        checks.samples(k)
        seed = new_seed(generator, num_nodes.device if device is None and isinstance(num_nodes, Tensor) else device)
        checks.num_nodes(num_nodes, b, n, seed.device)
        return cls(random_permutation(seed, num_nodes, b, k, n), None, None, None, num_nodes)

    @classmethod
    def identity(
        cls, b: int, k: int, n: int, num_nodes: Tensor | None = None, device: torch.device | str | None = None
    ) -> Permutation:
        """Permutations that move nothing."""
        check_sizes(b=b, n=n)
        checks.samples(k)
        perm = torch.arange(n, device=device).expand(b, k, n)
        checks.num_nodes(num_nodes, b, n, perm.device)
        return cls(perm, None, None, None, num_nodes)

    @classmethod
    def from_indices(cls, perm: Tensor, num_nodes: Tensor | None = None) -> Permutation:
        """Permutations given as (b, k, n) int64: perm[r] is the node placed at rank r."""
        checks.permutation(perm, num_nodes)
        return cls(perm, None, None, None, num_nodes)

    @classmethod
    def from_sort(cls, features: Tensor, num_nodes: Tensor | None = None) -> Permutation:
        """The canonical order, one sample: nodes by descending features (b, n), or the first of (b, n, c) that differ.

        A constant to the gradient. Nodes with equal features keep their order; NaN comes last.
        """
        if not isinstance(features, Tensor) or features.dim() not in (2, 3):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"features: expected shape (b, n) or (b, n, c), got {got}")
        if features.is_complex() or features.layout != torch.strided:
            raise TypeError(f"features: expected dense real ones, got {features.dtype} of layout {features.layout}")
        keys = features.detach() if features.dim() == 3 else features.detach()[..., None]
        b, n, channels = keys.shape
        checks.num_nodes(num_nodes, b, n, keys.device)
        valid = valid_nodes(num_nodes, n, keys.device)[:, 0].expand(b, n)
        perm = torch.arange(n, device=keys.device).expand(b, n)
        for c in reversed(range(channels)):
            key = keys[..., c].masked_fill(~valid, 0)
            for part in (
                key.nan_to_num(0.0, posinf=None, neginf=None) if key.is_floating_point() else key,
                ~key.isnan(),
            ):
                perm = perm.gather(1, part.gather(1, perm).argsort(dim=1, stable=True, descending=True))
        perm = perm.gather(1, valid.gather(1, perm).to(torch.uint8).argsort(dim=1, stable=True, descending=True))
        return cls(perm[:, None], None, None, None, num_nodes)

    @classmethod
    def all_of(
        cls,
        group: str,
        b: int,
        n: int,
        device: torch.device | str | None = None,
    ) -> Permutation:
        """Every element of "C_n" (rotations of a ring), "D_n" (and its reflections) or "S_n" (n <= 6), for exact means.

        >>> import torch, lps_kernels as lk
        >>> x, g = torch.randn(2, 4, 3), lk.Permutation.all_of("C_n", 2, 4)
        >>> y = lk.symmetrize(lambda x: x.cumsum(1), x, g, order_out=1)
        >>> assert torch.allclose(y.roll(1, 1), lk.symmetrize(lambda x: x.cumsum(1), x.roll(1, 1), g, order_out=1))
        """
        check_sizes(b=b, n=n)
        table = permutation_group(group, n, device)
        return cls(table.expand(b, *table.shape), None, None, None, None)

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self._perm.shape)

    @property
    def perm(self) -> Tensor:
        """(b, k, n) int64: perm[r] is the node that this element places at rank r."""
        return self._perm.argsort(-1) if self._inverted else self._perm

    @property
    def num_nodes(self) -> Tensor | None:
        return self._num_nodes

    def __repr__(self) -> str:
        b, k, n = self._shape
        return f"Permutation(b={b}, k={k}, n={n}, device={self._perm.device}, hard={self._hard})"

    def __getitem__(self, index) -> Permutation:
        """Some of the samples; an int keeps the axis, with one sample."""
        index = self._samples(index)
        parts = [None if x is None else x[:, index] for x in (self._perm, self._t, self._row, self._col)]
        return Permutation(*parts, self._num_nodes, self._tau, self._n_iter, self._hard, self._inverted)

    def inverse(self) -> Permutation:
        """The inverse permutations, with the same gradients."""
        parts = (self._perm, self._t, self._row, self._col, self._num_nodes)
        return Permutation(*parts, self._tau, self._n_iter, self._hard, not self._inverted)

    def __matmul__(self, other: GroupElement) -> GroupElement:
        if not isinstance(other, Permutation):
            return super().__matmul__(other)
        both = Composition(self, other)
        padded = (self._num_nodes is None) != (other._num_nodes is None)  # one writes zero where the other moves nodes
        if self._row is not None or other._row is not None or padded:
            return both
        return Permutation(both.perm, None, None, None, self._num_nodes)

    def matrix(self) -> Tensor:
        """The dense matrices (b, k, n, n), zero at padding; hard ones have the straight-through gradient."""
        b, k, n = self._shape
        soft = self._soft_sort()
        dtype = torch.get_default_dtype() if self._t is None else self._t.dtype
        valid = valid_nodes(self._num_nodes, n, self._perm.device).expand(b, k, n)
        matrix = torch.eye(n, dtype=dtype, device=self._perm.device) * valid[..., None]
        if soft is not None:
            relaxed = soft_matrix(soft.t, soft.row, soft.col, self._tau)
            matrix = matrix + (relaxed - relaxed.detach()) if self._hard else relaxed
        matrix = matrix.gather(-2, self._perm.argsort(-1)[..., None].expand(b, k, n, n))
        return matrix.mT if self._inverted else matrix

    def entropy(self) -> Tensor:
        """The published penalty, a scalar in nats: how far the relaxed matrices are from permutation matrices.

        The mean over graphs, samples and nodes of the entropy of a row plus that of a column. Zero for permutations
        that no scores were relaxed for.
        Source: Kim et al., NeurIPS 2023, appendix; see `permutation_entropy`.
        """
        if self._t is None:
            return torch.zeros((), device=self._perm.device)
        _, t, row, col = self._soft_sort(always=True)
        wide = (x.to(compute_dtype(x.dtype)) for x in (t, row, col))
        each = permutation_entropy(*wide, self._num_nodes, float(self._tau)).to(self._t.dtype)
        return each.mean() if self.batch_size else each.sum()

    def _soft_sort(self, always: bool = False) -> SoftSort | None:
        """The relaxation, None where it was not made; made now from the sorted scores if `always`."""
        if self._row is not None:
            return SoftSort(self._perm, self._t, self._row, self._col)
        if not always or self._t is None:
            return None
        seed = torch.zeros(1, dtype=torch.int64, device=self._t.device)  # ties are sorted already
        _, t, row, col = _soft_sort(self._t, seed, self._num_nodes, float(self._tau), self._n_iter, False, True)
        return SoftSort(self._perm, t, row, col)

    def _arguments(self) -> tuple:
        return self._perm, self._soft_sort(), self._num_nodes

    def _transform_input(self, x: Tensor, order: int) -> Tensor:
        if self._inverted:
            checks.features("x", x, self._shape[:1], order, self._shape[2], self._perm.device)
            return self._each_input(x[:, None].expand(x.shape[0], self.n_samples, *x.shape[1:]), order)
        return run_permute(x, *self._arguments(), self._tau, order, self._hard)

    def _each_input(self, x: Tensor, order: int) -> Tensor:
        """g^-1 x where every sample has its own x, (b, k, ...)."""
        if self._inverted:
            return run_inverse_permute(x, *self._arguments(), None, self._tau, order, self._hard, None)
        b, k, n = self._shape
        self._check_leading("x", x, 2)
        soft = self._soft_sort()
        nodes = None if self._num_nodes is None else self._num_nodes.repeat_interleave(k)
        if soft is not None:
            soft = SoftSort(*(s.reshape(b * k, 1, n) for s in soft))
        folded = run_permute(
            x.flatten(0, 1), self._perm.reshape(b * k, 1, n), soft, nodes, self._tau, order, self._hard
        )
        return folded.reshape(x.shape)

    def _transform_output(self, y: Tensor, order: int, weights: Tensor | None, reduce: str | None) -> Tensor:
        if self._inverted:
            checks.features("y", y, self._shape[:2], order, self._shape[2], self._perm.device)
            return self._mean(self.inverse()._each_input(y, order), weights, reduce)
        return run_inverse_permute(y, *self._arguments(), weights, self._tau, order, self._hard, reduce)


def wants_soft(scores: Tensor, hard: bool) -> bool:
    """Whether the relaxation of these scores is needed at all."""
    return not hard or is_differentiated(scores)
