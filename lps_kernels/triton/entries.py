"""Rows of a few numbers each, in registers: one row a lane, one tensor an entry.

Global memory is read and written in runs of neighbouring addresses, so that each sector moves once; a gather through
shared memory turns a run into entries and back.
"""

import triton
import triton.language as tl


@triton.jit
def unpack(tile, COUNT: tl.constexpr):
    """The COUNT equal parts of a 1-d tensor. Parts that are a multiple of the threads stay in their registers."""
    if COUNT == 1:
        return (tile,)
    else:
        low, high = tl.split(tl.permute(tl.reshape(tile, (2, tile.shape[0] // 2)), (1, 0)))
        return unpack(low, COUNT // 2) + unpack(high, COUNT // 2)


@triton.jit
def pack(parts, COUNT: tl.constexpr):
    """The parts, one behind the other."""
    if COUNT == 1:
        return parts[0]
    else:
        low, high = pack(parts[: COUNT // 2], COUNT // 2), pack(parts[COUNT // 2 :], COUNT // 2)
        return tl.reshape(tl.permute(tl.join(low, high), (1, 0)), (2 * low.shape[0],))


@triton.jit
def skew_of(at, SKEW: tl.constexpr):
    """How many numbers `at` is behind a sector's start, so that a warp's 128 bytes are four sectors and not five."""
    if SKEW:
        size: tl.constexpr = at.dtype.element_ty.primitive_bitwidth // 8
        return (at.to(tl.int64) // size % (32 // size)).to(tl.int32)
    else:
        return 0


@triton.jit
def load_rows(
    at, rows, c, COUNT: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, SKEW: tl.constexpr = False
):  # fmt: skip
    """Entries of `rows` rows of c x COUNT numbers from `at` on: (LANES,) tensors, zero beyond; lanes are (row, c).

    SKEW: rows may begin within a sector; a padded tile has room to begin where the sector does.
    """
    run, skew = tl.arange(0, LANES * PADDED), skew_of(at, SKEW)
    here = (run >= skew) & (run < rows * (c * COUNT) + skew)
    # A hint of contiguity 1: else each thread would take four numbers, one at a time, as the mask has no alignment. On
    # the pointers, because an offset of zero folds and takes a hint of its own with it.
    flat = tl.load(tl.max_contiguous(at + (run - skew), 1), mask=here, other=0)
    lane, entry = run % LANES, run // LANES
    source = lane // c * (c * COUNT) + entry * c + lane % c + skew
    held = (entry < COUNT) & (lane < rows * c)
    return unpack(tl.where(held, tl.gather(flat, tl.where(held, source, 0), 0), 0), PADDED)


@triton.jit
def store_rows(
    at, entries, rows, c, COUNT: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, SKEW: tl.constexpr = False
):  # fmt: skip
    """Undo `load_rows`."""
    number = tl.arange(0, LANES * PADDED) - skew_of(at, SKEW)
    written = (number >= 0) & (number < rows * (c * COUNT))
    row, within = number // (c * COUNT), number % (c * COUNT)
    source = within // c * LANES + row * c + within % c
    flat = tl.gather(pack(pad(entries, COUNT, PADDED), PADDED), tl.where(written, source, 0), 0)
    tl.store(tl.max_contiguous(at + number, 1), flat.to(at.dtype.element_ty), mask=written)


@triton.jit
def pad(entries, COUNT: tl.constexpr, PADDED: tl.constexpr):
    padded = entries[:COUNT]
    for _ in tl.static_range(PADDED - COUNT):
        padded = padded + (entries[0],)
    return padded


@triton.jit
def divide(a, b):
    """a / b, rounded correctly; a plain float32 division is off by two units in the last place."""
    if b.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def root(x):
    """The square root, rounded correctly."""
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)
