"""Inverses of permutations: the rank of each node, for kernels that hold neither a graph nor a line of its edges.

Those that do sort in registers, see sort.py, which asks memory for nothing. Here a program that goes back to node order
writes the ranks of its samples to memory of its own and reads them for each of its tiles: numbers go to any place of a
few sectors, which a cache holds. A sort would take eight times as many instructions: 1,936 against 228 for 188 nodes in
four warps. Where a graph's rows are long and narrow, and many programs would have to invert the whole of them, a launch
of its own does it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.launch import OPTIONS, cdiv, on, power_of_two, programs
from lps_kernels.triton.moves import node, positions
from lps_kernels.triton.sort import MAX_NODES, inverse

_TILE = 1024  # ranks a program where rows are too long to sort
_BUSY = 264  # programs that fill the largest device twice; there are no more where each inverts the same rows
_WARPS = {32: 1, 64: 1, 128: 1, 256: 1, 512: 2, 1024: 4, 2048: 8, 4096: 16}  # eight ranks a thread


@triton.jit
def inverses_here(perm, inverses, first, rows, n, most, BLOCK: tl.constexpr):
    """Where the inverses of `rows` rows of n begin. Of rows `first` and on of perm, this program writes them for itself
    behind those of the programs before it, `most` rows each; without perm they are there."""
    if perm is None:
        return inverses + first * n
    else:
        inv = inverses + tl.program_id(0).to(tl.int64) * (most * n)
        for start in range(0, rows * n, BLOCK):
            at = start + tl.arange(0, BLOCK)
            row, here = at // n * n, at < rows * n
            rank = (at - row).to(inv.dtype.element_ty)
            tl.store(inv + (row + node(perm + first * n, at, n, here)), rank, mask=here)
        tl.debug_barrier()
        return inv


def share(perm: Tensor, graphs: int, items: int, node_bytes: int, rows: int) -> tuple[int, Tensor | None, Tensor]:
    """Programs for each of `graphs`, which share `items` of work; and what `inverses_here` takes for `rows` rows each.

    node_bytes of a node are moved for each of its ranks: 32 bytes are about what inverting takes of a cache.
    """
    wanted, limit = min(items, cdiv(_BUSY, graphs)), max(node_bytes // 32, 1)
    if wanted > 4 * limit:
        return items, None, inverse_of(perm)
    groups = max(min(wanted, limit), 1)
    small = torch.int16 if perm.shape[2] < 2**15 else torch.int32
    return groups, perm, torch.empty(graphs * groups * rows * perm.shape[2], dtype=small, device=perm.device)


@entry(do_not_specialize=["n"])
def inverse_kernel(perm, inv, n, BLOCK: tl.constexpr):
    """A row a program, by a sort: numbers written where they belong would ask for a sector each."""
    at, i = tl.program_id(0).to(tl.int64) * n, tl.arange(0, BLOCK)
    order = tl.where(i < n, node(perm + at, i, n, i < n), i)
    tl.store(inv + at + i, inverse(order, BLOCK), mask=i < n)


@entry(do_not_specialize=["n", "count"])
def long_inverse_kernel(perm, inv, n, count: tl.int64, P: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * P
    row, rank = positions(first, n, P)
    mask = first + tl.arange(0, P) < count
    tl.store(inv + row * n + node(perm, row * n + rank, n, mask), rank, mask=mask)


def inverse_of(perm: Tensor) -> Tensor:
    """The inverses of permutations (b, k, n), (b, k, n) int32, by a launch."""
    count, (b, k, n) = perm.numel(), perm.shape
    if n <= MAX_NODES:
        inv = torch.empty_like(perm, dtype=torch.int32)
        block = power_of_two(n, 32)
        if count:
            with on(perm):
                inverse_kernel[programs(b * k, "permute")](perm, inv, n, block, num_warps=_WARPS[block], **OPTIONS)
        return inv
    inv = torch.zeros_like(perm, dtype=torch.int32)  # whole for a bijection alone
    if count:
        with on(perm):
            long_inverse_kernel[programs(-(-count // _TILE), "permute")](
                perm, inv, n, count, _TILE, num_warps=4, **OPTIONS
            )
    return inv
