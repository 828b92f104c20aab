"""What the launchers share: sizes of blocks, the device that a launch goes to, and the dtype that is computed in."""

from __future__ import annotations

import contextlib

import torch
import triton.language as tl
from torch import Tensor

# The grid's first axis holds 2^31 - 1 programs, the others 65,535: kernels use the first alone and unfold it.
MAX_PROGRAMS = 2**31 - 1
# Contraction of a * b + c to one rounding, said explicitly because Triton's default changes between versions.
OPTIONS = {"enable_fp_fusion": True}
_HERE = contextlib.nullcontext()


def power_of_two(n: int, least: int = 1) -> int:
    """The size of a block that holds n elements. Not by Triton's function, which takes ten times as long."""
    return max(1 << (max(n, 1) - 1).bit_length(), least)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def on(x: Tensor) -> contextlib.AbstractContextManager:
    """Make the device of x the current one; Triton launches on that device's current stream."""
    if not x.is_cuda or x.get_device() == torch._C._cuda_getDevice():
        return _HERE
    return torch.cuda.device_of(x)


def compute(dtype: torch.dtype) -> tuple[torch.dtype, tl.dtype]:
    """The dtype in which features or scores of `dtype` are computed, for PyTorch and for Triton."""
    return (torch.float64, tl.float64) if dtype == torch.float64 else (torch.float32, tl.float32)


def dense(x: Tensor | None) -> Tensor | None:
    """x as kernels read it: contiguous."""
    return None if x is None else x.contiguous()


def mean_of_none(x: Tensor, weights: Tensor | None) -> Tensor:
    """x, the mean over no samples, as the reference has it: 0 / 0, or with weights a sum of nothing."""
    return x.fill_(float("nan") if weights is None else 0)


def check_gradient(what: str, grad: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """What else would be read beyond its end: a gradient that is not one of the output."""
    if grad is not None and (grad.shape != shape or grad.dtype != dtype):
        raise ValueError(
            f"{what}: expected a gradient {tuple(shape)} in {dtype}, got {tuple(grad.shape)} in {grad.dtype}"
        )


def check_nodes(what: str, num_nodes: Tensor | None, b: int) -> None:
    """Counts that a kernel would read beyond their end, or as halves of others."""
    if num_nodes is not None and (num_nodes.shape != (b,) or num_nodes.dtype != torch.int64):
        raise ValueError(f"{what}: expected num_nodes (b,) int64, got {tuple(num_nodes.shape)} {num_nodes.dtype}")


def programs(count: int, what: str) -> tuple[int]:
    """A grid of `count` programs."""
    if count > MAX_PROGRAMS:
        raise ValueError(
            f"{what}: expected work for at most {MAX_PROGRAMS} programs of the triton backend, got {count}"
        )
    return (count,)


def nothing(like: Tensor) -> Tensor:
    """What stands for a gradient that is not needed."""
    return like.new_empty(0)
