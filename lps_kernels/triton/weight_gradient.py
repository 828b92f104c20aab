"""The gradient of weights: how much of an incoming gradient lies along each sample."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.gather import tile
from lps_kernels.triton.launch import on, programs
from lps_kernels.triton.lines import in_order, line_of, load_line, order_of
from lps_kernels.triton.moves import node, real_nodes
from lps_kernels.triton.sort import count_nodes


@entry(do_not_specialize=["k", "n"])
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
            there = tl.load(
                tl.max_contiguous(grad + (of_line[:, None] + at_j[None, :]), [1, 1]), mask=mask, other=0
            ).to(DTYPE)
            here = tl.load(
                tl.max_contiguous(y + ((at * n + rank)[:, None] * width + j[None, :]), [1, 1]), mask=mask, other=0
            ).to(DTYPE)
            total += there * here
    tl.store(grad_weights + at, tl.sum(tl.sum(total, 1), 0))


@entry(do_not_specialize=["k", "n"])
def weight_gradient_lines_kernel(
    grad, y, perm, num_nodes, grad_weights, k, n, c, line,
    DTYPE: tl.constexpr, SKEW: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """The same for edges of few channels, by whole lines: see lines.py."""
    at, j = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    graph, total = at // k, tl.zeros((N,), DTYPE)
    nodes = count_nodes(num_nodes, graph, n)
    order = order_of(perm + at * n, n, R)
    for rank in range(nodes):
        there, skew = load_line(grad + (graph * n + node(perm + at * n, rank, n, rank < n)) * line, j, line, SKEW)
        here = tl.load(y + (at * n + rank) * line + j, mask=j < nodes * c, other=0).to(DTYPE)
        total += in_order(there, skew, order, j, c, nodes).to(DTYPE) * here
    tl.store(grad_weights + at, tl.sum(total, 0))


def weight_gradient(grad, y, perm, num_nodes, order, out, dtype) -> Tensor:
    """out (b, k) = <grad x, P y> from grad in order of nodes and y in order of rank."""
    if not y.numel():
        return out.zero_()
    b, k, n = perm.shape
    c = y.shape[-1]
    width = c if order == 1 else n * c
    shape = line_of(y, n, 1) if order == 2 else None
    with on(y):
        if shape is not None:
            weight_gradient_lines_kernel[programs(b * k, "inverse_permute_mean_backward")](
                grad, y, perm, num_nodes, out, k, n, c, width, dtype, **shape
            )
            return out
        weight_gradient_kernel[programs(b * k, "inverse_permute_mean_backward")](
            grad, y, perm, num_nodes, out, k, n, c, width, order, dtype, **tile(width, 256)
        )
    return out
