"""soft_sort: a stable sort by descending score with random ties, and the Sinkhorn scalings of its relaxation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.laplace import decays, from_lanes, gaps, to_lanes
from lps_kernels.triton.launch import check_gradient, check_nodes, compute, dense, nothing, on, programs
from lps_kernels.triton.sinkhorn import half_step, row_sizes, sinkhorn_backward
from lps_kernels.triton.sort import MAX_NODES, count_nodes, inverse, sort_descending

# Iterates that the backward kernel keeps, in bytes: within an H100's L2 of 50 MB, and enough rows to fill the device.
_SCRATCH = 32 << 20


# By block and dtype. Told nothing, ptxas takes 96 and 128 registers and spills 24 and 40 bytes; told these numbers, it
# takes 115 and 126 and spills none. AMD's compiler has no such option.
_REGISTERS = {
    (512, torch.float32): {"maxnreg": 128},
    (2048, torch.float32): {"maxnreg": 168},
    (512, torch.float64): {"maxnreg": 136},  # 128 by itself, spilling 8 to 16 bytes
    (1024, torch.float64): {"maxnreg": 168},  # 128 on sm_80, spilling 40 bytes
}
# Of the backward kernel it takes 128 and 64 and spills 16 and 608 bytes.
# On sm_100 512 and 1,024 in float64 spill 16 and 48 with all 255.
_REGISTERS_BACKWARD = {(64, torch.float64): {"maxnreg": 144}, (2048, torch.float64): {"maxnreg": 128}}
if torch.version.hip:
    _REGISTERS = _REGISTERS_BACKWARD = {}


@triton.jit
def divide(a, b):
    """IEEE division."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def norm(z, nodes, BLOCK: tl.constexpr):
    """Whether any of the first `nodes` scores is not finite, the largest magnitude, and the norm in units of it."""
    valid = tl.arange(0, BLOCK) < nodes
    bad = tl.max((valid & (z - z != 0)).to(tl.int32), 0) > 0
    z = tl.where(valid & (z - z == 0), z, 0.0)
    largest = tl.max(tl.abs(z), 0)
    scaled = divide(z, tl.where(largest > 0, largest, 1.0) + tl.zeros_like(z))
    square = tl.sum(scaled * scaled, 0)
    root = tl.sqrt(square) if z.dtype == tl.float64 else tl.sqrt_rn(square)
    return bad, largest, root


@triton.jit
def over_norm(x, largest, root):
    """x / max(norm, 1e-6), by division in two steps that neither overflow nor vanish."""
    clamped = (largest == 0) | (root * largest <= 1e-6)
    first = tl.where(clamped, 1.0, largest).to(x.dtype)
    second = tl.where(clamped, 1e-6, root).to(x.dtype)
    return divide(divide(x, first + tl.zeros_like(x)), second + tl.zeros_like(x))


@entry(do_not_specialize=["k", "n_iter"])
def soft_sort_kernel(
    scores, seed, num_nodes, perm, t, row, col, k, n, tau_inverse: tl.float64, n_iter, NORMALIZE: tl.constexpr,
    DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    BLOCK: tl.constexpr = W * 32 * E
    at = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    nodes = count_nodes(num_nodes, at // k, n)
    z = tl.load(scores + at * n + i, mask=i < nodes, other=0.0).to(DTYPE)
    bad, largest, root = norm(z, nodes, BLOCK)
    order, z = sort_descending(z, nodes, tl.load(seed), at, BLOCK)
    tl.store(perm + at * n + i, order.to(tl.int64), mask=i < n)
    if NORMALIZE:
        z = over_norm(z, largest, root)
    instead = 0.0 if row is not None else float("nan")
    value = tl.where(i < nodes, tl.where(bad, instead, z), 0.0)
    tl.store(t + at * n + i, value, mask=i < n)
    if row is not None:
        decay = decays(gaps(to_lanes(value, W, E), nodes, tau_inverse, DTYPE, W, E))
        # Not x = y: Triton takes what was one value before a loop for unchanged by it.
        x, y = to_lanes(tl.full((BLOCK,), 1.0, DTYPE), W, E), to_lanes(tl.full((BLOCK,), 1.0, DTYPE), W, E)
        for _ in range(2 * n_iter):
            x, y = y, half_step(y, decay, W, E)
        kept = (i < nodes) & (bad == 0)
        tl.store(row + at * n + i, tl.where(kept, from_lanes(x, W, E), 0.0), mask=i < n)
        tl.store(col + at * n + i, tl.where(kept, from_lanes(y, W, E), 0.0), mask=i < n)


@entry(do_not_specialize=["rows", "k", "n_iter"])
def soft_sort_backward_kernel(
    grad_t, grad_row, grad_col, scores, num_nodes, perm, t, row, col, scratch, grad, rows, k, n,
    tau_inverse: tl.float64, n_iter, NORMALIZE: tl.constexpr, DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    BLOCK: tl.constexpr = W * 32 * E
    i = tl.arange(0, BLOCK)
    for at in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        nodes = count_nodes(num_nodes, at // k, n)
        mine = i < nodes
        g = tl.zeros((BLOCK,), DTYPE)
        if scratch is not None:
            kept = scratch + tl.program_id(0).to(tl.int64) * (2 * n_iter * BLOCK)
            g = sinkhorn_backward(
                t, row, col, grad_row, grad_col, kept, at, nodes, n, tau_inverse, n_iter, DTYPE, W, E
            ) * tl.full((BLOCK,), tau_inverse, tl.float64).to(DTYPE)
        if grad_t is not None:
            g += tl.load(grad_t + at * n + i, mask=mine, other=0.0)
        z = tl.load(scores + at * n + i, mask=mine, other=0.0).to(DTYPE)
        bad, largest, root = norm(z, nodes, BLOCK)
        if NORMALIZE:
            value = tl.load(t + at * n + i, mask=mine, other=0.0)
            along = tl.where((largest == 0) | (root * largest <= 1e-6), 0.0, tl.sum(tl.where(mine, value * g, 0.0), 0))
            g = over_norm(g - value * along, largest, root)
        g = tl.where(mine & (bad == 0), g, 0.0)
        order = tl.load(perm + at * n + i, mask=i < n, other=i.to(tl.int64)).to(tl.int32)
        tl.store(grad + at * n + i, tl.gather(g, inverse(order, BLOCK), 0).to(grad.dtype.element_ty), mask=i < n)


def check(scores: Tensor, num_nodes: Tensor | None, seed: Tensor | None = None) -> None:
    """What would corrupt memory, and the longest row that a program sorts."""
    if scores.dim() != 3:
        raise ValueError(f"soft_sort: expected scores (b, k, n), got {tuple(scores.shape)}")
    check_nodes("soft_sort", num_nodes, scores.shape[0])
    if seed is not None and seed.numel() != 1:
        raise ValueError("soft_sort: expected a seed of one element")
    if scores.shape[2] > MAX_NODES:
        raise ValueError(
            f"backend 'triton': soft_sort sorts rows of at most {MAX_NODES} scores, got n = {scores.shape[2]}; "
            "backend='reference' has no such limit"
        )


def soft_sort(
    scores: Tensor, seed: Tensor, num_nodes: Tensor | None, tau: float, n_iter: int, normalize: bool, soft: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check(scores, num_nodes, seed)
    scores, num_nodes = dense(scores), dense(num_nodes)
    b, k, n = scores.shape
    dtype, inside = compute(scores.dtype)
    perm, t = scores.new_empty(b, k, n, dtype=torch.int64), scores.new_empty(b, k, n, dtype=dtype)
    row, col = (scores.new_empty(b, k, n if soft else 0, dtype=dtype) for _ in range(2))
    if scores.numel():
        sizes = row_sizes(n, dtype)
        registers = _REGISTERS.get((32 * sizes["W"] * sizes["E"], dtype), {})
        with on(scores):
            soft_sort_kernel[programs(b * k, "soft_sort")](
                scores, seed, num_nodes, perm, t, row if soft else None, col if soft else None, k, n,
                1.0 / tau, n_iter, normalize, inside, **sizes, **registers,
            )  # fmt: skip
    return perm, t, row, col


def soft_sort_backward(
    grad_perm: Tensor | None,
    grad_t: Tensor | None,
    grad_row: Tensor | None,
    grad_col: Tensor | None,
    scores: Tensor,
    seed: Tensor,
    num_nodes: Tensor | None,
    tau: float,
    n_iter: int,
    normalize: bool,
    soft: bool,
    saved_perm: Tensor,
    saved_t: Tensor,
    saved_row: Tensor,
    saved_col: Tensor,
    needs: int,
) -> Tensor:
    check(scores, num_nodes)
    if not needs:
        return nothing(scores)
    scores, num_nodes = dense(scores), dense(num_nodes)
    grad_t, grad_row, grad_col = dense(grad_t), dense(grad_row), dense(grad_col)
    perm, t, row, col = dense(saved_perm), dense(saved_t), dense(saved_row), dense(saved_col)
    b, k, n = scores.shape
    dtype, inside = compute(scores.dtype)
    grad, sizes = torch.empty_like(scores), row_sizes(n, dtype)
    if not soft or n_iter == 0:
        grad_row = grad_col = None
    for g in (grad_t, grad_row, grad_col):
        check_gradient("soft_sort_backward", g, scores.shape, dtype)
    if not scores.numel():
        return grad
    block = sizes["W"] * 32 * sizes["E"]
    count, scratch = b * k, None
    if grad_row is not None or grad_col is not None:
        count = min(count, max(_SCRATCH // (2 * n_iter * block * t.element_size()), 132))
        scratch = t.new_empty(count, 2 * n_iter, block)
    registers = _REGISTERS_BACKWARD.get((block, dtype), {})
    with on(scores):
        soft_sort_backward_kernel[programs(count, "soft_sort_backward")](
            grad_t, grad_row, grad_col, scores, num_nodes, perm, t, row, col, scratch, grad, b * k, k, n,
            1.0 / tau, n_iter, normalize, inside, **sizes, **registers,
        )  # fmt: skip
    return grad
