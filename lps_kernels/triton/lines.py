"""Gathers of runs shorter than a sector: whole lines are read as they lie and put in order in shared memory.

Read one by one, numbers or pairs of them from anywhere in a line would ask for a sector of 32 bytes each. A line is a
node's edges, or a graph's nodes where the permutation acts on one axis.
"""

from __future__ import annotations

import functools

import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entries import skew_of
from lps_kernels.triton.entry import entry
from lps_kernels.triton.inverse import inverses_here, share
from lps_kernels.triton.launch import OPTIONS, cdiv, power_of_two, programs
from lps_kernels.triton.moves import node, weight_of
from lps_kernels.triton.sort import count_nodes

LONGEST = 8192  # numbers of a line that a program holds
LINES, SAMPLES = 32, 8  # lines of edges that a program moves with one reading of perm; samples with one of the nodes
SUMS = 8  # lines that it adds up at once; half of them in float64, whose sums fill twice the registers


@triton.jit
def load_line(at, j, count, SKEW: tl.constexpr):
    """`count` numbers from `at` on, (N,), behind those that lie before them in their sector if SKEW; and how many."""
    skew = skew_of(at, SKEW)
    if SKEW:  # one number a thread, or each would take several one by one, as they are not aligned
        held = tl.load(at + tl.max_contiguous(j - skew, 1), mask=(j >= skew) & (j < count + skew), other=0)
    else:
        held = tl.load(at + j, mask=j < count, other=0)
    return held, skew


@triton.jit
def load_graph(at, j, nodes, c, line, SKEW: tl.constexpr):
    """A line of all nodes, padding too where threads read several numbers at once: it is not known of the real nodes'
    end that it is no thread's middle, and numbers read one by one ask for a sector four to eight times.
    """
    return load_line(at, j, nodes * c if SKEW else line, SKEW)


@triton.jit
def columns_of(order, j, c, n, nodes):
    """Where in a line number j of the ordered line is, and which there are."""
    real = j < nodes * c
    return node(order, j // c, n, real) * c + j % c, real


@entry(do_not_specialize=["k", "n", "blocks"])
def gather_edges_kernel(
    x, perm, num_nodes, weights, y, k, n, c, line, blocks, scale: tl.float64,
    EACH: tl.constexpr, DTYPE: tl.constexpr, SKEW: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """y[b, k, r, s] = x[b, perm[r], perm[s]], or x[b, k, ...] if EACH; times a weight where DTYPE is given."""
    block, row = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    j = tl.arange(0, N)
    nodes = count_nodes(num_nodes, row // k, n)
    source, real = columns_of(perm + row * n, j, c, n, nodes)
    for rank in range(block * P, tl.minimum((block + 1) * P, n)):
        at = (row if EACH else row // k) * n + node(perm + row * n, rank, n, rank < n)
        held, skew = load_line(x + at * line, j, line, SKEW)
        value = tl.where(real & (rank < nodes), tl.gather(held, source + skew, 0), 0)
        if DTYPE is not None:
            value = value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1,), tl.int64), None, DTYPE)
        tl.store(y + (row * n + rank) * line + j, value.to(y.dtype.element_ty), mask=j < line)


@entry(do_not_specialize=["k", "n", "blocks", "groups", "each"])
def sum_edges_kernel(
    y, perm, inverses, num_nodes, weights, x, k, n, c, line, blocks, groups, each, scale: tl.float64,
    DTYPE: tl.constexpr, SKEW: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """x[b, perm[r], perm[s]] = sum over k of w y[b, k, r, s]; without DTYPE there is one sample and nothing is added.

    A program has one of `groups` shares of the lines of a graph, or of a sample where a graph has `each` of them.
    """
    group, graph = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    j, nodes = tl.arange(0, N), count_nodes(num_nodes, graph // each, n)
    inv = inverses_here(perm, inverses, graph * k, k, n, k, min(N, 1024))
    for block in range(group, blocks, groups):
        first, total = block * P, ()
        for _ in tl.static_range(P):
            total = total + (tl.zeros((N,), y.dtype.element_ty if DTYPE is None else DTYPE),)
        for sample in range(k):
            row = graph * k + sample
            source, real = columns_of(inv + sample * n, j, c, n, nodes)
            new = ()
            for p in tl.static_range(P):
                at = row * n + node(inv + sample * n, first + p, n, first + p < nodes)
                held, skew = load_line(y + at * line, j, tl.where(first + p < nodes, line, 0), SKEW)
                value = tl.where(real, tl.gather(held, source + skew, 0), 0)
                if DTYPE is not None:
                    w = weight_of(weights, scale, row + tl.zeros((1,), tl.int64), None, DTYPE)
                    value = total[p] + value.to(DTYPE) * w
                new = new + (value,)
            total = new
        for p in tl.static_range(P):
            to = x + (graph * n + first + p) * line + j
            tl.store(to, total[p].to(x.dtype.element_ty), mask=j < tl.where(first + p < n, line, 0))


@entry(do_not_specialize=["k", "n", "chunks"])
def gather_graph_kernel(
    x, perm, num_nodes, weights, y, k, n, c, line, chunks, scale: tl.float64,
    EACH: tl.constexpr, DTYPE: tl.constexpr, SKEW: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """y[b, k, r] = x[b, perm[r]] of P samples, which read x once, or x[b, k, perm[r]] if EACH."""
    chunk, graph = tl.program_id(0) % chunks, (tl.program_id(0) // chunks).to(tl.int64)
    j, nodes = tl.arange(0, N), count_nodes(num_nodes, graph, n)
    if not EACH:
        held, skew = load_graph(x + graph * line, j, nodes, c, line, SKEW)
    for sample in range(chunk * P, tl.minimum((chunk + 1) * P, k)):
        row = graph * k + sample
        if EACH:
            held, skew = load_graph(x + row * line, j, nodes, c, line, SKEW)
        source, real = columns_of(perm + row * n, j, c, n, nodes)
        value = tl.where(real, tl.gather(held, source + skew, 0), 0)
        if DTYPE is not None:
            value = value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1,), tl.int64), None, DTYPE)
        tl.store(y + row * line + j, value.to(y.dtype.element_ty), mask=j < line)


@entry(do_not_specialize=["k", "n", "each"])
def sum_graph_kernel(
    y, perm, inverses, num_nodes, weights, x, k, n, c, line, each, scale: tl.float64,
    DTYPE: tl.constexpr, SKEW: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """x[b, perm[r]] = sum over k of w y[b, k, r]; without DTYPE there is one sample and nothing is added."""
    graph, j = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    nodes = count_nodes(num_nodes, graph // each, n)
    inv = inverses_here(perm, inverses, graph * k, k, n, k, min(N, 1024))
    total = tl.zeros((N,), y.dtype.element_ty if DTYPE is None else DTYPE)
    for sample in range(k):
        row = graph * k + sample
        source, real = columns_of(inv + sample * n, j, c, n, nodes)
        held, skew = load_graph(y + row * line, j, nodes, c, line, SKEW)
        value = tl.where(real, tl.gather(held, source + skew, 0), 0)
        if DTYPE is None:
            total = value
        else:
            total += value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1,), tl.int64), None, DTYPE)
    tl.store(x + graph * line + j, total.to(x.dtype.element_ty), mask=j < line)


def line_of(x: Tensor, n: int, order: int) -> dict | None:
    """How a line lies in a program, or None where runs are whole sectors anyway or a line is too long."""
    return _line_of(n, x.shape[-1], x.element_size())


@functools.lru_cache(maxsize=1024)
def _line_of(n: int, c: int, size: int) -> dict | None:
    skew = n * c * size % 32 > 0
    block = power_of_two(n * c + (32 // size if skew else 0), 32)
    if c * size % 32 == 0 or block > LONGEST:
        return None
    return {"SKEW": skew, "N": block, "num_warps": max(1, min(block // 256, 16)), **OPTIONS}


def gather_lines(shape: dict, x, perm, num_nodes, weights, y, scale, order, each, dtype) -> None:
    b, k, n = perm.shape
    c = x.shape[-1]
    kernel, size, rows = (gather_graph_kernel, SAMPLES, b) if order == 1 else (gather_edges_kernel, LINES, b * k)
    blocks = -(-(k if order == 1 else n) // size)
    kernel[programs(rows * blocks, "permute")](
        x, perm, num_nodes, weights, y, k, n, c, n * c, blocks, scale, each, dtype, P=size, **shape
    )


def sum_lines(shape: dict, y, perm, num_nodes, weights, x, b, k, each, scale, order, dtype) -> None:
    n, c = perm.shape[2], y.shape[-1]
    if order == 1:
        _, perm, inverses = share(perm, b, 1, 1, k)
        sum_graph_kernel[programs(b, "inverse_permute_mean")](
            y, perm, inverses, num_nodes, weights, x, k, n, c, n * c, each, scale, dtype, **shape
        )
        return
    size = SUMS if dtype is None or y.element_size() < 8 else SUMS // 2
    blocks = cdiv(n, size)
    groups, perm, inverses = share(perm, b, blocks, n * c * y.element_size(), k)
    sum_edges_kernel[programs(b * groups, "inverse_permute_mean")](
        y, perm, inverses, num_nodes, weights, x, k, n, c, n * c, blocks, groups, each, scale, dtype, P=size, **shape
    )
