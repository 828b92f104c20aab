"""sample_rotate: vectors, or a seed for Haar matrices, and points to the rotated points, in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels import checks
from lps_kernels.elements.euclidean import Euclidean
from lps_kernels.elements.orthogonal import Orthogonal, check_square
from lps_kernels.op import op
from lps_kernels.ops.gram_schmidt import _gram_schmidt
from lps_kernels.ops.random_orthogonal import random_orthogonal
from lps_kernels.ops.rotate import _rotate
from lps_kernels.ops.rows import compute_dtype, valid_nodes
from lps_kernels.ops.space import flatten, unflatten
from lps_kernels.random import new_seed


@op(
    outputs=("q", "degenerate", "center", "x_k"),
    differentiable=("v", "x"),
    saves=("q", "degenerate", "center"),
    causes={"q": ["v"], "center": ["x"]},
)
def _sample_rotate(
    v: Tensor | None, seed: Tensor, x: Tensor, num_nodes: Tensor | None, k: int, special: bool, centered: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """v (b, k, d, d) in the dtype that x is computed in, x (b, n, d, c) -> q, degenerate (b, k, d), center, x_k.

    Exactly `gram_schmidt` of v, or `random_orthogonal` of seed (1,) where there is no v, then `rotate` about the
    centroid (b, 1, d) over real nodes and all channels where centered; else center is (b, 0, d).
    """
    b, n, d, c = x.shape
    wide = x.to(compute_dtype(x.dtype))
    if v is None:
        q = random_orthogonal.reference(seed, b, k, d, special, False, wide.dtype == torch.float64)
        degenerate = torch.zeros(b, k, d, dtype=torch.bool, device=x.device)
    else:
        q, degenerate = _gram_schmidt.reference(v.reshape(b * k, d, d), special)
        q, degenerate = q.reshape(b, k, d, d), degenerate.reshape(b, k, d)
    if not centered:
        return q, degenerate, q.new_empty(b, 0, d), _rotate.reference(x, q, None, num_nodes, 1)
    valid = valid_nodes(num_nodes, n, x.device).expand(b, 1, n)[:, 0, :, None, None]
    count = (n if num_nodes is None else num_nodes.clamp(0, n)[:, None]) * c
    center = torch.where(valid, wide, 0).sum((1, 3)) / (count.clamp(min=1) if num_nodes is not None else max(count, 1))
    return q, degenerate, center[:, None], _rotate.reference(x, q, center[:, None], num_nodes, 1)


def sample_rotate(
    v: Tensor | None,
    x: Tensor,
    *,
    k: int | None = None,
    special: bool = False,
    center: bool = True,
    num_nodes: Tensor | None = None,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> tuple[Euclidean | Orthogonal, Tensor]:
    """`Euclidean.from_vectors` or `.uniform`, then `transform_input` of the points, in one call.

    >>> import torch, lps_kernels as lk
    >>> x = torch.randn(2, 5, 3)
    >>> g, x_k = lk.sample_rotate(torch.randn(2, 4, 3, 3), x)
    >>> assert torch.allclose(x_k, g.transform_input(x, "point"), atol=1e-5)

    Arguments:
        v: (b, k, d, d) vectors for `gram_schmidt`, or None for k Haar-distributed rotations.
        x: (b, n, d) points.
        k: the number of samples where v is None.
        special: SO(d), SE(d).
        center: about the centroid of the real points, which makes a `Euclidean`; False makes an `Orthogonal`.
        num_nodes: (b,) int64; the rest of n is padding and is written as zero.
        generator: of the Haar-distributed rotations; PyTorch's own generator where it is None.
        backend: a backend's name, see `backend`.
    Returns: the group element and x (b, k, n, d), dtype of x.
    Raises: TypeError or ValueError for arguments of the wrong kind, shape or value.
    Source: Kim et al., NeurIPS 2023, section 2.2.
    """
    checks.tensor("x", x, "(b, n, d)")
    checks.floating("x", x)
    b, n, d = x.shape
    checks.num_nodes(num_nodes, b, n, x.device)
    checks.flags(special=special, center=center)
    if v is None:
        if k is None:
            raise ValueError("k: expected the number of samples where v is None")
        checks.samples(k)
    else:
        checks.tensor("v", v, "(b, k, d, d)")
        checks.floating("v", v)
        check_square(v, special)
        checks.same_device("v", v, x.device)
        if v.shape[0] != b or v.shape[-1] != d or k not in (None, v.shape[1]):
            spelt = f"({b}, {'k' if k is None else k}, {d}, {d})"
            raise ValueError(f"v: expected shape {spelt}, got {tuple(v.shape)}")
        k, v = v.shape[1], v.to(compute_dtype(x.dtype))
    seed = new_seed(generator, x.device) if v is None else torch.zeros(1, dtype=torch.int64, device=x.device)
    q, degenerate, middle, x_k = _sample_rotate(
        v, seed, flatten(x, 1, 1), num_nodes, k, special, center, backend=backend
    )
    y = unflatten(x_k, x, 1, 1)
    return (Euclidean(q, middle, degenerate, num_nodes) if center else Orthogonal(q, degenerate)), y
