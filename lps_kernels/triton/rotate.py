"""rotate: a block of an input's nodes is read once and turned for several samples."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.inverse import inverse_of
from lps_kernels.triton.launch import OPTIONS, cdiv, check_gradient, dense, nothing, on, programs
from lps_kernels.triton.lines import order_of
from lps_kernels.triton.rotate_gradients import rotate_gradients
from lps_kernels.triton.rotations import (
    apply_matrix,
    lanes_of,
    load_matrix,
    load_vectors,
    moved,
    nodes_of,
    ordered,
    shifted,
    store_vectors,
)
from lps_kernels.triton.rotations_large import turn, turn_backward
from lps_kernels.triton.space import SAMPLES, SMALL, space_of


@entry(do_not_specialize=["n", "k", "blocks", "chunks", "centers"])
def rotate_kernel(
    y, x, q, center, perm, num_nodes, n, k, c, blocks, chunks, centers,
    D: tl.constexpr, ORDER: tl.constexpr, LANES: tl.constexpr, PADDED: tl.constexpr, DIRECT: tl.constexpr,
    THREADS: tl.constexpr, SKEW: tl.constexpr, SHARED: tl.constexpr, SAMPLES: tl.constexpr,
    R: tl.constexpr,
):  # fmt: skip
    """y of a block of nodes of some samples. SHARED: one center for all of them. R: see `Space.ranks`."""
    COUNT: tl.constexpr = D if ORDER == 1 else D * D
    dtype: tl.constexpr = q.dtype.element_ty
    block, item = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    chunk, b = item % chunks, (item // chunks).to(tl.int64)
    first, per, node, channel = lanes_of(block, c, LANES, DIRECT)
    count, row_size = nodes_of(num_nodes, b, n), n.to(tl.int64) * c * COUNT
    HELD: tl.constexpr = perm is None or R > 0
    if HELD:
        at = x + b * row_size
        v = load_vectors(at, first, per, node, channel, count, c, dtype, COUNT, PADDED, LANES, DIRECT, SKEW)
        if SHARED:
            v = shifted(v, center + b * D, node < count, D, -1.0, LANES, THREADS)
    for sample in range(chunk * SAMPLES, tl.minimum((chunk + 1) * SAMPLES, k)):
        row = b * k + sample
        m = load_matrix(q + row * D * D, D, LANES, THREADS)
        live = node < count
        if not HELD:
            source = ordered(perm + row * n, node, n, count)
            live = source < count
            v = load_vectors(
                x + b * row_size, first, per, source, channel, count, c, dtype, COUNT, PADDED, LANES, True, False
            )
        u = v
        if R:
            u = moved(v, order_of(perm + row * n, n, R), node, channel, c, live)
        if center is not None and not (HELD and SHARED):
            u = shifted(v, center + (b * centers + sample % centers) * D, live, D, -1.0, LANES, THREADS)
        u = apply_matrix(m, u, D, ORDER)
        to = y + row * row_size  # not `at`, which is of another type where y is wider
        store_vectors(to, u, first, per, node, channel, count, n, c, COUNT, PADDED, LANES, DIRECT, SKEW)


def rotate(x: Tensor, q: Tensor, center: Tensor | None, num_nodes: Tensor | None, order: int) -> Tensor:
    return launch_rotate("rotate", x, None, q, center, num_nodes, order)


def rotate_backward(
    grad_y: Tensor | None,
    x: Tensor,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    order: int,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    need = (bool(needs & 1), bool(needs & 2), bool(needs & 4) and center is not None)
    return launch_backward("rotate_backward", grad_y, x, None, q, center, num_nodes, order, need)


def launch_rotate(
    name: str,
    x: Tensor,
    perm: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    order: int,
    wide: bool = False,
) -> Tensor:
    """q^T (x - center) of every sample, in the order of perm (b, k, n) where there is one. wide: as it is computed."""
    x, perm, q, center, num_nodes = map(dense, (x, perm, q, center, num_nodes))
    s = space_of(name, x, q, center, num_nodes, order, False)
    y = torch.empty(s.shape(True), dtype=q.dtype if wide else x.dtype, device=x.device)
    if not y.numel():
        return y
    with on(x):
        if s.d > SMALL:
            turn(s, y, x, q, center, perm, num_nodes)
            return y
        permuted = perm is not None
        chunks, blocks = cdiv(s.k, SAMPLES), s.blocks(permuted)
        rotate_kernel[programs(s.b * chunks * blocks, name)](
            y, x, q, center, perm, num_nodes, s.n, s.k, s.c, blocks, chunks, max(s.centers, 1),
            SHARED=s.centers == 1, SAMPLES=SAMPLES, R=s.ranks(permuted), **s.lanes(x.element_size(), permuted),
            **OPTIONS,
        )  # fmt: skip
    return y


def launch_backward(
    name: str,
    grad_y: Tensor | None,
    x: Tensor,
    perm: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    order: int,
    need: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, q and center; perm (b, k, n) where nodes were permuted."""
    if grad_y is None:
        raise ValueError(f"{name}: expected a gradient")
    grad_y, x, perm, q, center, num_nodes = map(dense, (grad_y, x, perm, q, center, num_nodes))
    s = space_of(name, x, q, center, num_nodes, order, False)
    check_gradient(name, grad_y, s.shape(True), x.dtype)
    need_x, need_q, need_center = need
    grad_x = torch.empty_like(x) if need_x else nothing(x)
    grad_q = torch.empty_like(q) if need_q else nothing(x)
    grad_center = torch.empty_like(center) if need_center else nothing(x)
    if not any(need):
        return grad_x, grad_q, grad_center
    if not grad_y.numel():
        return grad_x.zero_(), grad_q.zero_(), grad_center.zero_()
    with on(x):
        if s.d > SMALL:
            inverse = None if perm is None else inverse_of(perm)
            turn_backward(s, grad_y, x, q, center, inverse, num_nodes, grad_x, grad_q, grad_center)
            return grad_x, grad_q, grad_center
        wanted = [g if g.numel() else None for g in (grad_x, grad_q, grad_center)]
        rotate_gradients(s, wanted, grad_y, x, perm, q, center, num_nodes)
    return grad_x, grad_q, grad_center
