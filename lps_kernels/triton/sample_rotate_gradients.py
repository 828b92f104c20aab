"""The gradient of sample_rotate: matrices' go on through Gram-Schmidt's, the centroid's to all points."""

from __future__ import annotations

import torch
import triton.language as tl

from lps_kernels.triton.centroid import add_share, tile_of
from lps_kernels.triton.entries import load_rows, store_rows, unpack
from lps_kernels.triton.entry import entry
from lps_kernels.triton.gram_schmidt import to_columns, to_entries
from lps_kernels.triton.large_gram_schmidt import OPTIONS as UNFUSED  # sums of products over threads, as there
from lps_kernels.triton.launch import OPTIONS, cdiv, power_of_two, programs
from lps_kernels.triton.orthonormalize import orthonormalize_backward
from lps_kernels.triton.rotate_gradients import backward_arguments, rotate_backward_kernel
from lps_kernels.triton.rotations import nodes_of
from lps_kernels.triton.space import Space

ROWS = 32  # samples at a time in the backward, one a lane
# Of the launch that is one, by bytes of a number, where d = 3. As many as ptxas takes by itself, spilling 8 bytes.
_REGISTERS = {} if torch.version.hip else {8: {"maxnreg": 168}}


@entry(do_not_specialize=["n", "k", "tiles", "blocks"])
def sample_rotate_backward_kernel(
    grad_v, grad_x, grad_q, grad_center, partial, v, q, degenerate, num_nodes, n, k, c, tiles, blocks,
    CENTERED: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, SQUARE: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, D2: tl.constexpr,
):  # fmt: skip
    """grad_v from gradients of matrices by blocks of nodes; each program of an input its tile of grad_x, which gets the
    centroid's share."""
    dtype: tl.constexpr = q.dtype.element_ty
    tile, b = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    a = tl.arange(0, D2)
    to_center = tl.zeros((D2,), dtype)
    if grad_center is not None:
        to_center = tl.load(grad_center + b * D + a, mask=a < D, other=0)
    for start in range(0, k, ROWS):
        first, rows = b * k + start, tl.minimum(k - start, ROWS)
        basis = load_rows(q + first * (D * D), rows, 1, D * D, SQUARE, ROWS)
        total = tl.zeros((ROWS, WIDTH), dtype)
        if partial is not None:
            row, entry = tl.arange(0, ROWS), tl.arange(0, WIDTH)
            for block in range(blocks):
                at = partial + ((first + row) * blocks + block)[:, None] * WIDTH + entry[None, :]
                total += tl.load(at, mask=(row < rows)[:, None], other=0)
        sums = unpack(tl.reshape(tl.trans(total), (WIDTH * ROWS,)), WIDTH)
        if CENTERED and partial is not None:
            for e in tl.static_range(D):
                along = tl.zeros((ROWS,), dtype)
                for f in tl.static_range(D):
                    along += basis[e * D + f] * sums[D * D + f]
                to_center -= tl.where(a == e, tl.sum(along, 0), 0)
        if grad_v is not None and tile == 0:
            g = sums
            if grad_q is not None:
                more, g = load_rows(grad_q + first * (D * D), rows, 1, D * D, SQUARE, ROWS), ()
                for e in tl.static_range(D * D):
                    g = g + (sums[e] + more[e],)
            raw = load_rows(v + first * (D * D), rows, 1, D * D, SQUARE, ROWS)
            flags = load_rows(degenerate + first * D, rows, 1, D, PADDED, ROWS)
            g = orthonormalize_backward(
                to_columns(basis, dtype, D, D, 1), to_columns(raw, dtype, D, D, 1), flags,
                to_columns(g, dtype, D, D, 1), D, D, 1,
            )  # fmt: skip
            store_rows(grad_v + first * (D * D), to_entries(g, D, D, 1), rows, 1, D * D, SQUARE, ROWS)
    if CENTERED:
        add_share(grad_x, to_center, tile.to(tl.int64), b, nodes_of(num_nodes, b, n), n, D, c, LANES, D2)


@entry(do_not_specialize=["n", "k"])
def whole_sample_rotate_backward_kernel(
    grad_v, grad_x, grad_q, grad_center, partial, grad_y, x, v, q, center, degenerate, num_nodes, n, k, c,
    CENTERED: tl.constexpr, D: tl.constexpr, ORDER: tl.constexpr, LANES: tl.constexpr, PADDED: tl.constexpr,
    DIRECT: tl.constexpr, THREADS: tl.constexpr, SKEW: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr,
    R: tl.constexpr, SQUARE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, D2: tl.constexpr,
):  # fmt: skip
    """Both launches of the backward in one, where a graph is one block of nodes and one tile of grad_x."""
    rotate_backward_kernel(
        grad_x, partial, grad_y, x, q, center, None, None, num_nodes, n, k, c, 1, 1, 1, D, ORDER, LANES, PADDED, DIRECT,
        THREADS, SKEW, SHARED, WIDTH, R,
    )  # fmt: skip
    tl.debug_barrier()
    sample_rotate_backward_kernel(
        grad_v, grad_x, grad_q, grad_center, partial, v, q, degenerate, num_nodes, n, k, c, 1, 1, CENTERED, D, PADDED,
        SQUARE, WIDTH, ROWS, TILE, D2,
    )  # fmt: skip


def sample_rotate_gradients(
    s: Space, grad_v, grad_x, through, grad_q, grad_center, grad_y, x, v, q, center, flags, num_nodes
) -> None:
    """through: the centroid's share goes to grad_x."""
    tile, constants = tile_of(s.d), {"CENTERED": through, "SQUARE": power_of_two(s.d**2), "ROWS": ROWS}
    tiles = cdiv(s.n * s.c, tile["LANES"]) if through else 1
    blocks, partial, width = 0, None, power_of_two(s.d**2)
    if grad_y is not None:
        blocks, arguments, lanes = backward_arguments(s, grad_y, x, None, q, center, num_nodes, True, through)
        partial, width = arguments[0], lanes["WIDTH"]
        if blocks == tiles == 1:
            registers = _REGISTERS.get(x.element_size(), {}) if s.d == 3 else {}
            whole_sample_rotate_backward_kernel[programs(s.b, "sample_rotate_backward")](
                grad_v, grad_x, grad_q, grad_center, partial, grad_y, x, v, q, center, flags, num_nodes, s.n,
                s.k, s.c, **constants, **lanes, TILE=tile["LANES"], D2=tile["D2"], **UNFUSED,
                **registers,
            )  # fmt: skip
            return
        rotate_backward_kernel[programs(s.b * blocks, "sample_rotate_backward")](
            grad_x, *arguments, blocks, 1, **lanes, **OPTIONS
        )
    sample_rotate_backward_kernel[programs(s.b * tiles, "sample_rotate_backward")](
        grad_v, grad_x, grad_q, grad_center, partial, v, q, flags, num_nodes, s.n, s.k, s.c, tiles, blocks, D=s.d,
        PADDED=power_of_two(s.d), WIDTH=width, **constants, **tile, **UNFUSED,
    )  # fmt: skip
