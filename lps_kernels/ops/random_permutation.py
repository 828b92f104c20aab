"""random_permutation: uniform permutations of the first num_nodes entries."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.op import op
from lps_kernels.ops.rows import valid_nodes
from lps_kernels.random import STREAM_PERMUTATION, STREAM_TIES, row_words


@op(outputs=("perm",))
def random_permutation(seed: Tensor, num_nodes: Tensor | None, b: int, k: int, n: int) -> Tensor:
    """Uniform permutations, (b, k, n) int64: a sort of random 63-bit keys.

    seed: (1,) int64. num_nodes: (b,) int64, how many leading entries are permuted, or None for all.
    The low bits of a key are replaced by the element's index, so that no two are equal; at n = 4096 this leaves 51
    random bits, and two of a row's elements share them with a probability below 4e-9.
    """
    high, low = (row_words(seed, b * k, n, stream) for stream in (STREAM_PERMUTATION, STREAM_TIES))
    index = torch.arange(n, device=seed.device)
    index_mask = torch.full((), max(n - 1, 0), device=seed.device)
    for shift in (1, 2, 4, 8, 16):  # all bits below its highest
        index_mask = index_mask | index_mask >> shift
    keys = ((high & 0x7FFFFFFF) << 32) | low
    keys = torch.where(valid_nodes(num_nodes, n, seed.device), keys.reshape(b, k, n), 2**63 - 1)
    return ((keys & ~index_mask) | index).sort(dim=-1).values & index_mask
