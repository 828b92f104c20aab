"""soft_sort: scores to a permutation and the three vectors that hold its SoftSort-Sinkhorn relaxation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.op import op
from lps_kernels.ops.rows import compute_dtype, laplace_kernel, valid_nodes
from lps_kernels.random import STREAM_TIES, new_seed, row_words


class SoftSort(NamedTuple):
    """A permutation and its relaxation P[perm[r], j] = row[r] exp(-|t[r] - t[j]| / tau) col[j]; each (b, k, n)."""

    perm: Tensor
    t: Tensor
    row: Tensor
    col: Tensor


@op(
    outputs=("perm", "t", "row", "col"),
    differentiable=("scores",),
    saves=("perm", "t", "row", "col"),
    shapeless={"n_iter": 0},
)
def _soft_sort(
    scores: Tensor, seed: Tensor, num_nodes: Tensor | None, tau: float, n_iter: int, normalize: bool, soft: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scores (b, k, n), seed (1,) int64, num_nodes (b,) int64 -> perm, t, row, col, each (b, k, n).

    Padding is zero in t, row and col; so is the whole of t, row and col, and with it the gradient, in a row with a
    score that is not finite. Where soft is false no Sinkhorn runs, row and col are (b, k, 0), and t of such a row is
    NaN, so that a later soft_sort of t knows it.
    """
    b, k, n = scores.shape
    valid = valid_nodes(num_nodes, n, scores.device)
    scores = scores.to(compute_dtype(scores.dtype))
    perm = descending_order(scores.detach(), seed, valid)
    finite = (scores.isfinite() | ~valid).all(-1, keepdim=True)
    kept = torch.where(valid & finite, scores, 0)
    t = (_unit_norm(kept) if normalize else kept).gather(-1, perm)
    if not soft:
        t = torch.where(valid & ~finite, torch.nan, t)
        return perm, t, t.new_empty(b, k, 0), t.new_empty(b, k, 0)
    row, col = sinkhorn(t, valid, tau, n_iter)
    return perm, t, torch.where(valid & finite, row, 0), torch.where(valid & finite, col, 0)


def descending_order(scores: Tensor, seed: Tensor, valid: Tensor) -> Tensor:
    """Indices that sort by descending score, NaN behind -inf, ties by random keys, and leave padding in place."""
    b, k, n = scores.shape
    ties = row_words(seed, b * k, n, STREAM_TIES).reshape(b, k, n)
    last = torch.where(valid, scores.isnan().long(), 2).expand(b, k, n)
    order = torch.where(valid, ties, 2**32).argsort(dim=-1, stable=True)
    value = torch.where(valid & ~scores.isnan(), scores, 0).gather(-1, order)
    order = order.gather(-1, value.argsort(dim=-1, stable=True, descending=True))
    return order.gather(-1, last.gather(-1, order).argsort(dim=-1, stable=True))


def _unit_norm(z: Tensor) -> Tensor:
    """z / max(|z|, 1e-6), with squares that neither overflow nor vanish and with gradient zero at z = 0."""
    largest = z.detach().abs().amax(-1, keepdim=True) if z.shape[-1] else z.new_ones(())
    scaled = z / torch.where(largest > 0, largest, 1)
    norm = scaled.square().sum(-1, keepdim=True).clamp(min=0.5).sqrt()  # at least 1 where any score is not zero
    return torch.where(norm.detach() > 1e-6 / largest, scaled / norm, z / 1e-6)


def sinkhorn(t: Tensor, valid: Tensor, tau: float, n_iter: int) -> tuple[Tensor, Tensor]:
    """Row and column scalings of the SoftSort kernel after n_iter iterations, each (b, k, n).

    The kernel is symmetric, so both half steps are x -> 1 / (K x). Padding is isolated: its scalings are one.
    """
    n = t.shape[-1]
    isolated = torch.eye(n, dtype=t.dtype, device=t.device)
    kernel = torch.where(valid[..., :, None] & valid[..., None, :], laplace_kernel(t, tau), isolated)
    row = col = torch.ones_like(t)
    for _ in range(n_iter):
        row = (kernel @ col[..., None])[..., 0].reciprocal()
        col = (kernel @ row[..., None])[..., 0].reciprocal()
    return row, col


def softsort(
    scores: Tensor,
    num_nodes: Tensor | None = None,
    tau: float = 0.01,
    n_iter: int = 20,
    normalize: bool = True,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> SoftSort:
    """Sort scores and relax the permutation matrix to a doubly stochastic one, in O(n) a row and iteration.

    >>> import torch, lps_kernels as lk
    >>> perm, t, row, col = lk.softsort(torch.tensor([[[0.1, 0.9, 0.5]]]))
    >>> assert perm.tolist() == [[[1, 2, 0]]]

    Arguments:
        scores: (b, k, n), any floating dtype; float16 and bfloat16 are computed in float32.
        num_nodes: (b,) int64, the number of real nodes of each row; the rest is padding and stays in place.
        tau: temperature, in units of the (normalized) scores; positive.
        n_iter: Sinkhorn iterations, exactly so many, and differentiated as such.
        normalize: divide each row by its Euclidean norm over the real nodes first.
        generator: breaks ties between equal scores; PyTorch's own generator where it is None.
        backend: a backend's name, see `backend`.
    Returns: `SoftSort`: perm (b, k, n) int64, perm[r] is the node of rank r by descending score; t, row, col
        (b, k, n) hold the relaxation P[perm[r], j] = row[r] exp(-|t[r] - t[j]| / tau) col[j], and carry gradients.
    Raises: TypeError or ValueError for arguments of the wrong kind, shape or value.
    Source: Prillo and Eisenschlos, "SoftSort", ICML 2020; Kim et al., NeurIPS 2023, section 2.2.
    """
    checks.scores(scores, num_nodes)
    checks.temperature(tau, n_iter)
    checks.flags(normalize=normalize)
    seed = new_seed(generator, scores.device)
    return SoftSort(*_soft_sort(scores, seed, num_nodes, float(tau), n_iter, normalize, True, backend=backend))
