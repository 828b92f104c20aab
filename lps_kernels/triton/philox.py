"""Random bits and normal numbers inside kernels, equal to lps_kernels/random.py."""

import triton
import triton.language as tl

# The last counter word tells the uses of one seed apart.
STREAM_PERMUTATION = tl.constexpr(0)
STREAM_TIES = tl.constexpr(1)
STREAM_NORMAL = tl.constexpr(2)
STREAM_ROTATION = tl.constexpr(3)


@triton.jit
def philox(seed, index, row, stream: tl.constexpr):
    """Four words of 32 random bits for counter (index, row, stream): seed and row int64, index int32."""
    key = seed.to(tl.uint64)
    c0, row = tl.broadcast(index.to(tl.uint32), row.to(tl.uint64))
    c1, c2 = row.to(tl.uint32), (row >> 32).to(tl.uint32)
    c3 = tl.full(c0.shape, stream, tl.uint32)
    return tl.philox_impl(c0, c1, c2, c3, key.to(tl.uint32), (key >> 32).to(tl.uint32))


@triton.jit
def word(seed, element, row, stream: tl.constexpr):
    """Word `element` (int32) of a row, for rows of one word an element."""
    a, b, c, d = philox(seed, element // 4, row, stream)
    which = element % 4
    return tl.where(which < 2, tl.where(which == 0, a, b), tl.where(which == 2, c, d))


@triton.jit
def words(seed, pair, row, stream: tl.constexpr):
    """Words 2 pair and 2 pair + 1 of a row, pair int32."""
    a, b, c, d = philox(seed, pair // 2, row, stream)
    low = pair % 2 == 0
    return tl.where(low, a, c), tl.where(low, b, d)


@triton.jit
def _sine_cosine(angle, DTYPE: tl.constexpr):
    """Of angles in [-pi / 4, pi / 4]: Taylor series to below half an ulp."""
    TERMS: tl.constexpr = 9 if DTYPE == tl.float64 else 5
    x2 = angle * angle
    s, c = tl.full(angle.shape, 1.0, DTYPE), tl.full(angle.shape, 1.0, DTYPE)
    for i in tl.static_range(2 * TERMS, 0, -2):
        s = 1.0 - s * x2 * (1.0 / (i * (i + 1)))
        c = 1.0 - c * x2 * (1.0 / (i * (i - 1)))
    return s * angle, c


@triton.jit
def uniform(word, DTYPE: tl.constexpr):
    """In (0, 1), with as many bits of a word as are exact after adding a half."""
    SHIFT: tl.constexpr = 0 if DTYPE == tl.float64 else 9
    UNIT: tl.constexpr = 2.0**-32 if DTYPE == tl.float64 else 2.0**-23
    return ((word >> SHIFT).to(DTYPE) + 0.5) * UNIT


@triton.jit
def on_circle(turn, DTYPE: tl.constexpr):
    """Cosine and sine of a part of a turn in (0, 1)."""
    quarters = turn * 4
    quadrant = tl.floor(quarters + 0.5)
    sine, cosine = _sine_cosine((quarters - quadrant) * 1.5707963267948966, DTYPE)
    odd, left = (quadrant == 1) | (quadrant == 3), (quadrant == 1) | (quadrant == 2)
    below = (quadrant == 2) | (quadrant == 3)
    x, y = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    return tl.where(left, -x, x), tl.where(below, -y, y)


@triton.jit
def root(x):
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def normals(seed, pair, row, DTYPE: tl.constexpr):
    """Elements 2 pair and 2 pair + 1 of a row of standard normal numbers, by Box and Muller's method."""
    first, second = words(seed, pair, row, STREAM_NORMAL)
    radius = root(-2.0 * tl.log(uniform(first, DTYPE)))
    x, y = on_circle(uniform(second, DTYPE), DTYPE)
    return radius * x, radius * y
