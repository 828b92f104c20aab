"""permute_rotate: nodes permuted and space rotated in the same pass, for all samples at once."""

from __future__ import annotations

from torch import Tensor

from lps_kernels import checks
from lps_kernels.op import op
from lps_kernels.ops.features import soft_arguments
from lps_kernels.ops.rotate import apply_rotation, centered, real_arguments
from lps_kernels.ops.rows import along, apply_sorted, mask_nodes
from lps_kernels.ops.space import flatten, unflatten


@op(outputs=("y",), differentiable=("x", "t", "row", "col", "q", "center"))
def _permute_rotate(
    x: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    order: int,
) -> Tensor:
    """x (b, n, d, c) or (b, n, d, d, c), perm (b, k, n), q (b, k, d, d) -> (b, k, n, d, c) or (b, k, n, d, d, c).

    What rotate and then permute with hard values gives. t, row, col (b, k, n), q and center (b, 1, d) in the dtype
    that x is computed in.
    """
    y = apply_rotation(centered(x, center, num_nodes), q, order, transpose=True)
    y = y.gather(2, along(perm, y, 2).expand(y.shape))
    y = apply_sorted(mask_nodes(y, num_nodes, 1), t, row, col, tau, True, 1, back=False)
    return mask_nodes(y, num_nodes, 1).to(x.dtype)  # again: no gradient comes from padding


def run_permute_rotate(x: Tensor, permutation, q: Tensor, center: Tensor | None, order: int) -> Tensor:
    """g^-1 x of a hard `Permutation` with rotations q (b, k, d, d), of x (b, n, d, ...) or (b, n, d, d, ...)."""
    perm, soft, num_nodes = permutation._arguments()
    check_product("x", x, perm.shape[:1], perm, order, q)
    x, q, center, unitary = real_arguments(x, q, checks.center(center, q, order))
    t, row, col = soft_arguments(soft, x, True)
    flat = flatten(x, 1, order, unitary)
    y = _permute_rotate(flat, perm, t, row, col, q, center, num_nodes, float(permutation._tau), order)
    return unflatten(y, x, 1, order, unitary)


def check_product(name: str, x: Tensor, leading, perm: Tensor, order: int, q: Tensor) -> None:
    checks.space(name, x, leading, order, q)
    if x.dim() == len(leading) + order or x.shape[len(leading)] != perm.shape[-1]:
        spelt = ", ".join(map(str, (*leading, perm.shape[-1], *[q.shape[-1]] * order)))
        raise ValueError(f"{name}: expected shape ({spelt}, ...), got {tuple(x.shape)}")
