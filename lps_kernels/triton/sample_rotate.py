"""sample_rotate: matrices, the centroid and the turned points, in one launch up to d = 4.

Two where a graph has more than a program's points and channels: 1,024, because their centroid is a sum over all of
them; and backward 256, because the gradients of matrices and centroid are sums over blocks of nodes, which are
programs. Larger matrices take a program each: sample_rotate_large.py.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.centroid import centroid
from lps_kernels.triton.entries import load_rows, store_rows
from lps_kernels.triton.entry import entry
from lps_kernels.triton.gram_schmidt import constants, to_columns, to_entries
from lps_kernels.triton.launch import (
    OPTIONS,
    cdiv,
    check_gradient,
    check_nodes,
    compute,
    dense,
    nothing,
    on,
    power_of_two,
    programs,
)
from lps_kernels.triton.orthonormalize import orthonormalize
from lps_kernels.triton.random_orthogonal import haar_entries
from lps_kernels.triton.rotate_gradients import rotate_gradients
from lps_kernels.triton.rotations import apply_matrix, lanes_of, load_vectors, nodes_of, shifted, store_vectors
from lps_kernels.triton.sample_rotate_gradients import sample_rotate_gradients
from lps_kernels.triton.sample_rotate_large import large_backward, large_forward
from lps_kernels.triton.space import SAMPLES, SMALL, Space, space_of

WHOLE = 1024  # points and channels of a graph that a program holds, four a thread in up to eight warps
# Where d = 3. Told nothing, ptxas takes 96 and spills 8 bytes.
_REGISTERS = {} if torch.version.hip else {torch.float64: {"maxnreg": 104}}


@triton.jit
def draw(v, seed, first, rows, dtype: tl.constexpr, D: tl.constexpr, SPECIAL: tl.constexpr, DEPENDENCE: tl.constexpr,
         TINIEST: tl.constexpr, SQUARE: tl.constexpr, SAMPLES: tl.constexpr):  # fmt: skip
    """Entries of matrices `first` and on, one a lane, and flags of their columns; Haar-distributed without v."""
    if v is None:
        entries = haar_entries(tl.load(seed), first + tl.arange(0, SAMPLES), dtype, D, 1, SPECIAL, DEPENDENCE, TINIEST)
        flags = (tl.zeros((SAMPLES,), tl.int1),) * D
    else:
        entries = load_rows(v + first * (D * D), rows, 1, D * D, SQUARE, SAMPLES)
        columns, flags = orthonormalize(to_columns(entries, dtype, D, D, 1), D, D, 1, SPECIAL, DEPENDENCE, TINIEST)
        entries = to_entries(columns, D, D, 1)
    return entries, flags


@entry(do_not_specialize=["n", "k", "blocks", "chunks"])
def sample_rotate_kernel(
    y, q, degenerate, center, v, seed, x, num_nodes, n, k, c, blocks, chunks,
    WHOLE: tl.constexpr, SPECIAL: tl.constexpr, DEPENDENCE: tl.constexpr, TINIEST: tl.constexpr, D: tl.constexpr,
    ORDER: tl.constexpr, LANES: tl.constexpr, PADDED: tl.constexpr, DIRECT: tl.constexpr, THREADS: tl.constexpr,
    SKEW: tl.constexpr, SQUARE: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """A block of nodes turned for some samples. WHOLE: the block is the graph, whose centroid is found here."""
    dtype: tl.constexpr = q.dtype.element_ty
    block, item = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    chunk, b = item % chunks, (item // chunks).to(tl.int64)
    first, local = b * k + chunk * SAMPLES, tl.arange(0, SAMPLES)
    rows = tl.minimum(k - chunk * SAMPLES, SAMPLES)
    entries, flags = draw(v, seed, first, rows, dtype, D, SPECIAL, DEPENDENCE, TINIEST, SQUARE, SAMPLES)
    if block == 0:
        store_rows(q + first * (D * D), entries, rows, 1, D * D, SQUARE, SAMPLES)
        for i in tl.static_range(D):
            tl.store(degenerate + (first + local) * D + i, flags[i].to(tl.int8), mask=local < rows)
    lane, per, node, channel = lanes_of(block, c, LANES, DIRECT)
    count, size = nodes_of(num_nodes, b, n), n.to(tl.int64) * c * D
    u = load_vectors(x + b * size, lane, per, node, channel, count, c, dtype, D, PADDED, LANES, DIRECT, SKEW)
    if WHOLE:
        moved = ()
        for e in tl.static_range(D):
            middle = tl.sum(u[e], 0) / tl.maximum(count * c, 1).to(dtype)
            moved = moved + (tl.where(node < count, u[e] - middle, 0),)
            if chunk == 0:
                tl.store(center + b * D + e, middle)
        u = moved
    elif center is not None:
        u = shifted(u, center + b * D, node < count, D, -1.0, LANES, THREADS)
    for sample in range(rows):
        m = ()
        for e in tl.static_range(D * D):
            m = m + (tl.sum(tl.where(local == sample, entries[e], 0), 0),)
        at = y + (first + sample) * size
        turned = apply_matrix(m, u, D, ORDER)
        store_vectors(at, turned, lane, per, node, channel, count, n, c, D, PADDED, LANES, DIRECT, SKEW)


def check(v: Tensor | None, x: Tensor, num_nodes: Tensor | None, k: int) -> None:
    if x.dim() != 4 or (v is not None and v.shape != (x.shape[0], k, x.shape[2], x.shape[2])):
        raise ValueError(f"sample_rotate: expected x (b, n, d, c) and v (b, k, d, d), got {tuple(x.shape)}")
    check_nodes("sample_rotate", num_nodes, x.shape[0])


def sample_rotate(
    v: Tensor | None, seed: Tensor, x: Tensor, num_nodes: Tensor | None, k: int, special: bool, centered: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check(v, x, num_nodes, k)
    v, x, num_nodes = dense(v), dense(x), dense(num_nodes)
    b, n, d, c = x.shape
    dtype = compute(x.dtype)[0]
    if d > SMALL or not x.numel() or not k:
        return large_forward(v, seed, x, num_nodes, k, special, centered)
    q, degenerate = x.new_empty(b, k, d, d, dtype=dtype), x.new_empty(b, k, d, dtype=torch.bool)
    center, y = x.new_empty(b, int(centered), d, dtype=dtype), x.new_empty(b, k, n, d, c)
    blocks, shape = _shape(n, d, c, x.element_size(), dtype, centered)
    chunks = cdiv(k, SAMPLES)
    with on(x):
        if centered and not shape["WHOLE"]:
            centroid(x, num_nodes, center)
        sample_rotate_kernel[programs(b * chunks * blocks, "sample_rotate")](
            y, q, degenerate.view(torch.int8), center if centered else None, v, seed, x, num_nodes, n, k, c, blocks,
            chunks, SPECIAL=special, **shape,
        )  # fmt: skip
    return q, degenerate, center, y


@functools.lru_cache(maxsize=1024)
def _shape(n: int, d: int, c: int, itemsize: int, dtype: torch.dtype, centered: bool) -> tuple[int, dict]:
    """Blocks of a graph, and constants of the kernel and its launch."""
    s, whole = Space(1, 1, n, d, c, 1, 0), centered and n * c <= WHOLE
    lanes = s.lanes(itemsize)
    if whole:
        warps = max(power_of_two(n * c) // 128, lanes["num_warps"])
        lanes = {**lanes, "LANES": power_of_two(n * c, 32 * warps), "THREADS": 32 * warps, "num_warps": warps}
    if d == 3:
        lanes = {**lanes, **_REGISTERS.get(dtype, {})}
    shape = {"WHOLE": whole, "SQUARE": power_of_two(d * d), "SAMPLES": SAMPLES, **constants(dtype, d), **lanes}
    return 1 if whole else s.blocks(), {**shape, **OPTIONS}


def sample_rotate_backward(
    grad_q: Tensor | None,
    grad_degenerate: Tensor | None,
    grad_center: Tensor | None,
    grad_x_k: Tensor | None,
    v: Tensor | None,
    seed: Tensor,
    x: Tensor,
    num_nodes: Tensor | None,
    k: int,
    special: bool,
    centered: bool,
    saved_q: Tensor,
    saved_degenerate: Tensor,
    saved_center: Tensor,
    needs: int,
) -> tuple[Tensor, Tensor]:
    check(v, x, num_nodes, k)
    v, x, num_nodes, q, flags = map(dense, (v, x, num_nodes, saved_q, saved_degenerate))
    grad_q, grad_center, grad_x_k = map(dense, (grad_q, grad_center, grad_x_k))
    center = dense(saved_center) if centered else None
    need_v, need_x = v is not None and bool(needs & 1), bool(needs & 2)
    s = space_of("sample_rotate_backward", x, q, center, num_nodes, 1, False)
    check_gradient("sample_rotate_backward", grad_q, q.shape, q.dtype)
    check_gradient("sample_rotate_backward", grad_center, saved_center.shape, q.dtype)
    check_gradient("sample_rotate_backward", grad_x_k, s.shape(True), x.dtype)
    if s.d > SMALL or not q.numel() or not x.numel():
        return large_backward(
            grad_q, grad_center if centered else None, grad_x_k, v, x, num_nodes, special, center, q, flags, need_v,
            need_x,
        )  # fmt: skip
    through, new = need_x and centered, torch.zeros_like if grad_x_k is None else torch.empty_like
    grad_v, grad_x = torch.empty_like(v) if need_v else nothing(x), new(x) if need_x else nothing(x)
    with on(x):
        if not (need_v or through):
            if need_x and grad_x_k is not None:
                rotate_gradients(s, (grad_x, None, None), grad_x_k, x, None, q, center, num_nodes)
        else:
            sample_rotate_gradients(
                s, grad_v if need_v else None, grad_x if need_x else None, through, grad_q,
                grad_center if through else None, grad_x_k, x, v, q, center, flags.view(torch.int8), num_nodes,
            )  # fmt: skip
    return grad_v, grad_x
