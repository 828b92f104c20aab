"""The soft permutation applied to features, and the gradient of t, row and col, both by scans in order of rank."""

from __future__ import annotations

import functools

import torch
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.channels import (
    block_of,
    load_pair,
    load_tile,
    pair_sums,
    row_vectors,
    to_channels,
    to_tile,
    total,
)
from lps_kernels.triton.entry import entry
from lps_kernels.triton.laplace import strict_sums, unstack
from lps_kernels.triton.launch import compute, on, power_of_two, programs
from lps_kernels.triton.moves import weight_of
from lps_kernels.triton.sinkhorn import row_sizes, warps_for
from lps_kernels.triton.sort import MAX_NODES, count_nodes
from lps_kernels.triton.sum_parts import sum_parts

# Numbers of u and of v that eight warps scan at once, where a warp holds whole rows, by elements a lane: with four, two
# rows a warp took all 255 registers and spilled 16 bytes.
_TILE = {1: 2048, 2: 2048, 4: 1024}
# Gradients of 513 nodes and more in float64 spill 128 bytes and more there: 255 registers do not hold decays and sums.
_CHANNELS = 8  # that are read at once where a row takes several warps, and scanned in turn
_BUSY = 264  # programs that fill the largest device twice; rows are cut into parts where they are fewer


@entry(do_not_specialize=["k", "n", "parts"])
def soft_gradient_kernel(
    u, v, nodes_u, nodes_v, perm, t, row, col, num_nodes, weights, first_t, first_row, first_col, grad_t, grad_row,
    grad_col, k, n, c, line, nodes_c, parts, tau_inverse: tl.float64, scale: tl.float64, GATHER: tl.constexpr,
    EACH: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, DTYPE: tl.constexpr, W: tl.constexpr,
    E: tl.constexpr, C0: tl.constexpr, L1: tl.constexpr, C1: tl.constexpr,
):  # fmt: skip
    """Gradients of t, row and col, a part of the channels each (rows, parts, n), from u, in order of nodes if GATHER
    and with samples if EACH, and v, in order of rank. FIRST, SECOND: the axes that the permutation acted on. Added to
    them are those from another pair, of nodes and in the same dtype, and what gradients there are first.
    """
    N: tl.constexpr = W * 32 * E
    ROWS: tl.constexpr = C0 if W == 1 else 1
    at, part = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
    i, graph = tl.arange(0, N), at // k
    nodes = count_nodes(num_nodes, graph, n)
    vectors = row_vectors(t, row, col, at, nodes, n, tau_inverse, DTYPE, W, E)
    zeros = unstack(tl.zeros((ROWS * W, 32, E), DTYPE), E)
    sums = zeros, zeros, zeros
    sample = at if EACH else graph
    of_first = tl.cdiv(line, C0) if FIRST else 0
    of_second = tl.cdiv(n, L1) * tl.cdiv(c, C1) if SECOND else 0
    of_nodes = 0 if nodes_u is None else tl.cdiv(nodes_c, C0)
    for item in range(part, of_nodes + of_first + of_second, parts):
        # The scans stand here once, whichever axis they run along: their code is what takes Triton long.
        if not SECOND or (FIRST and item < of_nodes + of_first):
            of_u, of_v, of_c, inner, at_item = u, v, c, line, item
            if nodes_u is not None:
                is_node = item < of_nodes
                of_u, of_v = tl.where(is_node, nodes_u, u), tl.where(is_node, nodes_v, v)
                of_c, inner = tl.where(is_node, nodes_c, c), tl.where(is_node, nodes_c, line)
                at_item = tl.where(is_node, item, item - of_nodes)
            us, vs = load_pair(
                of_u, of_v, perm, num_nodes, sample, at, graph, n, of_c, 1, inner, at_item, GATHER, True, DTYPE, W, E,
                1, C0,
            )  # fmt: skip
        else:
            us, vs = load_pair(
                u, v, perm, num_nodes, sample, at, graph, n, c, n, c, item - of_nodes - of_first, GATHER, False, DTYPE,
                W, E, L1, C1,
            )  # fmt: skip
        if W == 1:
            sums = pair_sums(us[0], vs[0], vectors, sums, W, E, ROWS)
        else:
            for _ in range(C0):
                sums = pair_sums(us[0], vs[0], vectors, sums, W, E, ROWS)
                us, vs = us[1:] + us[:1], vs[1:] + vs[:1]
    w = weight_of(weights, scale, at + tl.zeros((N,), tl.int64), None, DTYPE)
    to = (at * parts + part) * n + i
    unit = tl.full((N,), tau_inverse, tl.float64).to(DTYPE)
    mine = i < tl.where(part == 0, nodes, 0)
    of_t, of_row, of_col = total(sums[2], W, E) * unit * w, total(sums[0], W, E) * w, total(sums[1], W, E) * w
    if first_t is not None:
        of_t += tl.load(first_t + at * n + i, mask=mine, other=0).to(DTYPE)
    if first_row is not None:
        of_row += tl.load(first_row + at * n + i, mask=mine, other=0).to(DTYPE)
    if first_col is not None:
        of_col += tl.load(first_col + at * n + i, mask=mine, other=0).to(DTYPE)
    tl.store(grad_t + to, of_t, mask=i < n)
    tl.store(grad_row + to, of_row, mask=i < n)
    tl.store(grad_col + to, of_col, mask=i < n)


@entry(do_not_specialize=["k", "n"])
def soft_product_kernel(
    x, perm, t, before, after, num_nodes, weights, y, k, n, c, outer, inner, tau_inverse: tl.float64,
    scale: tl.float64, GATHER: tl.constexpr, EACH: tl.constexpr, FIRST: tl.constexpr, DTYPE: tl.constexpr,
    W: tl.constexpr, E: tl.constexpr, L: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """y = w after (K (before x)) along one axis of each sample, in order of rank."""
    N: tl.constexpr = W * 32 * E
    items = tl.cdiv(outer, L) * tl.cdiv(inner, C)
    at, item = (tl.program_id(0) // items).to(tl.int64), tl.program_id(0) % items
    i, graph = tl.arange(0, N), at // k
    nodes = count_nodes(num_nodes, graph, n)
    decay, _groups, _tied, before_scale, after_scale = row_vectors(
        t, before, after, at, nodes, n, tau_inverse, DTYPE, W, E
    )  # fmt: skip
    o, q = block_of(item, inner, L, C)
    sample = at if EACH else graph
    xs = load_tile(x, perm, num_nodes, sample, at, graph, n, c, outer, inner, o, q, GATHER, FIRST, DTYPE, N)
    w = weight_of(weights, scale, at + tl.zeros((1, 1), tl.int64), None, DTYPE)
    channels, results = to_channels(xs, W, E), ()
    for channel in tl.static_range(len(channels)):
        scaled, result = (), ()
        for e in tl.static_range(E):
            scaled = scaled + (channels[channel][e] * before_scale[e],)
        lower, higher = strict_sums(scaled, decay, W, E, L * C if W == 1 else 1)
        for e in tl.static_range(E):
            result = result + (((lower[e] + higher[e]) + scaled[e]) * (after_scale[e] * w),)
        results = results + (result,)
    lines = (at * outer + o.to(tl.int64))[:, None] * n + i[None, :]
    mask = (o < outer)[:, None, None] & (i < n)[None, :, None] & (q < inner)[None, None, :]
    value = to_tile(results, W, E, L, C).to(y.dtype.element_ty)
    tl.store(y + lines[:, :, None] * inner + q[None, None, :], value, mask=mask)


def halve(lanes: dict) -> None:
    """Half the elements a lane, and twice the warps."""
    lanes |= {"W": 2 * lanes["W"], "E": lanes["E"] // 2, "num_warps": warps_for(2 * lanes["W"])}


def _tiles(n: int, c: int, order: int, dtype: torch.dtype) -> tuple[dict, dict]:
    """By n: how a row lies in lanes; and how many channels are scanned at once where the first axis is, and lines and
    their channels where the second is."""
    lanes = dict(row_sizes(n, torch.float64))  # fewer elements a lane than in soft_sort: there are channels to hold too
    if dtype == torch.float64 and 1 < lanes["W"] < 8:
        halve(lanes)
    room = _CHANNELS
    if lanes["W"] == 1:
        room = _TILE[lanes["E"]] // (32 * lanes["E"])
    room //= 2 if dtype == torch.float64 else 1
    channels = min(power_of_two(c), room)
    if order == 1:
        room = channels
    if lanes["W"] == 1:
        lanes["num_warps"] = warps_for(min(room, 8))
    return lanes, {"C0": room, "L1": room // channels, "C1": channels}


def check_soft(what: str, x: Tensor, perm: Tensor, t: Tensor | None, row: Tensor | None, col: Tensor | None) -> None:
    dtype, shape = compute(x.dtype)[0], perm.shape
    for name, p in (("t", t), ("row", row), ("col", col)):
        if p is None or p.shape != shape or p.dtype != dtype:
            raise ValueError(f"{what}: expected {name} like perm, in the dtype that the features are computed in")
    if perm.shape[2] > MAX_NODES:
        raise ValueError(
            f"backend 'triton': {what} with a soft permutation takes at most {MAX_NODES} nodes, "
            f"got n = {perm.shape[2]}; "
            "backend='reference' has no such limit"
        )


def soft_gradient(u, v, perm, soft, num_nodes, tau, axes, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of t, row and col, (b, k, n) each, see `soft_gradient_kernel`; axes is a subset of (0, 1)."""
    grads = soft_gradient_parts(u, v, perm, soft, num_nodes, tau, axes, **options)
    if grads[0].dim() == 4:
        with on(u):
            grads = sum_parts(grads, 2)
    return grads


def soft_gradient_parts(
    u, v, perm, soft, num_nodes, tau, axes, *, gathered=True, each=False, weights=None, scale=1.0,
    nodes=(None, None), first=(None, None, None),
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The same, or (b, k, parts, n) that are to be added up."""
    t, row, col = soft
    (b, k, n), c, order = perm.shape, v.shape[-1], v.dim() - 3
    line = c if order == 1 else n * c
    # Cut by the number of rows alone, not by the device, so that sums are the same on any.
    parts = max(1, min(-(-_BUSY // max(b * k, 1)), -(-line // 64)))
    lead = (b, k) if parts == 1 or not b * k * n else (b, k, parts)
    grads = t.new_empty(*lead, n), t.new_empty(*lead, n), t.new_empty(*lead, n)
    if b * k * n:
        dtype, u_nodes = t.dtype, nodes[0]
        more = u_nodes is not None or (len(axes) == 2 and u.element_size() == 2)
        with on(t):
            soft_gradient_kernel[programs(b * k * parts, "permute_backward")](
                u, v, *nodes, perm, t, row, col, num_nodes, weights, *first, *grads, k, n, c, line,
                0 if u_nodes is None else u_nodes.shape[-1], parts, 1.0 / tau, scale, gathered, each, 0 in axes,
                1 in axes, compute(dtype)[1], **_gradient_tiles(n, c, order, dtype, more),
            )  # fmt: skip
    return grads


@functools.lru_cache(maxsize=1024)
def _gradient_tiles(n: int, c: int, order: int, dtype: torch.dtype, more: bool) -> dict:
    """`_tiles` of the gradient. more: what tells the pairs apart takes registers, some too many; so do pairs of two
    bytes."""
    lanes, tiles = _tiles(n, c, order, dtype)
    if more and 1 < lanes["W"] < 8 and lanes["E"] > 2:
        halve(lanes)
    if dtype == torch.float32 and not torch.version.hip:
        sizes = lanes["W"], lanes["E"], lanes["num_warps"]
        if sizes == (1, 2, 4):
            lanes["maxnreg"] = 128  # told nothing, ptxas takes 96 and spills 8 bytes
        if sizes == (4, 2, 4):
            lanes["maxnreg"] = 184  # told nothing, it takes 168 on sm_100 and spills 32 bytes
        if (*sizes, tiles["C0"]) == (2, 4, 2, 4):
            lanes["maxnreg"] = 200  # told nothing, 168 and spills 16 to 32 bytes
    return {**lanes, **tiles}


def soft_product(
    x, perm, t, before, after, num_nodes, tau, axis, out, *, gathered=False, each=True, weights=None, scale=1.0
) -> Tensor:
    """out (b, k, n, c) or (b, k, n, n, c) in order of rank, see `soft_product_kernel`."""
    b, k, n = perm.shape
    c = x.shape[-1]
    outer, inner = (1, c if out.dim() == 4 else n * c) if axis == 0 else (n, c)
    if out.numel():
        lanes, tiles = _tiles(n, c, out.dim() - 3, t.dtype)
        block = {"L": 1, "C": tiles["C0"]} if axis == 0 else {"L": tiles["L1"], "C": tiles["C1"]}
        count = b * k * -(-outer // block["L"]) * -(-inner // block["C"])
        with on(t):
            soft_product_kernel[programs(count, "permute")](
                x, perm, t, before, after, num_nodes, weights, out, k, n, c, outer, inner, 1.0 / tau, scale,
                gathered, each, axis == 0, compute(t.dtype)[1], **lanes, **block,
            )  # fmt: skip
    return out
