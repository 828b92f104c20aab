"""Gathers in shared memory: whole lines are read as they lie and put in order there.

Read one by one, numbers from anywhere in a line would ask for a sector of 32 bytes each, and lines that are gathered
for several samples would be read as often. A line is a node's edges, or a graph's nodes where the permutation acts on
one axis. What is gathered stays with its program, which writes it for every sample; what is summed likewise. So lines
of edges go to the rank of their node, and columns come from the node of their rank.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entries import skew_of
from lps_kernels.triton.entry import entry
from lps_kernels.triton.launch import OPTIONS, cdiv, power_of_two, programs
from lps_kernels.triton.moves import node, weight_of
from lps_kernels.triton.sort import count_nodes, inverse

LONGEST = 8192  # numbers of a line that a program holds
HELD = 32 << 10  # bytes of lines of edges that it holds: perm, which each program reads, is short beside them
SAMPLES = 8  # samples that it moves with one reading of the nodes
# Of sums, by block and bytes of a number. Told nothing, ptxas takes 80 and 96 registers and spills 8 bytes.
_REGISTERS = {(512, 4): {"maxnreg": 96}, (1024, 2): {"maxnreg": 104}}


@triton.jit
def load_line(at, j, count, SKEW: tl.constexpr, here=True):
    """`count` numbers from `at` on, behind those that lie before them in their sector if SKEW; and how many."""
    skew = skew_of(at, SKEW)
    if SKEW:  # one number a thread, or each would take several one by one, as they are not aligned
        source = tl.max_contiguous(at + (j - skew), 1 if len(j.shape) == 1 else [1, 1])
        held = tl.load(source, mask=(j >= skew) & (j < count + skew) & here, other=0)
    else:
        held = tl.load(at + j, mask=(j < count) & here, other=0)
    return held, skew


@triton.jit
def store_line(at, j, count, value, SKEW: tl.constexpr, here=True):
    """Write number j of what begins `skew_of(at)` numbers before `at`, where it is one of `count` from `at` on."""
    if SKEW:
        skew = skew_of(at, SKEW)
        to = tl.max_contiguous(at + (j - skew), 1 if len(j.shape) == 1 else [1, 1])
        tl.store(to, value.to(at.dtype.element_ty), mask=(j >= skew) & (j < count + skew) & here)
    else:
        tl.store(at + j, value.to(at.dtype.element_ty), mask=(j < count) & here)


@triton.jit
def load_graph(at, j, nodes, c, line, SKEW: tl.constexpr, part=0, WIDTH: tl.constexpr = 0):
    """A line of all nodes, padding too where threads read several numbers at once: it is not known of the real nodes'
    end that it is no thread's middle, and numbers read one by one ask for a sector four to eight times. WIDTH: that
    part of their channels alone.
    """
    if WIDTH:
        source = tl.max_contiguous(at + (j // WIDTH * c + part * WIDTH + j % WIDTH), 1)
        here = (j < nodes * WIDTH) & (part * WIDTH + j % WIDTH < c)
        return tl.load(source, mask=here, other=0), 0
    else:
        return load_line(at, j, nodes * c if SKEW else line, SKEW)


@triton.jit
def store_graph(at, j, n, c, line, value, SKEW: tl.constexpr, part, WIDTH: tl.constexpr):
    if WIDTH:
        to = tl.max_contiguous(at + (j // WIDTH * c + part * WIDTH + j % WIDTH), 1)
        here = (j < n * WIDTH) & (part * WIDTH + j % WIDTH < c)
        tl.store(to, value.to(at.dtype.element_ty), mask=here)
    else:
        store_line(at, j, line, value, SKEW)


@triton.jit
def parts_of(c, WIDTH: tl.constexpr):
    """Which part of the channels a program has, and how many channels; and which of the graphs' programs it is."""
    if WIDTH:
        parts = tl.cdiv(c, WIDTH)
        return tl.program_id(0) % parts, WIDTH, tl.program_id(0) // parts
    else:
        return 0, c, tl.program_id(0)


@triton.jit
def order_of(perm, n, R: tl.constexpr):
    """A row of perm (R,), n at most of which are nodes, and the rest in place."""
    rank = tl.arange(0, R)
    return tl.where(rank < n, node(perm, rank, n, rank < n), rank)


@triton.jit
def picked(source, index):
    """source[index], of a tensor as a line and indices of any shape."""
    flat = tl.gather(tl.reshape(source, (source.numel,)), tl.reshape(index, (index.numel,)), 0)
    return tl.reshape(flat, index.shape)


@triton.jit
def in_order(held, first, order, j, c, nodes):
    """Number j of lines, whose nodes are put in order; zero beyond `nodes` of them. Lines begin at `first` in held."""
    real = (j >= 0) & (j < nodes * c)
    source = first + picked(order, tl.where(real, j // c, 0)) * c + j % c
    return tl.where(real, picked(held, tl.where(real, source, 0)), 0)


@entry(do_not_specialize=["k", "n", "blocks", "each"])
def gather_edges_kernel(
    x, perm, num_nodes, weights, y, k, n, c, line, blocks, each, scale: tl.float64,
    DTYPE: tl.constexpr, SKEW: tl.constexpr, P: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """y[b, k, r, s] = x[b, perm[r], perm[s]]; times a weight where DTYPE is given. P lines of x a program.

    Whole for a bijection alone: a line goes to the rank of its node.
    """
    block, graph = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    line_at, j, rank = (tl.arange(0, P) * N)[:, None], tl.arange(0, N)[None, :], tl.arange(0, R)[None, :]
    i, nodes = (block * P + tl.arange(0, P))[:, None], count_nodes(num_nodes, graph // each, n)
    held, skew = load_line(x + (graph * n + i) * line, j, line, SKEW, i < n)
    for sample in range(k):
        row = graph * k + sample
        order = order_of(perm + row * n, n, R)
        ranks = tl.sum(tl.where(order[None, :] == i, rank, 0), 1, keep_dims=True)
        to = y + (row * n + tl.minimum(ranks, n - 1)) * line
        value = in_order(held, line_at + skew, order, j - skew_of(to, SKEW), c, tl.where(i < nodes, nodes, 0))
        if DTYPE is not None:
            value = value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1, 1), tl.int64), None, DTYPE)
        store_line(to, j, line, value, SKEW, i < n)


@entry(do_not_specialize=["k", "n", "blocks", "each"])
def sum_edges_kernel(
    y, perm, num_nodes, weights, x, k, n, c, line, blocks, each, scale: tl.float64,
    DTYPE: tl.constexpr, SKEW: tl.constexpr, P: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """x[b, perm[r], perm[s]] = sum over k of w y[b, k, r, s]; without DTYPE there is one sample and nothing is added.

    P lines of x a program, of a graph, or of a sample where a graph has `each` of them.
    """
    block, graph = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    line_at, j, i = (tl.arange(0, P) * N)[:, None], tl.arange(0, N)[None, :], block * P + tl.arange(0, P)
    nodes, to = count_nodes(num_nodes, graph // each, n), x + (graph * n + i)[:, None] * line
    column, real = j - skew_of(to, SKEW), tl.where(i < nodes, nodes, 0)[:, None]
    total = tl.zeros((P, N), y.dtype.element_ty if DTYPE is None else DTYPE)
    for sample in range(k):
        row = graph * k + sample
        order = inverse(order_of(perm + row * n, n, R), R)
        source = y + (row * n + tl.gather(order, tl.minimum(i, n - 1), 0))[:, None] * line
        held, skew = load_line(source, j, line, SKEW, (i < nodes)[:, None])
        value = in_order(held, line_at + skew, order, column, c, real)
        if DTYPE is None:
            total = value
        else:
            total += value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1, 1), tl.int64), None, DTYPE)
    store_line(to, j, line, total, SKEW, (i < n)[:, None])


@entry(do_not_specialize=["k", "n", "chunks"])
def gather_graph_kernel(
    x, perm, num_nodes, weights, y, k, n, c, line, chunks, scale: tl.float64,
    EACH: tl.constexpr, DTYPE: tl.constexpr, SKEW: tl.constexpr, P: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """y[b, k, r] = x[b, perm[r]] of P samples, which read x once, or x[b, k, perm[r]] if EACH."""
    part, wide, item = parts_of(c, WIDTH)
    chunk, graph = item % chunks, (item // chunks).to(tl.int64)
    j, nodes = tl.arange(0, N), count_nodes(num_nodes, graph, n)
    if not EACH:
        held, skew = load_graph(x + graph * line, j, nodes, c, line, SKEW, part, WIDTH)
    for sample in range(chunk * P, tl.minimum((chunk + 1) * P, k)):
        row = graph * k + sample
        if EACH:
            held, skew = load_graph(x + row * line, j, nodes, c, line, SKEW, part, WIDTH)
        to = y + row * line
        value = in_order(held, skew, order_of(perm + row * n, n, R), j - skew_of(to, SKEW), wide, nodes)
        if DTYPE is not None:
            value = value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1,), tl.int64), None, DTYPE)
        store_graph(to, j, n, c, line, value, SKEW, part, WIDTH)


@entry(do_not_specialize=["k", "n", "each"])
def sum_graph_kernel(
    y, perm, num_nodes, weights, x, k, n, c, line, each, scale: tl.float64,
    DTYPE: tl.constexpr, SKEW: tl.constexpr, N: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """x[b, perm[r]] = sum over k of w y[b, k, r]; without DTYPE there is one sample and nothing is added."""
    part, wide, item = parts_of(c, WIDTH)
    graph, j = item.to(tl.int64), tl.arange(0, N)
    nodes, to = count_nodes(num_nodes, graph // each, n), x + graph * line
    column, total = j - skew_of(to, SKEW), tl.zeros((N,), y.dtype.element_ty if DTYPE is None else DTYPE)
    for sample in range(k):
        row = graph * k + sample
        order = inverse(order_of(perm + row * n, n, R), R)
        held, skew = load_graph(y + row * line, j, nodes, c, line, SKEW, part, WIDTH)
        value = in_order(held, skew, order, column, wide, nodes)
        if DTYPE is None:
            total = value
        else:
            total += value.to(DTYPE) * weight_of(weights, scale, row + tl.zeros((1,), tl.int64), None, DTYPE)
    store_graph(to, j, n, c, line, total, SKEW, part, WIDTH)


def warps_of(numbers: int, size: int, sums: bool) -> int:
    """Of the longest sums eight, with all registers: sixteen spill 8 to 224 bytes on sm_100, and do more."""
    return max(1, min(numbers // 256, 8 if sums and numbers * max(size, 4) == HELD else 16))


def line_of(x: Tensor, n: int, order: int, sums: bool = False) -> dict | None:
    """How lines lie in a program, or None where one is too long."""
    return line_for(n, x.shape[-1], x.element_size(), order, sums)


@functools.lru_cache(maxsize=1024)
def line_for(n: int, c: int, size: int, order: int, sums: bool = False) -> dict | None:
    skew = n * c * size % 32 > 0
    block = power_of_two(n * c + (32 // size if skew else 0), 32)
    if block > LONGEST:
        return None
    # Sums of two bytes fill registers as those of four. So do the addresses of each number where lines are skewed.
    held = HELD // (2 * max(size, 4) if skew else max(size, 4) if sums else size)
    # A gather compares each line with all of perm to find its rank: 32 lines a program at most, or registers spill.
    most = power_of_two(n) if sums else min(power_of_two(n), 32)
    lines = {"P": max(min(held // block, most), 1)} if order == 2 else {}
    warps = warps_of(block * lines.get("P", 1), size, sums)
    return {"SKEW": skew, "N": block, "R": power_of_two(n, 32 * warps), **lines, "num_warps": warps, **OPTIONS}


@functools.lru_cache(maxsize=1024)
def graph_for(n: int, c: int, size: int, sums: bool = False) -> dict | None:
    """How a graph's nodes lie in a program: whole, or some of their channels, or None where they are too many.

    Sums fill registers at half the length, so do numbers of eight bytes, and addresses of sums of two bytes that are
    parts. Channels are whole sectors, or so many that those which they share with others are few.
    """
    skew, room = n * c * size % 32 > 0, LONGEST if size < 8 else LONGEST // 2
    block, width = power_of_two(n * c + (32 // size if skew else 0), 32), 0
    if n > LONGEST:
        return None
    if block > (room if sums else 2 * room):
        width = (1 << (room // (2 * n if sums and size == 2 else n)).bit_length()) // 2
        block, skew = power_of_two(n * width, 32), False
        if width * size < (256 if c * size % 32 else 32):
            return None
    warps = 32 if size == 2 and block > LONGEST else warps_of(block, size, sums)
    lines = {"SKEW": skew, "N": block, "R": power_of_two(n, 32 * warps), "WIDTH": width}
    if sums and not torch.version.hip:
        lines |= _REGISTERS.get((block, size), {})
    return {**lines, "num_warps": warps, **OPTIONS}


def gather_lines(shape: dict, x, perm, num_nodes, weights, y, b, k, each, scale, order, dtype) -> None:
    n, c = perm.shape[2], x.shape[-1]
    if order == 1:
        chunks, parts = cdiv(k, SAMPLES), cdiv(c, shape["WIDTH"] or c)
        gather_graph_kernel[programs(b * chunks * parts, "permute")](
            x, perm, num_nodes, weights, y, k, n, c, n * c, chunks, scale, each, dtype, P=SAMPLES, **shape
        )
        return
    if each:  # every sample is a graph of its own
        b, k, each = b * k, 1, k
    blocks = cdiv(n, shape["P"])
    gather_edges_kernel[programs(b * blocks, "permute")](
        x, perm, num_nodes, weights, y, k, n, c, n * c, blocks, max(each, 1), scale, dtype, **shape
    )


def sum_lines(shape: dict, y, perm, num_nodes, weights, x, b, k, each, scale, order, dtype) -> None:
    n, c = perm.shape[2], y.shape[-1]
    blocks, kernel, more = 1, sum_graph_kernel, ()
    if order == 1:
        blocks = cdiv(c, shape["WIDTH"] or c)
    else:
        blocks, kernel = cdiv(n, shape["P"]), sum_edges_kernel
        more = (blocks,)
    kernel[programs(b * blocks, "inverse_permute_mean")](
        y, perm, num_nodes, weights, x, k, n, c, n * c, *more, each, scale, dtype, **shape
    )
