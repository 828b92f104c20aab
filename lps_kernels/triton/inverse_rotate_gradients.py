"""The gradient of inverse_rotate_mean: of a sample's nodes, and by blocks of nodes of what they share."""

from __future__ import annotations

import torch
import triton.language as tl

from lps_kernels.triton.entry import entry
from lps_kernels.triton.large_gram_schmidt import OPTIONS as UNFUSED  # sums of products over threads, as there
from lps_kernels.triton.launch import OPTIONS, cdiv, power_of_two, programs
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
    store_vectors,
    transposed,
)
from lps_kernels.triton.space import SAMPLES, Space

# Of the launch that is one, by d, order, bytes of a number and whether nodes are permuted. Told nothing, ptxas takes 80
# on sm_80 and spills 8 bytes.
_REGISTERS = {} if torch.version.hip else {(3, 1, 2, True): {"maxnreg": 112}}


@entry(do_not_specialize=["n", "k", "blocks", "chunks"])
def inverse_rotate_mean_backward_kernel(
    grad_y, partial, grad_x, y, q, center, perm, num_nodes, weights, n, k, c, blocks, chunks,
    MEAN: tl.constexpr, D: tl.constexpr, ORDER: tl.constexpr, LANES: tl.constexpr, PADDED: tl.constexpr,
    DIRECT: tl.constexpr, THREADS: tl.constexpr, SKEW: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """grad_y of a block of nodes of some samples, and its part of the gradients of q, center and weights."""
    COUNT: tl.constexpr = D if ORDER == 1 else D * D
    dtype: tl.constexpr = q.dtype.element_ty
    block, item = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    chunk, b = item % chunks, (item // chunks).to(tl.int64)
    first, per, node, channel = lanes_of(block, c, LANES, DIRECT)
    count, row_size = nodes_of(num_nodes, b, n), n.to(tl.int64) * c * COUNT
    HELD: tl.constexpr = perm is None or R > 0
    if MEAN and HELD:
        at = grad_x + b * row_size
        g = load_vectors(at, first, per, node, channel, count, c, dtype, COUNT, PADDED, LANES, DIRECT, SKEW)
    samples = tl.cdiv(k, chunks)
    for sample in range(chunk * samples, tl.minimum((chunk + 1) * samples, k)):
        row = b * k + sample
        source = grad_x + (b if MEAN else row) * row_size
        if not HELD:
            place = ordered(perm + row * n, node, n, count)
            g = load_vectors(source, first, per, place, channel, count, c, dtype, COUNT, PADDED, LANES, True, False)
        elif not MEAN:
            g = load_vectors(source, first, per, node, channel, count, c, dtype, COUNT, PADDED, LANES, DIRECT, SKEW)
        h = g
        if R:
            h = moved(g, order_of(perm + row * n, n, R), node, channel, c, node < count)
        m = load_matrix(q + row * D * D, D, LANES, THREADS)
        if grad_y is not None:
            w = tl.full((), 1.0, dtype)
            if MEAN:
                w = tl.load(weights + row) if weights is not None else w / k.to(dtype)
            turned = apply_matrix(m, h, D, ORDER)
            weighted = ()
            for e in tl.static_range(COUNT):
                weighted = weighted + (turned[e] * w,)
            at = grad_y + row * row_size
            store_vectors(at, weighted, first, per, node, channel, count, n, c, COUNT, PADDED, LANES, DIRECT, SKEW)
        if partial is not None:
            at = y + row * row_size
            v = load_vectors(at, first, per, node, channel, count, c, dtype, COUNT, PADDED, LANES, DIRECT, SKEW)
            # Exchanged, so that entries come in the order of q: of g y^T where y_a is q_ae x_e.
            sums = matrix_gradient(transposed(m, D), v, h, D, ORDER)
            turned_sums = ()
            for a in tl.static_range(D):
                for e in tl.static_range(D):
                    turned_sums = turned_sums + (sums[e * D + a],)
            to = partial + (row * blocks + block) * WIDTH + tl.arange(0, WIDTH)
            tl.store(to, lane_sums(turned_sums + h, D * D + D if WIDTH >= D * D + D else D * D, WIDTH))


@entry(do_not_specialize=["n", "k", "centers"])
def whole_inverse_rotate_mean_backward_kernel(
    grad_y, grad_q, grad_center, grad_weights, partial, grad_x, y, q, center, perm, num_nodes, weights, n, k, c,
    centers, MEAN: tl.constexpr, D: tl.constexpr, ORDER: tl.constexpr, LANES: tl.constexpr, PADDED: tl.constexpr,
    DIRECT: tl.constexpr, THREADS: tl.constexpr, SKEW: tl.constexpr, WIDTH: tl.constexpr, R: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """A single block and its sums."""
    inverse_rotate_mean_backward_kernel(
        grad_y, partial, grad_x, y, q, center, perm, num_nodes, weights, n, k, c, 1, 1, MEAN, D, ORDER, LANES, PADDED,
        DIRECT, THREADS, SKEW, WIDTH, R,
    )  # fmt: skip
    tl.debug_barrier()
    finish_kernel(
        grad_q,
        grad_center,
        grad_weights,
        partial,
        q,
        center,
        weights,
        k,
        1,
        centers,
        MEAN,
        D,
        ORDER,
        False,
        WIDTH,
        ROWS,
    )


def inverse_rotate_gradients(s: Space, results, grad_x, y, perm, q, center, num_nodes, weights, mean: bool) -> None:
    """Writes those gradients of y, q, center and weights that are not empty.

    By two launches where one other than y's is and an input takes several programs: their sums run over blocks of
    nodes.
    """
    grad_y, grad_q, grad_center, grad_weights = (r if r.numel() else None for r in results)
    others = grad_q, grad_center, grad_weights
    chunks, blocks, sums = cdiv(s.k, SAMPLES), s.blocks(perm is not None), any(g is not None for g in others)
    totals = center is not None and (grad_center is not None or grad_weights is not None)
    width = power_of_two(s.d**2 + s.d if totals else s.d**2)
    partial = q.new_empty(s.b * s.k, blocks, width) if sums else None
    inputs = partial, grad_x, y, q, center, perm, num_nodes, weights, s.n, s.k, s.c
    constants = {"MEAN": mean, "WIDTH": width, "R": s.ranks(perm is not None)}
    constants |= s.lanes(y.element_size(), perm is not None)
    if sums and blocks == chunks == 1:
        registers = _REGISTERS.get((s.d, s.order, y.element_size(), perm is not None), {})
        whole_inverse_rotate_mean_backward_kernel[programs(s.b, "inverse_rotate_mean_backward")](
            grad_y, *others, *inputs, max(s.centers, 1), ROWS=ROWS, **constants, **registers, **UNFUSED
        )
        return
    inverse_rotate_mean_backward_kernel[programs(s.b * chunks * blocks, "inverse_rotate_mean_backward")](
        grad_y, *inputs, blocks, chunks, **constants, **OPTIONS
    )
    if sums:
        finish(s, partial, q, center, weights, False, mean, *others)
