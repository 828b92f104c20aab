"""Gram-Schmidt of small matrices in registers, one matrix a lane, and its derivative: as csrc/core/gram_schmidt.h.

A vector is a tuple of its entries, each a tensor over lanes. A complex vector of d entries is a real one of 2 d: with
J w for i times w, the projection on w is that on the two real vectors w and J w. So `basis` holds PARTS vectors a
column, and what is written for real numbers serves complex ones.
"""

import triton
import triton.language as tl

from lps_kernels.triton.entries import divide, root

COMPLETION = tl.constexpr(0.4)  # lps_kernels/ops/gram_schmidt.py says why


@triton.jit
def inner(a, b, SIZE: tl.constexpr):
    total = a[0] * b[0]
    for i in tl.static_range(1, SIZE):
        total += a[i] * b[i]
    return total


@triton.jit
def subtract(a, by, b, SIZE: tl.constexpr):
    """a - by b"""
    result = ()
    for i in tl.static_range(SIZE):
        result = result + (a[i] - by * b[i],)
    return result


@triton.jit
def scale(a, by, SIZE: tl.constexpr):
    result = ()
    for i in tl.static_range(SIZE):
        result = result + (a[i] * by,)
    return result


@triton.jit
def select(mask, a, b, SIZE: tl.constexpr):
    result = ()
    for i in tl.static_range(SIZE):
        result = result + (tl.where(mask, a[i], b[i]),)
    return result


@triton.jit
def turn(a, SIZE: tl.constexpr):
    """J a: a times the imaginary unit."""
    result = ()
    for i in tl.static_range(0, SIZE, 2):
        result = result + (-a[i + 1], a[i])
    return result


@triton.jit
def zeros(a, SIZE: tl.constexpr):
    result = ()
    for _ in tl.static_range(SIZE):
        result = result + (tl.zeros_like(a[0]),)
    return result


@triton.jit
def largest(a, SIZE: tl.constexpr):
    size = tl.abs(a[0])
    for i in tl.static_range(1, SIZE):
        size = tl.maximum(size, tl.abs(a[i]))
    return size


@triton.jit
def coefficients(basis, u, COUNT: tl.constexpr, SIZE: tl.constexpr):
    result = ()
    for i in tl.static_range(COUNT):
        result = result + (inner(basis[i], u, SIZE),)
    return result


@triton.jit
def project(u, basis, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """What is left of u: all inner products first."""
    h = coefficients(basis, u, COUNT, SIZE)
    for i in tl.static_range(COUNT):
        u = subtract(u, h[i], basis[i], SIZE)
    return u


@triton.jit
def complete(basis, like, J: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr):
    """What is left of the first standard vector of which enough is left beside J columns."""
    one, zero = tl.full(like.shape, 1.0, like.dtype), tl.zeros_like(like)
    searching = one > zero
    u = ()
    for i in tl.static_range(D):
        left = one
        for j in tl.static_range(J):
            for part in tl.static_range(PARTS):
                left -= basis[j * PARTS][i * PARTS + part] * basis[j * PARTS][i * PARTS + part]
        here = searching & (left > COMPLETION * (D - J) / D)
        searching = searching & (here == 0)
        u = u + (tl.where(here, one, zero),)
        if PARTS == 2:
            u = u + (zero,)
    u = project(u, basis, J * PARTS, D * PARTS)
    return project(u, basis, J * PARTS, D * PARTS)


@triton.jit
def low_minor(q, i: tl.constexpr, j: tl.constexpr):
    return q[0][i] * q[1][j] - q[0][j] * q[1][i]


@triton.jit
def high_minor(q, i: tl.constexpr, j: tl.constexpr):
    return q[2][i] * q[3][j] - q[2][j] * q[3][i]


@triton.jit
def determinant(q, D: tl.constexpr):
    if D == 1:
        return q[0][0]
    elif D == 2:
        return low_minor(q, 0, 1)
    elif D == 3:
        return low_minor(q, 0, 1) * q[2][2] - low_minor(q, 0, 2) * q[2][1] + low_minor(q, 1, 2) * q[2][0]
    else:
        return (
            low_minor(q, 0, 1) * high_minor(q, 2, 3)
            - low_minor(q, 0, 2) * high_minor(q, 1, 3)
            + low_minor(q, 0, 3) * high_minor(q, 1, 2)
            + low_minor(q, 1, 2) * high_minor(q, 0, 3)
            - low_minor(q, 1, 3) * high_minor(q, 0, 2)
            + low_minor(q, 2, 3) * high_minor(q, 0, 1)
        )


@triton.jit
def all_finite(columns, M: tl.constexpr, SIZE: tl.constexpr):
    """Not by x - x, which is contracted to a rounding error where x is a product."""
    finite = tl.abs(columns[0][0]) < float("inf")
    for j in tl.static_range(M):
        for i in tl.static_range(SIZE):
            finite = finite & (tl.abs(columns[j][i]) < float("inf"))
    return finite


@triton.jit
def orthonormalize(
    columns,
    D: tl.constexpr,
    M: tl.constexpr,
    PARTS: tl.constexpr,
    SPECIAL: tl.constexpr,
    DEPENDENCE: tl.constexpr,
    TINIEST: tl.constexpr,
):
    """Orthonormal columns, and which of them are completed from the standard basis or belong to no finite matrix."""
    SIZE: tl.constexpr = D * PARTS
    finite = all_finite(columns, M, SIZE)
    one, zero = tl.full(finite.shape, 1.0, columns[0][0].dtype), tl.zeros_like(columns[0][0])
    basis, flags, q = (), (), ()
    for j in tl.static_range(M):
        u = ()
        for i in tl.static_range(SIZE):
            u = u + (tl.where(finite, columns[j][i], one if i == j * PARTS else zero),)
        size = largest(u, SIZE)
        nonzero = size >= TINIEST
        u = scale(u, divide(one, tl.where(nonzero, size, one)), SIZE)
        start = inner(u, u, SIZE)
        u = project(project(u, basis, j * PARTS, SIZE), basis, j * PARTS, SIZE)
        good = nonzero & (inner(u, u, SIZE) > start * DEPENDENCE)
        u = select(good, u, complete(basis, zero, j, D, PARTS), SIZE)
        u = scale(u, divide(one, root(inner(u, u, SIZE))), SIZE)
        basis = basis + (u,)
        if PARTS == 2:
            basis = basis + (turn(u, SIZE),)
        q = q + (u,)
        flags = flags + (((good & finite) == 0).to(tl.int32),)
    if SPECIAL:
        q = (scale(q[0], tl.where(determinant(q, D) < 0, -one, one), SIZE),) + q[1:]
    return q, flags


@triton.jit
def conjugate_times(by, index: tl.constexpr, p, SIZE: tl.constexpr, PARTS: tl.constexpr):
    """conj(by) p, where by is the pair of coefficients of column `index`."""
    result = scale(p, by[index * PARTS], SIZE)
    if PARTS == 2:
        result = subtract(result, by[index * PARTS + 1], turn(p, SIZE), SIZE)
    return result


@triton.jit
def orthonormalize_backward(q, columns, flags, g, D: tl.constexpr, M: tl.constexpr, PARTS: tl.constexpr):
    """The gradient of the columns from g, that of q; the formulas are in csrc/core/gram_schmidt.h."""
    SIZE: tl.constexpr = D * PARTS
    one = tl.full(q[0][0].shape, 1.0, q[0][0].dtype)
    coupled = flags[0] != 0
    basis = ()
    for j in tl.static_range(M):
        coupled = coupled | (flags[j] != 0)
        basis = basis + (q[j],)
        if PARTS == 2:
            basis = basis + (turn(q[j], SIZE),)
    result = ()
    for j in tl.static_range(M - 1, -1, -1):
        alive = flags[j] == 0
        none = zeros(q[0], SIZE)
        v, p = select(alive, columns[j], none, SIZE), select(alive, g[j], none, SIZE)
        factor = divide(one, tl.where(alive, largest(v, SIZE), one))
        v = scale(v, factor, SIZE)
        r, h = coefficients(basis, v, (j + 1) * PARTS, SIZE), coefficients(basis, p, (j + 1) * PARTS, SIZE)
        inverse = divide(one, tl.where(alive, r[j * PARTS], one))
        if j == D - 1 and PARTS == 1:
            p = none  # a last direction can't turn
        else:
            for i in tl.static_range(j * PARTS + 1):
                p = subtract(p, h[i], basis[i], SIZE)
            p = scale(p, inverse, SIZE)
        along = none
        for i in tl.static_range(j * PARTS):
            along = subtract(along, -h[i] * inverse, basis[i], SIZE)
        rest = subtract(v, r[j * PARTS], q[j], SIZE)
        below = ()
        for i in tl.static_range(j):
            g_i = subtract(g[i], one, conjugate_times(r, i, p, SIZE, PARTS), SIZE)
            g_i = subtract(g_i, one, conjugate_times(h, i, q[j], SIZE, PARTS), SIZE)
            change = subtract(
                conjugate_times(r, i, along, SIZE, PARTS), -inverse, conjugate_times(h, i, rest, SIZE, PARTS), SIZE
            )
            below = below + (select(coupled, subtract(g_i, one, change, SIZE), g_i, SIZE),)
        g = below
        result = (scale(p, factor, SIZE),) + result
    return result
