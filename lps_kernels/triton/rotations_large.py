"""Matrices of any size on the space axis: products by tiles. Tensors take a launch for each of their two axes.

Up to 32 columns, lines are read and written as they lie and put in lanes in shared memory; read one by one, entries of
several channels would ask for each sector several times.

Features are seen as (b, k or nothing, lines, d, c): a line is a node for vectors and for the first axis of tensors,
whose other axis counts as channels then, and one of d lines of a node for the second. So one product and one sum of
outer products serve both directions and both orders.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entries import skew_of
from lps_kernels.triton.entry import entry
from lps_kernels.triton.launch import OPTIONS, cdiv, power_of_two, programs
from lps_kernels.triton.lines import load_line, picked, store_line
from lps_kernels.triton.rotations import nodes_of, ordered
from lps_kernels.triton.space import SAMPLES, Space

# Lanes (lines and channels) of a tile, most columns of the matrix in it, and steps of the inner sum at a time. 16 is
# the least that a product of tiles takes on every device.
LANES, COLUMNS, STEPS, WARPS = 32, 32, 16, 4
OUTER_LANES = 16  # of sums of outer products, at a time: 32 fill 255 registers on sm_80 and spill 72 to 96 bytes
# Of products that are summed, by bytes of a number. Told nothing, ptxas takes 168 on sm_90 and spills 16 bytes.
_REGISTERS = {} if torch.version.hip else {4: {"maxnreg": 255}}
# Columns and numbers of a tile of whole lines. Sums in float32 spill 8 bytes on sm_80: registers that end it leave room
# for half the programs, or spill 24 on sm_100.
LARGEST, TILE = 32, 2048


@triton.jit
def source_of(order, line, per, n, count):
    """The line that is read for each line, and one that there is not at padding; `per` lines make a node."""
    node = line // per
    if order is None:
        return tl.where(node < count, line, 2**62)
    else:
        found = ordered(order, node, n, count)
        return tl.where(found < count, found * per + line % per, 2**62)


@entry(do_not_specialize=["n", "k", "d", "per", "blocks", "parts", "centers"])
def product_kernel(
    y, x, q, before, after, order, num_nodes, weights, n, k, d, c, per, blocks, parts, centers,
    TRANSPOSE: tl.constexpr, EACH: tl.constexpr, SUM: tl.constexpr, MEAN: tl.constexpr, LANES: tl.constexpr,
    COLUMNS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """y = w (m (x - before) + after), m = q^T or q, of a block of lanes and of columns.

    EACH: x has samples. SUM: over samples. MEAN: each counts 1 / k.
    """
    dtype: tl.constexpr = q.dtype.element_ty
    pid = tl.program_id(0)
    part, block, item = pid % parts, (pid // parts % blocks).to(tl.int64), (pid // parts // blocks).to(tl.int64)
    b = item if SUM else item // k
    count, lines = nodes_of(num_nodes, b, n), n.to(tl.int64) * per
    lane = block * LANES + tl.arange(0, LANES)
    line, channel = lane // c, lane % c
    a = part * COLUMNS + tl.arange(0, COLUMNS)
    size = lines * d * c
    total = tl.zeros((LANES, COLUMNS), dtype)
    for sample in range(0 if SUM else item % k, k if SUM else item % k + 1):
        row = b * k + sample
        source = source_of(None if order is None else order + row * n, line, per, n, count)
        live = source < lines
        turned = tl.zeros((LANES, COLUMNS), dtype)
        for start in range(0, d, STEPS):
            e = start + tl.arange(0, STEPS)
            at = x + (row if EACH else b) * size + (source[:, None] * d + e[None, :]) * c + channel[:, None]
            mask = live[:, None] & (e < d)[None, :]
            tile = tl.load(at, mask=mask, other=0).to(dtype)
            if before is not None:
                middle = tl.load(before + (b * centers + sample % centers) * d + e, mask=e < d, other=0)
                tile = tl.where(mask, tile - middle[None, :], 0)
            if TRANSPOSE:
                at = q + row * d * d + e[:, None] * d + a[None, :]
            else:
                at = q + row * d * d + a[None, :] * d + e[:, None]
            m = tl.load(at, mask=(e < d)[:, None] & (a < d)[None, :], other=0)
            turned = tl.dot(tile, m, turned, input_precision="ieee", out_dtype=dtype)
        if after is not None:
            turned += tl.load(after + (b * centers + sample % centers) * d + a, mask=a < d, other=0)[None, :]
        w = tl.full((), 1.0, dtype)
        if weights is not None:
            w = tl.load(weights + row)
        elif MEAN:
            w = w / k.to(dtype)
        total += turned * w
    total = tl.where((line // per < count)[:, None], total, 0)
    at = y + item * size + (line[:, None] * d + a[None, :]) * c + channel[:, None]
    tl.store(at, total.to(y.dtype.element_ty), mask=(line < lines)[:, None] & (a < d)[None, :])


@entry(do_not_specialize=["n", "k", "d", "per", "parts"])
def outer_kernel(
    s, totals, x, g, before, order, num_nodes, n, k, d, c, per, parts, centers,
    EACH: tl.constexpr, EACH_GRAD: tl.constexpr, FORWARD: tl.constexpr, ADD: tl.constexpr, LANES: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of s[e, a] = sum over lanes of (x - before)[e] g[a], or s[a, e] unless FORWARD; totals[a] = sum of g[a].

    g is seen through an order. ADD: to what s holds.
    """
    dtype: tl.constexpr = s.dtype.element_ty
    pid = tl.program_id(0)
    part, row = pid % (parts * parts), (pid // (parts * parts)).to(tl.int64)
    b, sample = row // k, row % k
    count, size = nodes_of(num_nodes, b, n), n.to(tl.int64) * per * d * c
    e = part // parts * COLUMNS + tl.arange(0, COLUMNS)
    a = part % parts * COLUMNS + tl.arange(0, COLUMNS)
    total, sums = tl.zeros((COLUMNS, COLUMNS), dtype), tl.zeros((COLUMNS,), dtype)
    for start in range(0, count * per * c, LANES):
        lane = start + tl.arange(0, LANES)
        line, channel = lane // c, lane % c
        live = line < count * per
        at = x + (row if EACH else b) * size + (line[None, :] * d + e[:, None]) * c + channel[None, :]
        mask = live[None, :] & (e < d)[:, None]
        tile = tl.load(at, mask=mask, other=0).to(dtype)
        if before is not None:
            middle = tl.load(before + (b * centers + sample % centers) * d + e, mask=e < d, other=0)
            tile = tl.where(mask, tile - middle[:, None], 0)
        source = source_of(None if order is None else order + row * n, line, per, n, count)
        at = g + (row if EACH_GRAD else b) * size + (source[:, None] * d + a[None, :]) * c + channel[:, None]
        incoming = tl.load(at, mask=(source < count * per)[:, None] & (a < d)[None, :], other=0).to(dtype)
        total = tl.dot(tile, incoming, total, input_precision="ieee", out_dtype=dtype)
        sums += tl.sum(incoming, 0)
    at = row * d * d + (e[:, None] * d + a[None, :] if FORWARD else a[None, :] * d + e[:, None])
    inside = (e < d)[:, None] & (a < d)[None, :]
    if ADD:
        total += tl.load(s + at, mask=inside, other=0)
    tl.store(s + at, total, mask=inside)
    if totals is not None:
        tl.store(totals + row * d + a, sums, mask=a < tl.where(part // parts == 0, d, 0))


@triton.jit
def load_few(at, count, SIZE: tl.constexpr):
    """`count` neighbouring numbers and zeros. As many as a program's threads at least: warps read what others have."""
    i = tl.arange(0, SIZE)
    return tl.load(tl.max_contiguous(at + i, 1), mask=i < count, other=0)


@triton.jit
def lanes_tile(held, skew, real, lane, e, here, width, c, d, dtype: tl.constexpr):
    """Entries e of lanes of a block, and which there are."""
    line = tl.where(lane < here * c, lane // c, 0)
    mask = (lane < here * c) & (picked(real.to(tl.int32), line) > 0) & (e < d)
    return tl.where(mask, picked(held, tl.where(mask, line * width + e * c + lane % c + skew, 0)).to(dtype), 0), mask


@triton.jit
def load_block(at, order, f, first, here, per, width, n, count, LANES: tl.constexpr, SKEW: tl.constexpr):
    """Numbers f of `here` lines of `width` from line `first` on, where they begin, and which local lines are real."""
    local, lines = tl.arange(0, LANES), n.to(tl.int64) * per
    if order is None:
        real = local < tl.minimum(here, count * per - first)
        held, skew = load_line(
            at + first * width, f, tl.minimum(here, tl.maximum(count * per - first, 0)) * width, SKEW
        )
    else:
        source = source_of(order, tl.where(local < here, first + local, lines), per, n, count)
        real = source < lines
        of_number = f // width
        inside = of_number < here
        line = picked(source, tl.where(inside, of_number, 0))
        held = tl.load(tl.max_contiguous(at + (line * width + f % width), 1), mask=inside & (line < lines), other=0)
        skew = 0
    return held, skew, real


@entry(do_not_specialize=["n", "k", "d", "per", "blocks", "chunks", "centers"])
def product_lines_kernel(
    y, x, q, before, after, order, num_nodes, weights, n, k, d, c, per, blocks, chunks, centers,
    TRANSPOSE: tl.constexpr, EACH: tl.constexpr, SUM: tl.constexpr, MEAN: tl.constexpr, LANES: tl.constexpr,
    D: tl.constexpr, STEPS: tl.constexpr, MATRIX: tl.constexpr, NUMBERS: tl.constexpr, SKEW: tl.constexpr,
):  # fmt: skip
    """The same of whole lines, which are read as they lie and put in lanes in shared memory, for a chunk of samples."""
    dtype: tl.constexpr = q.dtype.element_ty
    HELD: tl.constexpr = not EACH and order is None
    block, item = (tl.program_id(0) % blocks).to(tl.int64), tl.program_id(0) // blocks
    chunk, b = item % chunks, (item // chunks).to(tl.int64)
    count, width, lines = nodes_of(num_nodes, b, n), d * c, n.to(tl.int64) * per
    first, lane, a, f = block * (LANES // c), tl.arange(0, LANES), tl.arange(0, D), tl.arange(0, NUMBERS)
    here, size = tl.minimum(lines - first, LANES // c).to(tl.int32), lines * width
    if HELD:
        held, skew, real = load_block(x + b * size, None, f, first, here, per, width, n, count, LANES, SKEW)
    total = tl.zeros((LANES, D), dtype)
    samples = tl.cdiv(k, chunks)
    for sample in range(chunk * samples, tl.minimum((chunk + 1) * samples, k)):
        row = b * k + sample
        if not HELD:
            held, skew, real = load_block(
                x + (row if EACH else b) * size, None if order is None else order + row * n, f, first, here, per, width,
                n, count, LANES, SKEW,
            )  # fmt: skip
        matrix = load_few(q + row * d * d, d * d, MATRIX)
        if before is not None:
            middle = load_few(before + (b * centers + sample % centers) * d, d, MATRIX)
        if after is not None:
            middle = load_few(after + (b * centers + sample % centers) * d, d, MATRIX)
        turned = tl.zeros((LANES, D), dtype)
        for start in tl.static_range(0, D, STEPS):
            e = start + tl.arange(0, STEPS)
            tile, mask = lanes_tile(held, skew, real, lane[:, None], e[None, :], here, width, c, d, dtype)
            if before is not None:
                tile = tl.where(mask, tile - picked(middle, e)[None, :], 0)
            inside = (e < d)[:, None] & (a < d)[None, :]
            place = e[:, None] * d + a[None, :] if TRANSPOSE else a[None, :] * d + e[:, None]
            m = tl.where(inside, picked(matrix, tl.where(inside, place, 0)), 0)
            turned = tl.dot(tile, m, turned, input_precision="ieee", out_dtype=dtype)
        if after is not None:
            turned += picked(middle, a)[None, :]
        w = tl.full((), 1.0, dtype)
        if weights is not None:
            w = tl.load(weights + row)
        elif MEAN:
            w = w / k.to(dtype)
        if SUM:
            total += turned * w
        else:
            store_block(y + row * size, turned * w, lane, f, first, here, per, width, c, count, LANES, D, SKEW)
    if SUM:
        store_block(y + b * size, total, lane, f, first, here, per, width, c, count, LANES, D, SKEW)


@triton.jit
def store_block(
    at, tile, lane, f, first, here, per, width, c, count, LANES: tl.constexpr, D: tl.constexpr, SKEW: tl.constexpr
):  # fmt: skip
    """Lines of a tile of lanes and columns, zero at padding."""
    to = at + first * width
    number = f - skew_of(to, SKEW)
    real = (number >= 0) & (number < tl.minimum(here, tl.maximum(count * per - first, 0)) * width)
    line, within = number // width, number % width
    place = (line * c + within % c) * D + within // c
    value = tl.where(real, picked(tile, tl.where(real, place, 0).to(tl.int32)), 0)
    store_line(to, f, here * width, value, SKEW)


@entry(do_not_specialize=["n", "k", "d", "per", "blocks", "centers"])
def outer_lines_kernel(
    s, totals, x, g, before, order, num_nodes, n, k, d, c, per, blocks, centers,
    EACH: tl.constexpr, EACH_GRAD: tl.constexpr, FORWARD: tl.constexpr, ADD: tl.constexpr, LANES: tl.constexpr,
    D: tl.constexpr, STEPS: tl.constexpr, MATRIX: tl.constexpr, NUMBERS: tl.constexpr, SKEW: tl.constexpr,
):  # fmt: skip
    """`outer_kernel` of whole lines: the sums of a sample, one block of lines after the other."""
    dtype: tl.constexpr = s.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    b, sample = row // k, row % k
    count, width, lines = nodes_of(num_nodes, b, n), d * c, n.to(tl.int64) * per
    a, f, size = tl.arange(0, D), tl.arange(0, NUMBERS), lines * width
    total, sums = tl.zeros((D, D), dtype), tl.zeros((D,), dtype)
    if before is not None:
        middle = picked(load_few(before + (b * centers + sample % centers) * d, d, MATRIX), a)[:, None]
    for block in range(blocks):
        first = block.to(tl.int64) * (LANES // c)
        here = tl.minimum(lines - first, LANES // c).to(tl.int32)
        of_x = x + (row if EACH else b) * size
        held, skew, real = load_block(of_x, None, f, first, here, per, width, n, count, LANES, SKEW)
        of_g, seen = g + (row if EACH_GRAD else b) * size, None if order is None else order + row * n
        held_g, skew_g, real_g = load_block(of_g, seen, f, first, here, per, width, n, count, LANES, SKEW)
        for start in tl.static_range(0, LANES, STEPS):
            lane = start + tl.arange(0, STEPS)
            tile, mask = lanes_tile(held, skew, real, lane[None, :], a[:, None], here, width, c, d, dtype)
            if before is not None:
                tile = tl.where(mask, tile - middle, 0)
            incoming, _ = lanes_tile(held_g, skew_g, real_g, lane[:, None], a[None, :], here, width, c, d, dtype)
            total = tl.dot(tile, incoming, total, input_precision="ieee", out_dtype=dtype)
            sums += tl.sum(incoming, 0)
    at = row * d * d + (a[:, None] * d + a[None, :] if FORWARD else a[None, :] * d + a[:, None])
    inside = (a < d)[:, None] & (a < d)[None, :]
    if ADD:
        total += tl.load(s + at, mask=inside, other=0)
    tl.store(s + at, total, mask=inside)
    if totals is not None:
        tl.store(totals + row * d + a, sums, mask=a < d)


@dataclasses.dataclass(frozen=True)
class Axis:
    """One space axis of features as lines: how many of them a node has, and channels behind the axis."""

    s: Space
    per: int
    c: int

    def constants(self, lanes: int = LANES) -> dict:
        return {"LANES": lanes, "COLUMNS": min(power_of_two(self.s.d, 16), COLUMNS), "num_warps": WARPS, **OPTIONS}

    def lines(self, itemsize: int) -> dict | None:
        """How whole lines lie in a program, or None where one or a matrix is too large."""
        return _lines(self.s.n * self.per, self.s.d, self.c, itemsize)

    def product(
        self, y, x, q, transpose, each, total=False, order=None, before=None, after=None, nodes=None, weights=None,
        mean=False,
    ) -> Tensor:  # fmt: skip
        s, constants, lines = self.s, self.constants(), self.lines(min(x.element_size(), y.element_size()))
        if lines is not None:
            blocks, chunks = cdiv(s.n * self.per, lines["LANES"] // self.c), 1 if total else cdiv(s.k, SAMPLES)
            product_lines_kernel[programs(s.b * chunks * blocks, "rotate")](
                y, x, q, before, after, order, nodes, weights, s.n, s.k, s.d, self.c, self.per, blocks, chunks,
                max(s.centers, 1), TRANSPOSE=transpose, EACH=each, SUM=total, MEAN=mean, **lines,
            )  # fmt: skip
            return y
        blocks, parts = cdiv(s.n * self.per * self.c, LANES), cdiv(s.d, constants["COLUMNS"])
        registers = _REGISTERS.get(x.element_size(), {}) if total else {}
        product_kernel[programs((s.b if total else s.b * s.k) * blocks * parts, "rotate")](
            y, x, q, before, after, order, nodes, weights, s.n, s.k, s.d, self.c, self.per, blocks, parts,
            max(s.centers, 1), TRANSPOSE=transpose, EACH=each, SUM=total, MEAN=mean, STEPS=STEPS, **constants,
            **registers,
        )  # fmt: skip
        return y

    def outer(self, found, totals, x, g, each, each_grad, forward, order, nodes, before=None, add=False) -> None:
        s, constants, lines = self.s, self.constants(OUTER_LANES), self.lines(min(x.element_size(), g.element_size()))
        if lines is not None:
            blocks = cdiv(s.n * self.per, lines["LANES"] // self.c)
            outer_lines_kernel[programs(s.b * s.k, "rotate_backward")](
                found, totals, x, g, before, order, nodes, s.n, s.k, s.d, self.c, self.per, blocks, max(s.centers, 1),
                EACH=each, EACH_GRAD=each_grad, FORWARD=forward, ADD=add, **lines,
            )  # fmt: skip
            return
        parts = cdiv(s.d, constants["COLUMNS"])
        outer_kernel[programs(s.b * s.k * parts**2, "rotate_backward")](
            found, totals, x, g, before, order, nodes, s.n, s.k, s.d, self.c, self.per, parts, max(s.centers, 1),
            EACH=each, EACH_GRAD=each_grad, FORWARD=forward, ADD=add, **constants,
        )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _lines(count: int, d: int, c: int, itemsize: int) -> dict | None:
    block = power_of_two(d, 16)
    lanes = min(TILE // block, power_of_two(count * c, 16))
    if block > LARGEST or c > lanes:
        return None
    skew = d * c * itemsize % 32 > 0
    numbers = power_of_two(lanes // c * c * d + (32 // itemsize if skew else 0))
    warps = max(lanes * block // 256, WARPS)
    constants = {"LANES": lanes, "D": block, "STEPS": STEPS, "MATRIX": max(block**2, 32 * warps)}
    return {**constants, "NUMBERS": max(numbers, 32 * warps), "SKEW": skew, "num_warps": warps, **OPTIONS}


def axes(s: Space) -> tuple[Axis, Axis | None]:
    if s.order == 1:
        return Axis(s, 1, s.c), None
    return Axis(s, 1, s.d * s.c), Axis(s, s.d, s.c)


def both(s: Space, y: Tensor, x: Tensor, q: Tensor, transpose: bool, each: bool, order, nodes, **last) -> Tensor:
    """y of x, all of its axes; `last` goes to the product that writes y."""
    first, second = axes(s)
    if second is None:
        return first.product(y, x, q, transpose, each, order=order, nodes=nodes, **last)
    half = q.new_empty(s.shape(True))
    first.product(half, x, q, transpose, each, order=order, nodes=nodes)
    return second.product(y, half, q, transpose, True, nodes=nodes, **last)


def matrix_sums(
    s: Space, found, x, g, q, forward: bool, each: bool, each_grad: bool, order, nodes, before=None
) -> Tensor:  # fmt: skip
    """found: the gradient of q (b, k, d, d) as if weights were 1. Sums (b, k, d) of g over nodes and channels."""
    totals = q.new_empty(q.shape[:3])
    first, second = axes(s)
    if second is None:
        first.outer(found, totals, x, g, each, each_grad, forward, order, nodes, before)
        return totals
    half = q.new_empty(s.shape(True))  # x with the other axis turned
    second.product(half, x, q, forward, each, nodes=nodes)
    first.outer(found, None, half, g, True, each_grad, forward, order, nodes)
    first.product(half, x, q, forward, each, nodes=nodes)
    second.outer(found, None, half, g, True, each_grad, forward, order, nodes, add=True)
    return totals


def turn(s: Space, y: Tensor, x: Tensor, q: Tensor, center, perm, nodes) -> None:
    both(s, y, x, q, True, False, perm, nodes, **({} if center is None else {"before": center}))


def turn_backward(s: Space, grad_y, x, q, center, inverse, nodes, grad_x, grad_q, grad_center) -> None:
    if grad_x.numel():
        both(s, grad_x, grad_y, q, False, True, inverse, nodes, total=True)
    if not grad_q.numel() and not grad_center.numel():
        return
    found = grad_q if grad_q.numel() else torch.empty_like(q)
    totals = matrix_sums(s, found, x, grad_y, q, True, False, True, inverse, nodes, center)
    if grad_center.numel():
        to_center = -(q * totals[..., None, :]).sum(-1)
        grad_center.copy_(to_center.sum(1, keepdim=True) if s.centers == 1 else to_center)


def turn_back(s: Space, x, y, q, center, inverse, nodes, weights, mean: bool) -> None:
    both(
        s, x, y, q, False, True, inverse, nodes, after=center, weights=weights if mean else None, total=mean, mean=mean
    )


def turn_back_backward(
    s: Space, grad_x, y, q, center, perm, nodes, weights, mean: bool, grad_y, grad_q, grad_center, grad_weights
) -> None:
    weights = weights if mean else None
    if grad_y.numel():
        both(s, grad_y, grad_x, q, True, not mean, perm, nodes, weights=weights, mean=mean)
    if not grad_q.numel() and not grad_center.numel() and not grad_weights.numel():
        return
    found = torch.empty_like(q)
    totals = matrix_sums(s, found, y, grad_x, q, False, True, not mean, perm, nodes)
    w = (weights if weights is not None else q.new_full(q.shape[:2], 1 / s.k if mean else 1))[..., None]
    if grad_q.numel():
        torch.mul(found, w[..., None], out=grad_q)
    if grad_center.numel():
        to_center = totals * w
        grad_center.copy_(to_center.sum(1, keepdim=True) if s.centers == 1 else to_center)
    if grad_weights.numel():
        along = (found * q).sum((-1, -2)) / s.order
        grad_weights.copy_(along if center is None else along + (totals * center).sum(-1))
