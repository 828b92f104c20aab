"""Moves of nodes and edges by a permutation, and sums over samples of what it moves back.

Whoever reads at perm[r] is here a gather, in this file where a line is longer than a program holds; lines.py has the
others. What goes back to node order is a gather too, by inverses that each program finds for itself. Hence
nothing is added by atomics.
"""

from __future__ import annotations

import functools

import torch
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.inverse import inverses_here, share
from lps_kernels.triton.launch import OPTIONS, cdiv, on, power_of_two, programs
from lps_kernels.triton.lines import gather_lines, graph_for, line_of, sum_lines
from lps_kernels.triton.moves import node, positions, real_nodes, weight_of

_TILE = 1024  # elements a program, eight a thread in four warps
_NODES, _WIDE = 512, 4096  # nodes, and nodes by channels, of a sum that a program holds
_BYTES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@entry(do_not_specialize=["k", "n", "count"])
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


@entry(do_not_specialize=["k", "n"])
def gather_wide_edges_kernel(
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
    at = tl.max_contiguous(x + (from_line[:, None] * line + from_j[None, :]), [1, 1])
    value = tl.load(at, mask=valid[:, None] & valid_j[None, :], other=0)
    if DTYPE is not None:
        value = value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1, 1), tl.int64), None, DTYPE)
    to = tl.max_contiguous(y + ((row * n + rank)[:, None] * line + j[None, :]), [1, 1])
    tl.store(to, value.to(y.dtype.element_ty), mask=(rank < n)[:, None] & (j < line)[None, :])


@entry(do_not_specialize=["k", "n", "items", "groups", "each"])
def sum_nodes_kernel(
    y, perm, inverses, num_nodes, weights, x, k, n, c, items, groups, each, scale: tl.float64,
    DTYPE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """x[b, perm[r]] = sum over k of w y[b, k, r]; without DTYPE there is one sample and nothing is computed.

    A program has one of `groups` shares of the tiles of a graph, or of a sample where a graph has `each` of them.
    """
    columns = tl.cdiv(c, C)
    group, graph = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    inv = inverses_here(perm, inverses, graph * k, k, n, k, min(P * C, 1024))
    for item in range(group, items, groups):
        i, j = item // columns * P + tl.arange(0, P), item % columns * C + tl.arange(0, C)
        valid = real_nodes(num_nodes, graph // each, i, n, i < n)
        mask = valid[:, None] & (j < c)[None, :]
        value = tl.zeros((P, C), y.dtype.element_ty if DTYPE is None else DTYPE)
        for sample in range(k):
            row = graph * k + sample
            source = row * n + node(inv + sample * n, i, n, valid)
            of_sample = tl.load(y + source[:, None] * c + j[None, :], mask=mask, other=0)
            if DTYPE is None:
                value = of_sample
            else:
                value += of_sample.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1, 1), tl.int64), None, DTYPE)
        to = x + (graph * n + i)[:, None] * c + j[None, :]
        tl.store(to, value.to(x.dtype.element_ty), mask=(i < n)[:, None] & (j < c)[None, :])


@entry(do_not_specialize=["k", "n", "items", "groups", "each"])
def sum_wide_edges_kernel(
    y, perm, inverses, num_nodes, weights, x, k, n, c, line, items, groups, each, scale: tl.float64,
    DTYPE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The same for edges: x[b, perm[r], perm[s]] = sum over k of w y[b, k, r, s]; line is n c."""
    columns = tl.cdiv(line, C)
    group, graph = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    inv = inverses_here(perm, inverses, graph * k, k, n, k, min(P * C, 1024))
    for item in range(group, items, groups):
        i, j = item // columns * P + tl.arange(0, P), item % columns * C + tl.arange(0, C)
        valid = real_nodes(num_nodes, graph // each, i, n, i < n)
        valid_j = real_nodes(num_nodes, graph // each, j // c, n, j < line)
        mask = valid[:, None] & valid_j[None, :]
        value = tl.zeros((P, C), y.dtype.element_ty if DTYPE is None else DTYPE)
        for sample in range(k):
            row = graph * k + sample
            from_line = row * n + node(inv + sample * n, i, n, valid)
            from_j = node(inv + sample * n, j // c, n, valid_j) * c + j % c
            of_sample = tl.load(
                tl.max_contiguous(y + (from_line[:, None] * line + from_j[None, :]), [1, 1]), mask=mask, other=0
            )
            if DTYPE is None:
                value = of_sample
            else:
                value += of_sample.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1, 1), tl.int64), None, DTYPE)
        to = tl.max_contiguous(x + ((graph * n + i)[:, None] * line + j[None, :]), [1, 1])
        tl.store(to, value.to(x.dtype.element_ty), mask=(i < n)[:, None] & (j < line)[None, :])


@functools.lru_cache(maxsize=1024)
def tile(channels: int, widest: int = 128) -> dict:
    """A tile of positions by channels, both powers of two."""
    across = min(power_of_two(channels), widest)
    return {"P": _TILE // across, "C": across, "num_warps": 4, **OPTIONS}


@functools.lru_cache(maxsize=1024)
def node_tile(n: int, c: int) -> dict:
    """A tile of as many nodes as there are, up to 512: whoever holds them all inverts a row once."""
    p = min(power_of_two(n, 16), _NODES)
    across = min(power_of_two(c), max(_WIDE // p, 8))
    return {"P": p, "C": across, "num_warps": max(1, min(p * across // 512, 8)), **OPTIONS}


@functools.lru_cache(maxsize=1024)
def edge_tile(line: int) -> dict:
    """A tile of lines: of eight and more, so that what a program reads of them outweighs what inverting takes."""
    across = min(power_of_two(line), _WIDE // 8)
    return {"P": 8, "C": across, "num_warps": max(1, across // 64), **OPTIONS}


def bits(x: Tensor) -> Tensor:
    """x as integers, which are moved but not read as numbers: one kernel serves dtypes of one size."""
    return x.view(_BYTES[x.element_size()])


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
    shape = graph_for(n, c, x.element_size()) if order == 1 else line_of(x, n, order)
    with on(x):
        if shape is not None:
            gather_lines(shape, x, perm, num_nodes, weights, target, b, k, each, scale, order, dtype)
        elif order == 1:
            sizes = tile(c)
            grid = programs(-(-b * k * n // sizes["P"]) * -(-c // sizes["C"]), "permute")
            gather_nodes_kernel[grid](
                x, perm, num_nodes, weights, target, k, n, c, scale, b * k * n, each, dtype, **sizes
            )
        else:
            sizes = tile(n * c, 256)
            grid = programs(b * k * -(-n // sizes["P"]) * -(-n * c // sizes["C"]), "permute")
            gather_wide_edges_kernel[grid](
                x, perm, num_nodes, weights, target, k, n, c, n * c, scale, each, dtype, **sizes
            )
    return out


def gather_sum(y, perm, num_nodes, out, order, weights=None, scale=None, dtype=None) -> Tensor:
    """out[b, perm[r]] = sum over samples of w y[b, k, r]; without dtype out keeps the samples and nothing is added."""
    if not out.numel():
        return out
    b, k, n = perm.shape
    c, each, target = y.shape[-1], 1, out
    if dtype is None:  # every sample is a graph of its own
        y, target, scale, b, k, each = bits(y), bits(out), 0.0, b * k, 1, k
    shape = graph_for(n, c, y.element_size(), True) if order == 1 else line_of(y, n, order, sums=True)
    with on(y):
        if shape is not None:
            sum_lines(shape, y, perm, num_nodes, weights, target, b, k, each, scale, order, dtype)
            return out
        if order == 1:
            sizes, kernel, line = node_tile(n, c), sum_nodes_kernel, ()
        else:
            sizes, kernel, line = edge_tile(n * c), sum_wide_edges_kernel, (n * c,)
        items = cdiv(n, sizes["P"]) * cdiv(n * c if order == 2 else c, sizes["C"])
        width = (n * c if order == 2 else c) * y.element_size()
        groups, perm, inverses = share(perm, b, items, width, k)
        kernel[programs(b * groups, "inverse_permute_mean")](
            y, perm, inverses, num_nodes, weights, target, k, n, c, *line, items, groups, each, scale, dtype, **sizes
        )
    return out
