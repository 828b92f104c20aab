"""sample_permute: soft_sort, which gathers nodes in the same launch, and permute of edges in another.

Forward, a program sorts a row and moves its nodes, if they are few numbers for its warps; else another launch does.
Edges are n times as many and want many programs, so they take a launch more, as soft values do. Backward, sums
over samples go back to nodes and to edges, and scans of both give gradients of t, row and col by programs that share
rows, where these are few; the last launch, which needs all of a row, adds them up and goes back to scores.
"""

from __future__ import annotations

import functools

import torch
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entries import skew_of
from lps_kernels.triton.entry import entry
from lps_kernels.triton.gather import gather_sum
from lps_kernels.triton.launch import check_gradient, compute, dense, nothing, on, power_of_two, programs
from lps_kernels.triton.lines import in_order, line_for, load_graph, order_of, store_line
from lps_kernels.triton.moves import node
from lps_kernels.triton.permute import check as check_features
from lps_kernels.triton.permute import permute, permute_backward
from lps_kernels.triton.sinkhorn import row_sizes
from lps_kernels.triton.soft import check_soft, soft_gradient_parts
from lps_kernels.triton.soft_sort import _SCRATCH as SCRATCH
from lps_kernels.triton.soft_sort import (
    check,
    soft_sort,
    soft_sort_backward,
    soft_sort_backward_kernel,
    soft_sort_kernel,
)
from lps_kernels.triton.sort import MAX_NODES, count_nodes

CHANNELS = 16  # of nodes that the program of a row moves
# Numbers that a single warp moves. It puts them in order by shuffles, one for each pair of its registers: 1,024 numbers
# take 1,280, and on sm_100 255 registers and 1,656 bytes of spills.
ALONE = 512
# By block and dtype, forward and backward. Told nothing, ptxas takes 128 and 168 and spills 8 and 16 bytes.
_REGISTERS, _REGISTERS_BACKWARD = {(128, torch.float64): {"maxnreg": 128}}, {(128, torch.float64): {"maxnreg": 184}}
if torch.version.hip:
    _REGISTERS = _REGISTERS_BACKWARD = {}


@entry(do_not_specialize=["k", "n_iter"])
def sample_permute_kernel(
    scores, seed, num_nodes, perm, t, row, col, x, y, k, n, c, line, tau_inverse: tl.float64, n_iter,
    NORMALIZE: tl.constexpr, DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr, SKEW: tl.constexpr,
    P: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """soft_sort, and y[b, k, r] = x[b, perm[r]]: of a line of N numbers, see lines.py, or of P nodes of N at a time."""
    soft_sort_kernel(
        scores, seed, num_nodes, perm, t, row, col, k, n, tau_inverse, n_iter, NORMALIZE, DTYPE, W, E
    )  # fmt: skip
    tl.debug_barrier()  # threads read what others have written of perm
    at, j = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    graph = at // k
    nodes = count_nodes(num_nodes, graph, n)
    if P == 0:
        held, skew = load_graph(x + graph * line, j, nodes, c, line, SKEW)
        to = y + at * line
        value = in_order(held, skew, order_of(perm + at * n, n, R), j - skew_of(to, SKEW), c, nodes)
        store_line(to, j, line, value, SKEW)
    else:
        for first in range(0, n, P):
            rank = first + tl.arange(0, P)
            source = graph * n + node(perm + at * n, rank, n, rank < nodes)
            here = (rank < nodes)[:, None] & (j < c)[None, :]
            value = tl.load(x + source[:, None] * c + j[None, :], mask=here, other=0)
            tl.store(y + (at * n + rank)[:, None] * c + j[None, :], value, mask=(rank < n)[:, None] & (j < c)[None, :])


@entry(do_not_specialize=["rows", "k", "parts", "n_iter"])
def sample_permute_backward_kernel(
    parts_t, parts_row, parts_col, grad_t, grad_row, grad_col, scores, num_nodes, perm, t, row, col, scratch, grad,
    rows, k, n, parts, tau_inverse: tl.float64, n_iter, NORMALIZE: tl.constexpr, DTYPE: tl.constexpr,
    W: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """soft_sort_backward, of sums over parts, which each program first adds up for its own rows."""
    i = tl.arange(0, W * 32 * E)
    for at in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        of_t, of_row, of_col = tl.zeros_like(i).to(DTYPE), tl.zeros_like(i).to(DTYPE), tl.zeros_like(i).to(DTYPE)
        for part in range(parts):
            source, here = (at * parts + part) * n + i, i < n
            of_t += tl.load(parts_t + source, mask=here, other=0).to(DTYPE)
            of_row += tl.load(parts_row + source, mask=here, other=0).to(DTYPE)
            of_col += tl.load(parts_col + source, mask=here, other=0).to(DTYPE)
        tl.store(grad_t + at * n + i, of_t, mask=i < n)
        tl.store(grad_row + at * n + i, of_row, mask=i < n)
        tl.store(grad_col + at * n + i, of_col, mask=i < n)
    tl.debug_barrier()
    soft_sort_backward_kernel(
        grad_t, grad_row, grad_col, scores, num_nodes, perm, t, row, col, scratch, grad, rows, k, n, tau_inverse,
        n_iter, NORMALIZE, DTYPE, W, E,
    )  # fmt: skip


def sample_permute(
    scores: Tensor,
    seed: Tensor,
    x: Tensor,
    edges: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    n_iter: int,
    normalize: bool,
    hard: bool,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape = _shape(*x.shape[1:], x.element_size(), compute(scores.dtype)[0])
    if hard and shape is not None and x.numel() and scores.numel():
        perm, t, row, col, x_k = _with_nodes(scores, seed, x, num_nodes, tau, n_iter, normalize, soft, shape)
        parts = (None, None, None)
    else:
        perm, t, row, col = soft_sort(scores, seed, num_nodes, tau, n_iter, normalize, soft)
        parts = _parts(x, soft and not hard, (t, row, col))
        x_k = permute(x, perm, *parts, num_nodes, tau, 1, hard)
    if edges is None:
        return perm, t, row, col, x_k, x_k.new_empty(scores.shape[0], 0)
    return perm, t, row, col, x_k, permute(edges, perm, *parts, num_nodes, tau, 2, hard)


def _parts(x: Tensor, soft: bool, parts: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """t, row and col in the dtype that x is computed in."""
    dtype = compute(x.dtype)[0]
    if not soft:
        return (None,) * 3
    return parts if parts[0].dtype == dtype else tuple(p.to(dtype) for p in parts)


def _with_nodes(scores, seed, x, num_nodes, tau, n_iter, normalize, soft, shape) -> tuple[Tensor, ...]:
    """soft_sort, and x (b, k, n, c)."""
    check(scores, num_nodes, seed)
    scores, x, num_nodes = dense(scores), dense(x), dense(num_nodes)
    b, k, n = scores.shape
    c, (dtype, inside) = x.shape[-1], compute(scores.dtype)
    perm, t = scores.new_empty(b, k, n, dtype=torch.int64), scores.new_empty(b, k, n, dtype=dtype)
    check_features("sample_permute", x, perm, num_nodes, 1, False)
    length = n if soft else 0
    row, col = scores.new_empty(b, k, length, dtype=dtype), scores.new_empty(b, k, length, dtype=dtype)
    y = x.new_empty(b, k, n, c)
    with on(scores):
        sample_permute_kernel[programs(b * k, "sample_permute")](
            scores, seed, num_nodes, perm, t, row if soft else None, col if soft else None, x, y, k, n, c, n * c,
            1.0 / tau, n_iter, normalize, inside, **shape,
        )  # fmt: skip
    return perm, t, row, col, y


@functools.lru_cache(maxsize=1024)
def _shape(n: int, c: int, itemsize: int, dtype: torch.dtype) -> dict | None:
    """Constants of the kernel and its launch, or None where it does not move nodes."""
    if c > CHANNELS or n > MAX_NODES:
        return None
    sizes, line = row_sizes(n, dtype), line_for(n, c, itemsize, 1)
    if line is None:
        across = power_of_two(c)
        return {"SKEW": False, "P": max(512 * sizes["W"] // across, 1), "N": across, "R": 0, **sizes}  # 16 a thread
    registers = _REGISTERS.get((32 * sizes["W"] * sizes["E"], dtype), {})
    return None if sizes["W"] == 1 and line["N"] > ALONE else {"P": 0, **line, **sizes, **registers}


def sample_permute_backward(
    grad_perm: Tensor | None,
    grad_t: Tensor | None,
    grad_row: Tensor | None,
    grad_col: Tensor | None,
    grad_x_k: Tensor | None,
    grad_edges_k: Tensor | None,
    scores: Tensor,
    seed: Tensor,
    x: Tensor,
    edges: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    n_iter: int,
    normalize: bool,
    hard: bool,
    soft: bool,
    saved_perm: Tensor,
    saved_t: Tensor,
    saved_row: Tensor,
    saved_col: Tensor,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    what, perm, saved = "sample_permute_backward", dense(saved_perm), (saved_t, saved_row, saved_col)
    vectors, found, pairs, through = (grad_t, grad_row, grad_col), [], {}, soft and needs & 1
    for grad, part in zip(vectors, saved):
        check_gradient(what, grad, part.shape, part.dtype)
    for order, features, grad in ((1, x, grad_x_k), (2, edges, grad_edges_k)):
        needed = features is not None and needs >> order & 1
        if features is None or grad is None or not (needed or through):
            found.append(torch.zeros_like(features) if needed else nothing(x))
            continue
        pairs[order] = features, grad = dense(features), dense(grad)
        if hard:
            check_features(what, features, perm, num_nodes, order, False)
            check_gradient(what, grad, (*perm.shape[:2], *features.shape[1:]), features.dtype)
            found.append(_to_nodes(features, grad, perm, num_nodes, order) if needed else nothing(x))
        else:
            mask, parts = needed | (14 if through else 0), _parts(features, soft, saved)
            of_x, *grads = permute_backward(grad, features, perm, *parts, num_nodes, tau, order, hard, mask)
            found.append(of_x)
            if through:
                vectors = [g.to(s.dtype) if v is None else v + g for v, g, s in zip(vectors, grads, saved)]
    if not needs & 1:
        return nothing(scores), *found
    if hard and through and pairs and perm.numel():
        return _through_features(pairs, vectors, scores, seed, num_nodes, tau, n_iter, normalize, perm, saved), *found
    arguments = scores, seed, num_nodes, tau, n_iter, normalize, soft, perm, *saved
    return soft_sort_backward(None, *vectors, *arguments, 1), *found


def _to_nodes(features, grad, perm, num_nodes, order) -> Tensor:
    """The gradient of hard features, a sum over samples."""
    inside = compute(features.dtype)[1]
    return gather_sum(grad, perm, dense(num_nodes), torch.empty_like(features), order, scale=1.0, dtype=inside)


def _through_features(pairs, first, scores, seed, num_nodes, tau, n_iter, normalize, perm, saved) -> Tensor:
    """The gradient of scores from pairs of hard features and their gradients, by order, and those of t, row, col."""
    check(scores, num_nodes)
    scores, num_nodes, features = dense(scores), dense(num_nodes), pairs[max(pairs)][0]
    soft = tuple(map(dense, _parts(features, True, saved)))
    check_soft("sample_permute_backward", features, perm, *soft)
    if len({f.dtype for f, _ in pairs.values()}) > 1:  # nodes and edges are read by the same code
        pairs = {order: (f.to(soft[0].dtype), g.to(soft[0].dtype)) for order, (f, g) in pairs.items()}
    parts = soft_gradient_parts(
        *pairs[max(pairs)], perm, soft, num_nodes, tau, range(max(pairs)),
        nodes=pairs[1] if len(pairs) == 2 else (None, None), first=tuple(map(dense, first)),
    )  # fmt: skip
    if parts[0].dim() == 3:
        vectors = (g.to(s.dtype) for g, s in zip(parts, saved))
        return soft_sort_backward(
            None, *vectors, scores, seed, num_nodes, tau, n_iter, normalize, True, perm, *saved, 1
        )
    with on(scores):
        return _sort_backward(parts, scores, num_nodes, tau, n_iter, normalize, perm, *map(dense, saved))


def _sort_backward(parts, scores, num_nodes, tau, n_iter, normalize, perm, t, row, col) -> Tensor:
    """soft_sort_backward of sums over parts."""
    (b, k, n), inside, sizes = perm.shape, compute(scores.dtype)[1], row_sizes(perm.shape[2], t.dtype)
    grad, sums = torch.empty_like(scores), tuple(torch.empty_like(t) for _ in range(3))
    # Parts are several only where rows are few: nearly always each has a program and room for its iterates.
    block = 32 * sizes["W"] * sizes["E"]
    count = min(b * k, max(SCRATCH // (2 * max(n_iter, 1) * block * t.element_size()), 132))
    scratch = t.new_empty(count, 2 * n_iter, block) if n_iter else None
    sample_permute_backward_kernel[programs(count, "sample_permute_backward")](
        *parts, *sums, scores, num_nodes, perm, t, row, col, scratch, grad, b * k, k, n, parts[0].shape[2], 1.0 / tau,
        n_iter, normalize, inside, **sizes, **_REGISTERS_BACKWARD.get((block, t.dtype), {}),
    )  # fmt: skip
    return grad
