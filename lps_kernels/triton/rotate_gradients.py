"""The gradient of rotate: nodes' from all samples at once, matrices' and centers' by blocks of nodes, then summed."""

from __future__ import annotations

import functools

import torch
import triton.language as tl

from lps_kernels.triton.entry import entry
from lps_kernels.triton.inverse import inverses_here, share
from lps_kernels.triton.large_gram_schmidt import OPTIONS as UNFUSED  # sums of products over threads, as there
from lps_kernels.triton.launch import OPTIONS, power_of_two, programs
from lps_kernels.triton.lines import order_of
from lps_kernels.triton.rotation_gradients import ROWS, finish, finish_kernel
from lps_kernels.triton.rotations import (
    apply_matrix,
    lane_sums,
    lanes_of,
    load_matrix,
    load_vectors,
    matrix_gradient,
    moved,
    nodes_of,
    ordered,
    shifted,
    store_vectors,
    transposed,
)
from lps_kernels.triton.sort import inverse
from lps_kernels.triton.space import Space

# By order, bytes of a number and whether an input is one block, where d = 3; and of vectors that are permuted too. Told
# nothing, ptxas spills 8 to 48 bytes, each on one architecture or more.
_REGISTERS = {(2, 4, False): {"maxnreg": 184}, (1, 2, True): {"maxnreg": 128}, (1, 4, True): {"maxnreg": 128}}
_REGISTERS_PERMUTED = {(1, 2, True): {"maxnreg": 168}, (1, 4, True): {"maxnreg": 168}}
if torch.version.hip:
    _REGISTERS = _REGISTERS_PERMUTED = {}


@entry(do_not_specialize=["n", "k", "blocks", "groups", "centers"])
def rotate_backward_kernel(
    grad_x, partial, grad_y, x, q, center, perm, inverses, num_nodes, n, k, c, blocks, groups, centers,
    D: tl.constexpr, ORDER: tl.constexpr, LANES: tl.constexpr, PADDED: tl.constexpr, DIRECT: tl.constexpr,
    THREADS: tl.constexpr, SKEW: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """grad_x of blocks of nodes, and their parts of the gradients of q and center: all samples, one after the other."""
    COUNT: tl.constexpr = D if ORDER == 1 else D * D
    dtype: tl.constexpr = q.dtype.element_ty
    group, b = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    count, row_size = nodes_of(num_nodes, b, n), n.to(tl.int64) * c * COUNT
    if inverses is not None:
        inv = inverses_here(perm, inverses, b * k, k, n, k, LANES)
    for block in range(group, blocks, groups):
        first, per, node, channel = lanes_of(block, c, LANES, DIRECT)
        if partial is not None:
            at = x + b * row_size
            v = load_vectors(at, first, per, node, channel, count, c, dtype, COUNT, PADDED, LANES, DIRECT, SKEW)
            if SHARED:
                v = shifted(v, center + b * D, node < count, D, -1.0, LANES, THREADS)
        total = ()
        for _ in tl.static_range(COUNT):
            total = total + (tl.zeros((LANES,), dtype),)
        for sample in range(k):
            row = b * k + sample
            at = grad_y + row * row_size
            if inverses is None:
                g = load_vectors(at, first, per, node, channel, count, c, dtype, COUNT, PADDED, LANES, DIRECT, SKEW)
                if R:
                    order = inverse(order_of(perm + row * n, n, R), R)
                    g = moved(g, order, node, channel, c, node < count)
            else:
                rank = ordered(inv + sample * n, node, n, count)
                g = load_vectors(at, first, per, rank, channel, count, c, dtype, COUNT, PADDED, LANES, True, False)
            m = load_matrix(q + row * D * D, D, LANES, THREADS)
            if grad_x is not None:
                back = apply_matrix(transposed(m, D), g, D, ORDER)
                added = ()
                for e in tl.static_range(COUNT):
                    added = added + (total[e] + back[e],)
                total = added
            if partial is not None:
                u = v
                if center is not None and not SHARED:
                    at = center + (b * centers + sample) * D
                    u = shifted(v, at, node < count, D, -1.0, LANES, THREADS)
                sums = matrix_gradient(m, u, g, D, ORDER) + g
                to = partial + (row * blocks + block) * WIDTH + tl.arange(0, WIDTH)
                tl.store(to, lane_sums(sums, D * D + D if WIDTH >= D * D + D else D * D, WIDTH))
        if grad_x is not None:
            at = grad_x + b * row_size
            store_vectors(at, total, first, per, node, channel, count, n, c, COUNT, PADDED, LANES, DIRECT, SKEW)


@entry(do_not_specialize=["n", "k", "blocks", "centers"])
def whole_rotate_backward_kernel(
    grad_x, grad_q, grad_center, partial, grad_y, x, q, center, perm, inverses, num_nodes, n, k, c, blocks, centers,
    D: tl.constexpr, ORDER: tl.constexpr, LANES: tl.constexpr, PADDED: tl.constexpr, DIRECT: tl.constexpr,
    THREADS: tl.constexpr, SKEW: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """All blocks of an input, then their sums."""
    rotate_backward_kernel(
        grad_x, partial, grad_y, x, q, center, perm, inverses, num_nodes, n, k, c, blocks, 1, centers, D, ORDER, LANES,
        PADDED, DIRECT, THREADS, SKEW, SHARED, WIDTH, R,
    )  # fmt: skip
    tl.debug_barrier()
    finish_kernel(
        grad_q, grad_center, None, partial, q, None, None, k, blocks, centers, False, D, ORDER, True, WIDTH, ROWS
    )


def rotate_gradients(s: Space, wanted, grad_y, x, perm, q, center, num_nodes) -> None:
    """Writes the gradients of x, q and center, those that are wanted.

    By two launches where q's or center's is and an input has several programs: their sums run over blocks of nodes.
    """
    grad_x, grad_q, grad_center = wanted
    sums = grad_q is not None or grad_center is not None
    groups, arguments, constants = backward_arguments(
        s, grad_y, x, perm, q, center, num_nodes, sums, grad_center is not None
    )
    if sums and groups == 1:
        whole_rotate_backward_kernel[programs(s.b, "rotate_backward")](
            grad_x, grad_q, grad_center, *arguments, max(s.centers, 1), ROWS=ROWS, **constants, **UNFUSED
        )
        return
    rotate_backward_kernel[programs(s.b * groups, "rotate_backward")](
        grad_x, *arguments, groups, max(s.centers, 1), **constants, **OPTIONS
    )
    if sums:
        finish(s, arguments[0], q, None, None, True, False, grad_q, grad_center, None)


def backward_arguments(s: Space, grad_y, x, perm, q, center, num_nodes, sums: bool, totals: bool) -> tuple:
    """Programs an input, and what `rotate_backward_kernel` takes from partial to blocks, and its constants.

    sums: of q's gradient, by blocks of nodes; totals: of grad_y, behind them.
    """
    permuted = perm is not None
    blocks, constants = _shape(s, x.element_size(), permuted, totals)
    groups, inverses = blocks, None
    if permuted and not s.whole(permuted):
        groups, perm, inverses = share(perm, s.b, blocks, s.node * x.element_size(), s.k)
    partial = q.new_empty(s.b * s.k, blocks, constants["WIDTH"]) if sums else None
    arguments = partial, grad_y, x, q, center, perm, inverses, num_nodes, s.n, s.k, s.c, blocks
    return groups, arguments, constants


@functools.lru_cache(maxsize=1024)
def _shape(s: Space, itemsize: int, permuted: bool, totals: bool) -> tuple[int, dict]:
    """Blocks of an input, and constants of the kernel."""
    constants = {"SHARED": s.centers == 1, "R": s.ranks(permuted), **s.lanes(itemsize, permuted)}
    if s.d == 3:
        registers = _REGISTERS_PERMUTED if permuted else _REGISTERS
        constants |= registers.get((s.order, itemsize, s.blocks(permuted) == 1), {})
    return s.blocks(permuted), {**constants, "WIDTH": power_of_two(s.d**2 + s.d if totals else s.d**2)}
