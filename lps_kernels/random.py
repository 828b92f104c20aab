"""Counter-based random bits: Philox4x32-10 in PyTorch, the definition that every kernel repeats bit for bit.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF

# The last counter word tells the uses of one seed apart.
STREAM_PERMUTATION, STREAM_TIES, STREAM_NORMAL, STREAM_ROTATION = 0, 1, 2, 3


def new_seed(generator: torch.Generator | None = None, device: torch.device | str | None = None) -> Tensor:
    """Draw a seed, an int64 tensor of shape (1,), from PyTorch's generator on `device`.

    The seed stays on the device, so CUDA graphs, torch.compile and activation checkpointing replay the same draw.

    >>> _ = torch.manual_seed(0); a = new_seed(); _ = torch.manual_seed(0)
    >>> assert torch.equal(a, new_seed())
    """
    if not isinstance(generator, (torch.Generator, type(None))):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
    if generator is not None and device is not None and torch.device(device).type != generator.device.type:
        raise ValueError(f"generator: expected one on {device}, got one on {generator.device}")
    return torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator, device=device)


def _multiply(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * m for 32-bit values held in int64, which a whole product would overflow."""
    low, high = (a & 0xFFFF) * m, (a >> 16) * m  # each below 2^48
    middle = high + (low >> 16)
    return middle >> 16, ((middle << 16) | (low & 0xFFFF)) & _MASK


def philox(seed: Tensor, counter: tuple[Tensor, Tensor | int, Tensor | int, int]) -> tuple[Tensor, ...]:
    """Four words of 32 random bits for each counter.

    seed: (1,) int64, its low and high halves are the key. counter: four words below 2^32 that broadcast.
    Returns four int64 tensors with values in [0, 2^32).

    >>> words = philox(torch.zeros(1, dtype=torch.int64), (torch.zeros(1, dtype=torch.int64), 0, 0, 0))
    >>> assert [hex(int(w)) for w in words] == ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    c0, c1, c2, c3 = torch.broadcast_tensors(
        *(torch.as_tensor(c, dtype=torch.int64, device=seed.device) for c in counter)
    )
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _WEYL[0]) & _MASK, (key1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def row_words(seed: Tensor, rows: int, n: int, stream: int) -> Tensor:
    """(rows, n) random words: element i of a row is word i % 4 of counter (i / 4, row).

    A row's words depend on its number alone, not on the padded length n.
    """
    index = torch.arange(n, device=seed.device)
    row = torch.arange(rows, device=seed.device)[:, None]
    # Four times the words that are needed: a number of counters, n / 4 rounded up, would tie torch.export to some n.
    words = torch.stack(philox(seed, (index // 4, row & _MASK, row >> 32, stream)), dim=-1)
    return words.gather(-1, (index % 4).expand(rows, n)[..., None]).squeeze(-1)


def uniforms(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in (0, 1), float32 or float64, with as many bits of the words as are exact after adding a half."""
    bits = 23 if dtype == torch.float32 else 32
    return ((words >> (32 - bits)).to(dtype) + 0.5) * 2.0**-bits


def on_circle(turn: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of a part of a turn in (0, 1), reduced to an eighth so that every backend agrees to rounding."""
    quarters = turn * 4
    quadrant = (quarters + 0.5).floor()
    angle = (quarters - quadrant) * (math.pi / 2)
    sine, cosine = angle.sin(), angle.cos()
    odd, left, below = quadrant % 2 == 1, (quadrant == 1) | (quadrant == 2), (quadrant == 2) | (quadrant == 3)
    x, y = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    return torch.where(left, -x, x), torch.where(below, -y, y)


def normals(seed: Tensor, rows: int, n: int, dtype: torch.dtype) -> Tensor:
    """(rows, n) standard normal numbers, float32 or float64, by Box and Muller's method.

    Words 2i and 2i + 1 of a row give elements 2i and 2i + 1.
    """
    words = row_words(seed, rows, n + n % 2, STREAM_NORMAL).reshape(rows, (n + 1) // 2, 2)
    uniform = uniforms(words, dtype)
    radius = (-2 * uniform[..., 0].log()).sqrt()
    x, y = on_circle(uniform[..., 1])
    return torch.stack((radius * x, radius * y), -1).reshape(rows, n + n % 2)[:, :n]
