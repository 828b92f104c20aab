"""Sums over what programs of one launch found each for itself: a second launch, in a fixed order, without atomics."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.launch import OPTIONS, cdiv, programs

_BLOCK = 256


@entry(do_not_specialize=["parts", "count"])
def sum_parts_kernel(xs, outs, parts, inner, count: tl.int64, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first = at // inner * parts * inner + at % inner
    for i in tl.static_range(len(xs)):
        total = tl.zeros((BLOCK,), outs[i].dtype.element_ty)
        for part in range(parts):
            total += tl.load(xs[i] + first + part * inner, mask=at < count, other=0)
        tl.store(outs[i] + at, total, mask=at < count)


def sum_parts(xs: tuple[Tensor, ...], axis: int) -> tuple[Tensor, ...]:
    """The sums over one axis of contiguous tensors of one shape, with their device the current one."""
    shape = xs[0].shape
    outs = tuple(x.new_empty(*shape[:axis], *shape[axis + 1 :]) for x in xs)
    count, inner = outs[0].numel(), shape[axis + 1 :].numel()
    sum_parts_kernel[programs(cdiv(count, _BLOCK), "sum_parts")](
        xs, outs, shape[axis], inner, count, _BLOCK, num_warps=4, **OPTIONS
    )
    return outs
