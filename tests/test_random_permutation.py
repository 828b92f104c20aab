"""Samplers are exactly uniform, the same on every backend and for every number of threads; Philox is Philox."""

import itertools
import math

import pytest
import torch

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.ops.random_permutation import random_permutation
from lps_kernels.ops.soft_sort import _soft_sort
from lps_kernels.random import STREAM_PERMUTATION, STREAM_TIES, new_seed, philox, row_words

each_backend = pytest.mark.parametrize("backend", testing.backends())


def chi_square(codes, count):
    """The statistic of how evenly codes in [0, count) fall."""
    expected = codes.numel() / count
    return float(((torch.bincount(codes.flatten(), minlength=count) - expected) ** 2 / expected).sum())


def bound(categories, z=4.75):
    """What a fair sampler exceeds once in a million (Wilson and Hilferty)."""
    free = categories - 1
    return free * (1 - 2 / (9 * free) + z * math.sqrt(2 / (9 * free))) ** 3


def codes(perm):
    """A number below n! for each permutation (..., n)."""
    n = perm.shape[-1]
    digits = sum((perm[..., i + 1 :] < perm[..., i : i + 1]).sum(-1) * math.factorial(n - 1 - i) for i in range(n))
    return digits


def seed_of(number):
    return torch.tensor([number], dtype=torch.int64)


def naive_shuffle(rows, n):
    """The well-known biased one: swap each place with any place."""
    g = torch.Generator().manual_seed(0)
    perm, at = torch.arange(n).repeat(rows, 1), torch.arange(rows)
    for i in range(n):
        j = torch.randint(n, (rows,), generator=g)
        perm[at, i], perm[at, j] = perm[at, j], perm[at, i].clone()
    return perm


def test_codes_tell_permutations_apart():
    every = torch.tensor(list(itertools.permutations(range(4))))
    assert codes(every).tolist() == list(range(24))


@each_backend
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_is_uniform(n, backend):
    testing.skip_without(random_permutation, backend)
    perm = random_permutation(seed_of(1), None, 500, 96, n, backend=backend)
    assert chi_square(codes(perm), math.factorial(n)) < bound(math.factorial(n))


@each_backend
def test_is_uniform_over_the_real_nodes(backend):
    testing.skip_without(random_permutation, backend)
    nodes = torch.full((500,), 4)
    perm = random_permutation(seed_of(2), nodes, 500, 96, 9, backend=backend)
    assert torch.equal(perm[..., 4:], torch.arange(4, 9).expand(500, 96, 5))
    assert chi_square(codes(perm[..., :4]), 24) < bound(24)


@pytest.mark.parametrize("n", [4, 5])
def test_a_biased_sampler_is_caught(n):
    assert chi_square(codes(naive_shuffle(48_000, n)), math.factorial(n)) > 4 * bound(math.factorial(n))


@each_backend
@pytest.mark.parametrize("step", [1, 96], ids=["samples", "graphs"])
def test_rows_are_independent(step, backend):
    testing.skip_without(random_permutation, backend)
    code = codes(random_permutation(seed_of(3), None, 500, 96, 3, backend=backend)).flatten()
    assert chi_square(code[:-step] * 6 + code[step:], 36) < bound(36)


@each_backend
def test_consecutive_seeds_are_independent(backend):
    testing.skip_without(random_permutation, backend)
    first, second = (codes(random_permutation(seed_of(s), None, 500, 96, 3, backend=backend)) for s in (7, 8))
    assert chi_square(first * 6 + second, 36) < bound(36)


@each_backend
def test_every_node_reaches_every_rank(backend):
    testing.skip_without(random_permutation, backend)
    n = 37
    perm = random_permutation(seed_of(4), None, 100, 100, n, backend=backend)
    assert chi_square(perm * n + torch.arange(n), n * n) < bound(n * n)


# A tie of all, of a pair among others, of two pairs; -0.0 equals 0.0.
TIES = [
    ([1.0, 1.0, 1.0, 1.0], [[0, 1, 2, 3]]),
    ([2.0, 5.0, 5.0, 1.0], [[1, 2]]),
    ([3.0, 7.0, 3.0, 7.0], [[1, 3], [0, 2]]),
    ([0.0, -0.0, 0.0, -0.0], [[0, 1, 2, 3]]),
    ([float("inf"), float("inf"), float("nan"), float("nan")], [[0, 1], [2, 3]]),
]


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("scores", "groups"), TIES)
def test_ties_are_broken_uniformly(scores, groups, dtype, backend):
    testing.skip_without(_soft_sort, backend)
    z = torch.tensor(scores, dtype=dtype).expand(250, 96, 4)
    perm = _soft_sort(z, seed_of(5), None, 0.1, 0, True, False, backend=backend)[0]
    orders = math.prod(math.factorial(len(group)) for group in groups)
    found, code = codes(perm).flatten().unique(return_inverse=True)
    assert len(found) == orders
    assert chi_square(code, orders) < bound(orders)


@each_backend
def test_same_seed_same_draw_on_every_backend(backend):
    testing.skip_without(random_permutation, backend)
    for case in testing.cases("random_permutation"):
        args = testing.arguments(random_permutation, case)
        assert torch.equal(random_permutation(*args, backend=backend), random_permutation.reference(*args))


@each_backend
@pytest.mark.parametrize("name", ["random_permutation", "soft_sort"])
def test_same_draw_for_every_number_of_threads(name, backend):
    op = testing.forward_ops()[name]
    testing.skip_without(op, backend)
    args = testing.arguments(op, testing.Case(b=40, k=5, n=90, scores="tied", n_iter=3))
    drawn = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        drawn.append(testing._outputs(op(*args, backend=backend)))
    for outs in drawn[1:]:
        assert all(testing.same(a, b) for a, b in zip(outs, drawn[0]))


@each_backend
def test_a_draw_does_not_depend_on_padding(backend):
    """The order of a row is that of its own numbers, whatever the padded length."""
    testing.skip_without(_soft_sort, backend)
    z, nodes = torch.zeros(3, 2, 12), torch.tensor([5, 8, 2])
    wide = _soft_sort(z, seed_of(6), nodes, 0.1, 0, True, False, backend=backend)[0]
    narrow = _soft_sort(z[..., :8].contiguous(), seed_of(6), nodes, 0.1, 0, True, False, backend=backend)[0]
    assert torch.equal(wide[..., :8], narrow)


def test_manual_seed_and_generator_govern_the_draw():
    def draw(**given):
        return lk.Permutation.uniform(2, 3, 50, **given).perm

    torch.manual_seed(1)
    a, b = draw(), draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), a) and not torch.equal(a, b)
    g = torch.Generator().manual_seed(1)
    state = torch.get_rng_state()
    c = draw(generator=g)
    assert torch.equal(torch.get_rng_state(), state), "a generator of one's own leaves PyTorch's alone"
    assert torch.equal(draw(generator=torch.Generator().manual_seed(1)), c)


# Known answers of Philox4x32-10 published with Random123: counter, key, output.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN)
def test_philox_known_answers(counter, key, want):
    number = key[0] | key[1] << 32
    seed = seed_of(number - 2**64 if number >= 2**63 else number)
    words = philox(seed, (*(torch.tensor([c]) for c in counter[:3]), counter[3]))
    assert [int(w) for w in words] == want


def test_streams_and_rows_do_not_overlap():
    seed = seed_of(11)
    words = torch.cat([row_words(seed, 40, 30, s).flatten() for s in (STREAM_PERMUTATION, STREAM_TIES)])
    assert words.unique().numel() == words.numel()
    assert torch.equal(row_words(seed, 40, 30, 0)[:, :17], row_words(seed, 40, 17, 0))


def test_seeds_differ_and_fill_64_bits():
    seeds = torch.cat([new_seed() for _ in range(2000)])
    assert seeds.unique().numel() == 2000
    bits = torch.stack([(seeds >> i) & 1 for i in range(64)]).double().mean(1)
    assert ((bits - 0.5).abs() < 0.08).all()
