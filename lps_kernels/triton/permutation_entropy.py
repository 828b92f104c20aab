"""permutation_entropy: the entropies of rows and columns of the relaxed permutation matrices, and their gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.laplace import decays, from_lanes, gaps, split_sums, strict_sums, to_lanes
from lps_kernels.triton.launch import check_gradient, check_nodes, compute, dense, nothing, on, programs
from lps_kernels.triton.moments import moment_sums, moments
from lps_kernels.triton.sinkhorn import row_sizes
from lps_kernels.triton.sort import MAX_NODES, count_nodes
from lps_kernels.triton.sum_parts import sum_parts
from lps_kernels.triton.ties import merge, tied_groups


@triton.jit
def _log1p(x):
    """Of x >= 0, to rounding: log(1 + x) errs by the rounding of 1 + x, which the ratio repeats."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def scaled(weights, mine, nodes, BLOCK: tl.constexpr):
    """Weights (BLOCK,) scaled to mean one, which changes no entropy and keeps log w small where q is nearly uniform,
    then one where they are no weights; and the scale, zero for a row of zeros, whose scores were not finite."""
    total = tl.sum(tl.where(mine, weights, 0.0), 0) + tl.zeros_like(weights)
    scale = tl.where(total > 0, nodes / tl.where(total > 0, total, 1.0), 0.0)
    w = weights * scale
    return tl.where(mine & (w > 0), w, 1.0), scale


@triton.jit
def entropy_sum(weights, mine, nodes, decay, moment, W: tl.constexpr, E: tl.constexpr):
    """The sum over real nodes i of the entropy of q_j = K[i, j] w_j / (K w)_i."""
    BLOCK: tl.constexpr = W * 32 * E
    flat, scale = scaled(weights, mine, nodes, BLOCK)
    w, w_log = to_lanes(flat, W, E), to_lanes(flat * tl.log(flat), W, E)
    lower, higher, lower1, higher1 = moment_sums(w, w, decay, moment, W, E)
    lower_log, higher_log = strict_sums(w_log, decay, W, E)
    entropies = ()
    for e in tl.static_range(E):
        rest = lower[e] + higher[e]
        # H - log(y / w) with y = K w, written so that nothing cancels where q is nearly uniform.
        numerator = (lower1[e] + higher1[e]) + tl.log(w[e]) * rest - (lower_log[e] + higher_log[e])
        entropies = entropies + (_log1p(rest / w[e]) + numerator / (w[e] + rest),)
    return tl.sum(tl.where(mine & (scale > 0), from_lanes(entropies, W, E), 0.0), 0)


@triton.jit
def share(num_nodes, graph, k, n, DTYPE: tl.constexpr):
    """1 / (k num_nodes): what the sum of a row's entropies counts; and the number of nodes."""
    nodes = count_nodes(num_nodes, graph, n)
    return nodes, 1.0 / (tl.maximum(nodes, 1).to(DTYPE) * tl.full((), k, tl.int32).to(DTYPE))


@entry(do_not_specialize=["k"])
def permutation_entropy_kernel(
    t, row, col, num_nodes, out, k, n, tau_inverse: tl.float64, DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, W * 32 * E)
    nodes, of_row = share(num_nodes, at // k, k, n, DTYPE)
    mine = i < nodes
    distances = gaps(to_lanes(tl.load(t + at * n + i, mask=mine, other=0.0), W, E), nodes, tau_inverse, DTYPE, W, E)
    decay = decays(distances)
    moment = moments(distances, decay)
    total = entropy_sum(tl.load(row + at * n + i, mask=mine, other=0.0), mine, nodes, decay, moment, W, E)
    total += entropy_sum(tl.load(col + at * n + i, mask=mine, other=0.0), mine, nodes, decay, moment, W, E)
    tl.store(out + at, total * of_row)


@triton.jit
def entropy_gradient(
    weights, upstream, sig, mine, nodes, decay, moment, groups, tied, W: tl.constexpr, E: tl.constexpr
):
    """Of `entropy_sum` times upstream: the gradient of weights (BLOCK,), and sig less that of t / tau.

    dL/dlog w = -w (h v + log w (K h) - K1 h + K b),  h = upstream / y, b = h u, u = v - log w, all without diagonal
    dL/d(t / tau) = -h (D(w log w) - D1(w) + u D(w)) - w (log w D(h) - D1(h) + D(b))
    """
    flat, scale = scaled(weights, mine, nodes, W * 32 * E)
    w, log_w, w_log = to_lanes(flat, W, E), to_lanes(tl.log(flat), W, E), to_lanes(flat * tl.log(flat), W, E)
    low, high, own = merge(w, groups, tied, W, E)
    lower, higher, lower1, higher1 = moment_sums(low, high, decay, moment, W, E)
    # What is known is put together before the next scan: registers are short.
    y, of_w, slope, slope1 = (), (), (), ()
    for e in tl.static_range(E):
        # What is tied with i counts without moment: it is as far as i itself.
        rest, across = lower[e] + higher[e] + (own[e] - w[e]), lower[e] - higher[e]
        y, of_w = y + (w[e] + rest,), of_w + ((lower1[e] + higher1[e]) + log_w[e] * rest,)
        slope, slope1 = slope + (across,), slope1 + (log_w[e] * across + (lower1[e] - higher1[e]),)
    low, high, own = merge(w_log, groups, tied, W, E)
    lower, higher = split_sums(low, high, decay, W, E)
    alive = to_lanes(tl.where(mine & (scale > 0), upstream, 0.0), W, E)
    h, v, left = (), (), ()
    for e in tl.static_range(E):
        numerator = of_w[e] - (lower[e] + higher[e] + (own[e] - w_log[e]))
        h, v = h + (alive[e] / y[e],), v + (numerator / y[e],)
        left = left + (sig[e] - h[e] * ((lower[e] - higher[e]) - slope1[e] + v[e] * slope[e]),)
    low, high, own = merge(h, groups, tied, W, E)
    lower, higher, lower1, higher1 = moment_sums(low, high, decay, moment, W, E)
    b, of_h, of_t = (), (), ()
    for e in tl.static_range(E):
        b = b + (h[e] * (v[e] - log_w[e]),)
        sum_h = log_w[e] * (lower[e] + higher[e] + (own[e] - h[e])) - (lower1[e] + higher1[e])
        of_h = of_h + (h[e] * v[e] + sum_h,)
        of_t = of_t + (left[e] - w[e] * (log_w[e] * (lower[e] - higher[e]) - (lower1[e] - higher1[e])),)
    low, high, own = merge(b, groups, tied, W, E)
    lower, higher = split_sums(low, high, decay, W, E)
    gradient, sig = (), ()
    for e in tl.static_range(E):
        gradient = gradient + (of_h[e] + (lower[e] + higher[e] + (own[e] - b[e])),)
        sig = sig + (of_t[e] - w[e] * (lower[e] - higher[e]),)
    return tl.where(mine & (scale > 0), -scale * from_lanes(gradient, W, E), 0.0), sig


# At 255 registers, 2,048 nodes spill 40 bytes on sm_100, and float64 from 100 nodes on 24 to 184: half the elements a
# lane would end it up to 512 nodes, with 1.45 times the instructions.
@entry(do_not_specialize=["stride", "k"])
def permutation_entropy_backward_kernel(
    grad, stride, t, row, col, num_nodes, grad_t, grad_row, grad_col, k, n, tau_inverse: tl.float64,
    DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    BLOCK: tl.constexpr = W * 32 * E
    at = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    nodes, of_row = share(num_nodes, at // k, k, n, DTYPE)
    mine, upstream = i < nodes, of_row * tl.load(grad + at // k * stride)
    sorted_t = tl.load(t + at * n + i, mask=mine, other=0.0)
    distances = gaps(to_lanes(sorted_t, W, E), nodes, tau_inverse, DTYPE, W, E)
    decay = decays(distances)
    moment = moments(distances, decay)
    groups, tied = tied_groups(to_lanes(sorted_t, W, E), nodes, W, E)
    sig = to_lanes(tl.zeros((BLOCK,), DTYPE), W, E)
    for done in range(2):  # a loop, because twice the code takes Triton twice the time
        weights = tl.load(tl.where(done == 0, row, col) + at * n + i, mask=mine, other=0.0)
        gradient, sig = entropy_gradient(weights, upstream, sig, mine, nodes, decay, moment, groups, tied, W, E)
        tl.store(tl.where(done == 0, grad_row, grad_col) + at * n + i, gradient, mask=i < n)
    unit = tl.full((BLOCK,), tau_inverse, tl.float64).to(DTYPE)
    tl.store(grad_t + at * n + i, from_lanes(sig, W, E) * unit, mask=i < n)


def _check(t: Tensor, row: Tensor, col: Tensor, num_nodes: Tensor | None) -> None:
    if (
        t.dim() != 3
        or any(p.shape != t.shape or p.dtype != t.dtype for p in (row, col))
        or t.dtype != compute(t.dtype)[0]
    ):
        raise ValueError("permutation_entropy: expected t, row and col (b, k, n), all float32 or all float64")
    check_nodes("permutation_entropy", num_nodes, t.shape[0])
    if t.shape[2] > MAX_NODES:
        raise ValueError(
            f"backend 'triton': permutation_entropy takes rows of at most {MAX_NODES} nodes, got n = {t.shape[2]}; "
            "backend='reference' has no such limit"
        )


def permutation_entropy(t: Tensor, row: Tensor, col: Tensor, num_nodes: Tensor | None, tau: float) -> Tensor:
    _check(t, row, col, num_nodes)
    t, row, col, num_nodes = map(dense, (t, row, col, num_nodes))
    b, k, n = t.shape
    if not t.numel():
        return t.new_zeros(b)
    of_rows = t.new_empty(b, k)
    with on(t):
        permutation_entropy_kernel[programs(b * k, "permutation_entropy")](
            t, row, col, num_nodes, of_rows, k, n, 1.0 / tau, compute(t.dtype)[1], **row_sizes(n, t.dtype)
        )
        return sum_parts((of_rows,), 1)[0]  # a launch of its own: samples are programs, which must not add by atomics


def permutation_entropy_backward(
    grad_entropy: Tensor, t: Tensor, row: Tensor, col: Tensor, num_nodes: Tensor | None, tau: float, needs: int
) -> tuple[Tensor, Tensor, Tensor]:
    _check(t, row, col, num_nodes)
    t, row, col, num_nodes = map(dense, (t, row, col, num_nodes))
    b, k, n = t.shape
    check_gradient("permutation_entropy_backward", grad_entropy, (b,), t.dtype)
    grads = tuple(torch.empty_like(p) for p in (t, row, col))
    if t.numel():
        with on(t):
            permutation_entropy_backward_kernel[programs(b * k, "permutation_entropy_backward")](
                grad_entropy, grad_entropy.stride(0), t, row, col, num_nodes, *grads, k, n,
                1.0 / tau, compute(t.dtype)[1], **row_sizes(n, t.dtype),
            )  # fmt: skip
    return tuple(g if needs >> i & 1 else nothing(t) for i, g in enumerate(grads))
