"""Moves of nodes and edges by a permutation, and sums over samples of what it moves back.

Whoever reads at perm[r] is here a gather. What goes back to node order is a gather too, by the inverse, which a kernel
of its own writes first: a program that owns some nodes can't know their ranks without the whole row. Hence nothing is
added by atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.launch import OPTIONS, on, power_of_two, programs

_TILE = 1024  # elements a program, eight a thread in four warps
_BYTES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def positions(first, n, P: tl.constexpr):
    """Rows and ranks of P consecutive positions of rows of n. Only the first one divides in 64 bits."""
    row = first // n
    local = (first - row * n).to(tl.int32) + tl.arange(0, P)
    return row + local // n, local % n


@triton.jit
def real_nodes(num_nodes, graph, i, n, mask):
    """Which nodes i of their graphs are real."""
    if num_nodes is None:
        return mask & (i < n)
    else:
        return mask & (i < tl.minimum(tl.load(num_nodes + (graph + tl.zeros_like(i)), mask=mask, other=0), n))


@triton.jit
def node(perm, at, n, mask):
    """perm at positions; what is no index of a node can't be read or written out of bounds."""
    return tl.minimum(tl.maximum(tl.load(perm + at, mask=mask, other=0), 0), n - 1).to(tl.int32)


@triton.jit
def weight_of(weights, scale, row, mask, DTYPE: tl.constexpr):
    if weights is None:
        return tl.full(row.shape, scale, tl.float64).to(DTYPE)
    else:
        return tl.load(weights + row, mask=mask, other=None if mask is None else 0.0).to(DTYPE)


@triton.jit(do_not_specialize=["n", "count"])
def inverse_kernel(perm, inv, n, count: tl.int64, P: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * P
    row, rank = positions(first, n, P)
    mask = first + tl.arange(0, P) < count
    tl.store(inv + row * n + node(perm, row * n + rank, n, mask), rank, mask=mask)


@triton.jit(do_not_specialize=["k", "n", "count"])
def gather_nodes_kernel(
    x, perm, num_nodes, weights, y, k, n, c, scale: tl.float64, count: tl.int64,
    EACH: tl.constexpr, DTYPE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """y[b, k, r] = x[b, perm[r]], or x[b, k, perm[r]] if EACH; times a weight where DTYPE is given."""
    columns = tl.cdiv(c, C)
    first = tl.program_id(0).to(tl.int64) // columns * P
    j = tl.program_id(0) % columns * C + tl.arange(0, C)
    row, rank = positions(first, n, P)
    here = first + tl.arange(0, P) < count
    valid = real_nodes(num_nodes, row // k, rank, n, here)
    source = (row if EACH else row // k) * n + node(perm, row * n + rank, n, valid)
    value = tl.load(x + source[:, None] * c + j[None, :], mask=valid[:, None] & (j < c)[None, :], other=0)
    if DTYPE is not None:
        value = value.to(DTYPE) * weight_of(weights, scale, row, here, DTYPE)[:, None]
    to = (first + tl.arange(0, P))[:, None] * c + j[None, :]
    tl.store(y + to, value.to(y.dtype.element_ty), mask=here[:, None] & (j < c)[None, :])


@triton.jit(do_not_specialize=["k", "n"])
def gather_edges_kernel(
    x, perm, num_nodes, weights, y, k, n, c, line, scale: tl.float64,
    EACH: tl.constexpr, DTYPE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The same for edges, y[b, k, r, s] = x[b, perm[r], perm[s]]; line is n c. P lines of one sample a program."""
    columns, blocks = tl.cdiv(line, C), tl.cdiv(n, P)
    block = tl.program_id(0) // columns
    row, rank = (block // blocks).to(tl.int64), block % blocks * P + tl.arange(0, P)
    j = tl.program_id(0) % columns * C + tl.arange(0, C)
    valid = real_nodes(num_nodes, row // k, rank, n, rank < n)
    valid_j = real_nodes(num_nodes, row // k, j // c, n, j < line)
    from_line = (row if EACH else row // k) * n + node(perm, row * n + rank, n, valid)
    from_j = node(perm, row * n + j // c, n, valid_j) * c + j % c
    value = tl.load(x + from_line[:, None] * line + from_j[None, :], mask=valid[:, None] & valid_j[None, :], other=0)
    if DTYPE is not None:
        value = value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1, 1), tl.int64), None, DTYPE)
    to = (row * n + rank)[:, None] * line + j[None, :]
    tl.store(y + to, value.to(y.dtype.element_ty), mask=(rank < n)[:, None] & (j < line)[None, :])


@triton.jit(do_not_specialize=["k", "n", "count"])
def sum_nodes_kernel(
    y, inv, num_nodes, weights, x, k, n, c, scale: tl.float64, count: tl.int64,
    DTYPE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """x[b, i] = sum over k of w y[b, k, inv[i]]; without DTYPE there is one sample and nothing is computed."""
    columns = tl.cdiv(c, C)
    first = tl.program_id(0).to(tl.int64) // columns * P
    j = tl.program_id(0) % columns * C + tl.arange(0, C)
    graph, i = positions(first, n, P)
    here = first + tl.arange(0, P) < count
    valid = real_nodes(num_nodes, graph, i, n, here)
    mask = valid[:, None] & (j < c)[None, :]
    to = x + (first + tl.arange(0, P))[:, None] * c + j[None, :]
    if DTYPE is None:
        source = graph * n + node(inv, graph * n + i, n, valid)
        value = tl.load(y + source[:, None] * c + j[None, :], mask=mask, other=0)
    else:
        value = tl.zeros((P, C), DTYPE)
        for sample in range(k):
            row = graph * k + sample
            source = row * n + node(inv, row * n + i, n, valid)
            of_sample = tl.load(y + source[:, None] * c + j[None, :], mask=mask, other=0).to(DTYPE)
            value += of_sample * weight_of(weights, scale, row, here, DTYPE)[:, None]
    tl.store(to, value.to(x.dtype.element_ty), mask=here[:, None] & (j < c)[None, :])


@triton.jit(do_not_specialize=["k", "n"])
def sum_edges_kernel(
    y, inv, num_nodes, weights, x, k, n, c, line, scale: tl.float64,
    DTYPE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """x[b, i, l] = sum over k of w y[b, k, inv[i], inv[l]]."""
    columns, blocks = tl.cdiv(line, C), tl.cdiv(n, P)
    block = tl.program_id(0) // columns
    graph, i = (block // blocks).to(tl.int64), block % blocks * P + tl.arange(0, P)
    j = tl.program_id(0) % columns * C + tl.arange(0, C)
    valid = real_nodes(num_nodes, graph, i, n, i < n)
    valid_j = real_nodes(num_nodes, graph, j // c, n, j < line)
    mask = valid[:, None] & valid_j[None, :]
    value = tl.zeros((P, C), y.dtype.element_ty if DTYPE is None else DTYPE)
    for sample in range(k):
        row = graph * k + sample
        from_line = row * n + node(inv, row * n + i, n, valid)
        from_j = node(inv, row * n + j // c, n, valid_j) * c + j % c
        of_sample = tl.load(y + from_line[:, None] * line + from_j[None, :], mask=mask, other=0)
        if DTYPE is None:
            value = of_sample
        else:
            value += of_sample.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1, 1), tl.int64), None, DTYPE)
    to = x + (graph * n + i)[:, None] * line + j[None, :]
    tl.store(to, value.to(x.dtype.element_ty), mask=(i < n)[:, None] & (j < line)[None, :])


def tile(channels: int, widest: int = 128) -> dict:
    """A tile of positions by channels, both powers of two."""
    across = min(power_of_two(channels), widest)
    return {"P": _TILE // across, "C": across, "num_warps": 4, **OPTIONS}


def bits(x: Tensor) -> Tensor:
    """x as integers, which are moved but not read as numbers: one kernel serves dtypes of one size."""
    return x.view(_BYTES[x.element_size()])


def inverse_of(perm: Tensor) -> Tensor:
    """The inverses of permutations (b, k, n), int32. Written at each rank, so that it is whole for a bijection."""
    inv = torch.zeros_like(perm, dtype=torch.int32)
    count, n = perm.numel(), perm.shape[2]
    if count:
        with on(perm):
            inverse_kernel[programs(-(-count // _TILE), "permute")](perm, inv, n, count, _TILE, num_warps=4, **OPTIONS)
    return inv


def gather(x, perm, num_nodes, out, order, each=False, weights=None, scale=None, dtype=None) -> Tensor:
    """out[b, k, r] = x[b, perm[r]], see `gather_nodes_kernel`; dtype is that of Triton to multiply a weight in."""
    if not out.numel():
        return out
    b, k, n = perm.shape
    c = x.shape[-1]
    if dtype is None:
        x, target, scale = bits(x), bits(out), 0.0
    else:
        target = out
    with on(x):
        if order == 1:
            sizes = tile(c)
            grid = programs(-(-b * k * n // sizes["P"]) * -(-c // sizes["C"]), "permute")
            gather_nodes_kernel[grid](
                x, perm, num_nodes, weights, target, k, n, c, scale, b * k * n, each, dtype, **sizes
            )
        else:
            sizes = tile(n * c, 256)
            grid = programs(b * k * -(-n // sizes["P"]) * -(-n * c // sizes["C"]), "permute")
            gather_edges_kernel[grid](x, perm, num_nodes, weights, target, k, n, c, n * c, scale, each, dtype, **sizes)
    return out


def gather_sum(y, perm, num_nodes, out, order, weights=None, scale=None, dtype=None) -> Tensor:
    """out[b, perm[r]] = sum over samples of w y[b, k, r]; without dtype out keeps the samples and nothing is added."""
    if not out.numel():
        return out
    b, k, n = perm.shape
    c, inv = y.shape[-1], inverse_of(perm)
    if dtype is None:
        y, target, scale = bits(y), bits(out), 0.0
        num_nodes = num_nodes if num_nodes is None else num_nodes.repeat_interleave(k, output_size=b * k)
        b, k = b * k, 1
    else:
        target = out
    with on(y):
        if order == 1:
            sizes = tile(c)
            grid = programs(-(-b * n // sizes["P"]) * -(-c // sizes["C"]), "inverse_permute_mean")
            sum_nodes_kernel[grid](y, inv, num_nodes, weights, target, k, n, c, scale, b * n, dtype, **sizes)
        else:
            sizes = tile(n * c, 256)
            grid = programs(b * -(-n // sizes["P"]) * -(-n * c // sizes["C"]), "inverse_permute_mean")
            sum_edges_kernel[grid](y, inv, num_nodes, weights, target, k, n, c, n * c, scale, dtype, **sizes)
    return out


@triton.jit(do_not_specialize=["k", "n"])
def weight_gradient_kernel(
    grad, y, perm, num_nodes, grad_weights, k, n, c, width,
    ORDER: tl.constexpr, DTYPE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """<grad x, P y> of one sample. A line is a node, or all edges of one; width numbers long, c or n c."""
    at = tl.program_id(0).to(tl.int64)
    graph, total = at // k, tl.zeros((P, C), DTYPE)
    for first in range(0, n, P):
        rank = first + tl.arange(0, P)
        valid = real_nodes(num_nodes, graph, rank, n, rank < n)
        of_line = (graph * n + node(perm, at * n + rank, n, valid)) * width
        for low in range(0, width, C):
            j = low + tl.arange(0, C)
            valid_j, at_j = j < width, j
            if ORDER == 2:
                valid_j = real_nodes(num_nodes, graph, j // c, n, valid_j)
                at_j = node(perm, at * n + j // c, n, valid_j) * c + j % c
            mask = valid[:, None] & valid_j[None, :]
            there = tl.load(grad + of_line[:, None] + at_j[None, :], mask=mask, other=0).to(DTYPE)
            here = tl.load(y + (at * n + rank)[:, None] * width + j[None, :], mask=mask, other=0).to(DTYPE)
            total += there * here
    tl.store(grad_weights + at, tl.sum(tl.sum(total, 1), 0))


def weight_gradient(grad, y, perm, num_nodes, order, out, dtype) -> Tensor:
    """out (b, k) = <grad x, P y> from grad in order of nodes and y in order of rank."""
    if not y.numel():
        return out.zero_()
    b, k, n = perm.shape
    c = y.shape[-1]
    width = c if order == 1 else n * c
    with on(y):
        weight_gradient_kernel[programs(b * k, "inverse_permute_mean_backward")](
            grad, y, perm, num_nodes, out, k, n, c, width, order, dtype, **tile(width, 256)
        )
    return out
