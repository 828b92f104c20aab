"""random_orthogonal: Haar-distributed matrices of O(d), SO(d) and U(d)."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.op import op
from lps_kernels.ops.gram_schmidt import _gram_schmidt
from lps_kernels.random import STREAM_ROTATION, normals, on_circle, row_words, uniforms


def _by_angles(seed: Tensor, rows: int, d: int, special: bool, dtype: torch.dtype) -> Tensor:
    """(rows, d, d) for 1 <= d <= 3, four words each: two turns, a height, and the sign of the last column.

    A rotation of space is a turn about the last axis, one about the second whose cosine, the height, is uniform, and
    another about the last: Euler's angles, in which the invariant volume is a product.
    """
    first, second, height, last = uniforms(row_words(seed, rows, 4, STREAM_ROTATION), dtype).unbind(-1)
    sign = torch.ones_like(last) if special else torch.where(last < 0.5, 1.0, -1.0).to(dtype)
    if d == 1:
        return sign.reshape(rows, 1, 1)
    (x, y), z = on_circle(first), 1 - 2 * height
    if d == 2:
        return torch.stack((x, -sign * y, y, sign * x), -1).reshape(rows, 2, 2)
    (a, b), radius = on_circle(second), 2 * (height * (1 - height)).sqrt()
    top = x * z * a - y * b, -x * z * b - y * a, sign * x * radius
    middle = y * z * a + x * b, x * a - y * z * b, sign * y * radius
    return torch.stack((*top, *middle, -radius * a, radius * b, sign * z), -1).reshape(rows, 3, 3)


@op(outputs=("q",))
def random_orthogonal(seed: Tensor, b: int, k: int, d: int, special: bool, unitary: bool, double: bool) -> Tensor:
    """(b, k, d, d), or (b, k, d, d, 2) for unitary: Haar on O(d), on SO(d) where special, on U(d) where unitary.

    Real ones with d <= 3 are made of angles, four random words each. Others are normal numbers, then Gram-Schmidt with
    a positive diagonal, and the first column takes the sign of the determinant where special, which leaves the
    distribution given the rest as it was.
    seed: (1,) int64. double: float64, else float32.
    Source: Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 54, 2007.
    """
    dtype = torch.float64 if double else torch.float32
    if 1 <= d <= 3 and not unitary:
        return _by_angles(seed, b * k, d, special, dtype).reshape(b, k, d, d)
    shape = (d, d, 2) if unitary else (d, d)
    v = normals(seed, b * k, 2 * d * d if unitary else d * d, dtype)
    q, _ = _gram_schmidt.reference(v.reshape(b * k, *shape), special)
    return q.reshape(b, k, *shape)
