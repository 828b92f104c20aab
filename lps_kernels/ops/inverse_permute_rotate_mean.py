"""inverse_permute_rotate_mean: back to node order and out of the frames in the same pass, and the mean over samples."""

from __future__ import annotations

from torch import Tensor

from lps_kernels import checks
from lps_kernels.op import op
from lps_kernels.ops.features import soft_arguments
from lps_kernels.ops.inverse_rotate_mean import finish_output
from lps_kernels.ops.permute_rotate import check_product
from lps_kernels.ops.rotate import apply_rotation, real_arguments
from lps_kernels.ops.rows import along, apply_sorted, compute_dtype, mask_nodes
from lps_kernels.ops.space import flatten, unflatten


@op(outputs=("x",), differentiable=("y", "t", "row", "col", "q", "center", "weights"))
def _inverse_permute_rotate_mean(
    y: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    tau: float,
    order: int,
    mean: bool,
) -> Tensor:
    """y (b, k, n, d, c) or (b, k, n, d, d, c), perm (b, k, n), q (b, k, d, d) -> y without k, or all of it.

    What inverse_permute with hard values and then inverse_rotate_mean gives. t, row, col (b, k, n), q, center
    (b, 1, d) and weights (b, k) in the dtype that y is computed in.
    """
    x = y.to(compute_dtype(y.dtype))
    x = apply_sorted(mask_nodes(x, num_nodes, 1), t, row, col, tau, True, 1, back=True)
    x = mask_nodes(x, num_nodes, 1)  # again: no gradient comes from padding
    x = x.gather(2, along(perm.argsort(-1), x, 2).expand(x.shape))
    x = apply_rotation(x, q, order, transpose=False)
    return finish_output(x, center, num_nodes, weights, mean).to(y.dtype)


def run_inverse_permute_rotate(y: Tensor, permutation, q, center, weights, order: int, reduce: str | None) -> Tensor:
    """g y of a hard `Permutation` with rotations q, of y (b, k, n, d, ...) or (b, k, n, d, d, ...), and its mean."""
    perm, soft, num_nodes = permutation._arguments()
    check_product("y", y, perm.shape[:2], perm, order, q)
    weights = checks.weights(weights, y, reduce)
    y, q, center, unitary = real_arguments(y, q, checks.center(center, q, order))
    t, row, col = soft_arguments(soft, y, True)
    arguments = (perm, t, row, col, q, center, num_nodes, weights, float(permutation._tau), order, reduce is not None)
    x = _inverse_permute_rotate_mean(flatten(y, 2, order, unitary), *arguments)
    return unflatten(x, y, 2, order, unitary)
