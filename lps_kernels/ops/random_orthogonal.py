"""random_orthogonal: Haar-distributed matrices of O(d), SO(d) and U(d)."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.op import op
from lps_kernels.ops.gram_schmidt import _gram_schmidt
from lps_kernels.random import normals


@op(outputs=("q",))
def random_orthogonal(seed: Tensor, b: int, k: int, d: int, special: bool, unitary: bool, double: bool) -> Tensor:
    """(b, k, d, d), or (b, k, d, d, 2) for unitary: normal numbers, then Gram-Schmidt with a positive diagonal.

    seed: (1,) int64. double: float64, else float32. special: the first column takes the sign of the determinant, which
    leaves the distribution given the rest as it was, hence Haar on SO(d).
    Source: Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 54, 2007.
    """
    shape = (d, d, 2) if unitary else (d, d)
    count = 2 * d * d if unitary else d * d
    v = normals(seed, b * k, count, torch.float64 if double else torch.float32)
    q, _ = _gram_schmidt.reference(v.reshape(b * k, *shape), special)
    return q.reshape(b, k, *shape)
