"""Product: permutation and motion in one pass, equal to one after the other, with all gradients."""

import itertools

import pytest
import torch
from torch import Tensor

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.elements.orthogonal import centroid
from lps_kernels.ops.inverse_permute_rotate_mean import _inverse_permute_rotate_mean
from lps_kernels.ops.permute_rotate import _permute_rotate
from lps_kernels.ops.soft_sort import _soft_sort

B, K, N = 2, 3, 7
CASES = list(itertools.product((2, 3, 5), (1, 3), (1, 2), (False, True), (False, True)))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arguments(op, d, c, order, centered, padded, dtype, weighted=False, mean=True) -> list:
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    nodes = torch.tensor([N, 4]) if padded else None
    perm, t, row, col = _soft_sort.reference(random(B, K, N), torch.zeros(1).long(), nodes, 0.1, 5, True, True)
    features = [d] * order + [c]
    values = {
        "x": random(B, N, *features, seed=1).to(dtype),
        "y": random(B, K, N, *features, seed=2).to(dtype),
        "perm": perm,
        **{name: part.to(compute) for name, part in (("t", t), ("row", row), ("col", col))},
        "q": lk.gram_schmidt(random(B, K, d, d, seed=3)).to(compute),
        "center": random(B, 1, d, seed=4).to(compute) if centered and order == 1 else None,
        "num_nodes": nodes,
        "weights": random(B, K, seed=5).abs().to(compute) if weighted else None,
        "tau": 0.1,
        "order": order,
        "mean": mean,
    }
    return [values[name] for name in op.parameters]


def run(op, args: list, backend: str) -> list[Tensor]:
    args = [a.detach().requires_grad_() if i in op.differentiable and a is not None else a for i, a in enumerate(args)]
    out = op(*args, backend=backend)
    grads = torch.autograd.grad(
        out, [args[i] for i in op.differentiable if args[i] is not None], random(*out.shape, seed=9).to(out.dtype)
    )
    return [out.detach(), *grads]


def assert_matches(op, args: list, tolerance: float) -> None:
    testing.skip_without(op, "cpu")
    for i, (found, expected) in enumerate(zip(run(op, args, "cpu"), run(op, args, "reference"))):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        error = (found.double() - expected.double()).abs().max()
        assert error <= tolerance * max(1.0, expected.double().abs().max()), f"result {i}: {error}"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-5), (torch.bfloat16, 4e-2)]
)
@pytest.mark.parametrize(("d", "c", "order", "centered", "padded"), CASES)
def test_equals_its_definition(d, c, order, centered, padded, dtype, tolerance) -> None:
    rest = (d, c, order, centered, padded, dtype)
    assert_matches(_permute_rotate, arguments(_permute_rotate, *rest), tolerance)
    for weighted, mean in ((False, True), (True, True), (False, False)):
        args = arguments(_inverse_permute_rotate_mean, *rest, weighted, mean)
        assert_matches(_inverse_permute_rotate_mean, args, tolerance)


@pytest.mark.parametrize("op", [_permute_rotate, _inverse_permute_rotate_mean])
def test_passes_opcheck_and_gradgradcheck(op) -> None:
    args = arguments(op, 3, 1, 1, True, True, torch.float64)
    if op.has_kernel("cpu"):
        torch.library.opcheck(op.kernel, tuple(args))
    free = [op.parameters.index(name) for name in ("q", "center")]

    def function(*chosen):
        full = list(args)
        for i, a in zip(free, chosen):
            full[i] = a
        return op(*full)

    chosen = tuple(args[i].requires_grad_() for i in free)
    assert torch.autograd.gradcheck(function, chosen, check_undefined_grad=False)
    assert torch.autograd.gradgradcheck(function, chosen, check_undefined_grad=False)


def sampled(scores: Tensor, v: Tensor, x: Tensor, nodes: Tensor | None, euclidean: bool) -> lk.Product:
    permutation = lk.Permutation.from_scores(scores, nodes, tau=0.1)
    if euclidean:
        return lk.Product(permutation, lk.Euclidean.from_vectors(v, x, num_nodes=nodes))
    return lk.Product(permutation, lk.Orthogonal.from_vectors(v))


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("order", [(1, 1), (1, 2), (1, "vector")])
def test_is_one_after_the_other_with_the_same_gradients(order, euclidean: bool) -> None:
    nodes = torch.tensor([N, 4]) if euclidean else None
    leaves = [random(B, K, N), random(B, K, 3, 3, seed=1), random(B, N, 3, seed=2)]
    features = random(B, N, *[3] * (2 if order[1] == 2 else 1), seed=3)
    found = []
    for fused in (True, False):
        scores, v, x = (a.clone().requires_grad_() for a in leaves)
        g, f = sampled(scores, v, x, nodes, euclidean), features.clone().requires_grad_()
        if fused:
            assert g._fuses
            y = g.transform_output(g.transform_input(f, order).sin(), order)
        else:
            y = g.permutation._each_input(g.motion.transform_input(f, order[1]), 1).sin()
            y = g.motion.transform_output(g.permutation.transform_output(y, 1, reduce=None), order[1])
        found.append([y, *torch.autograd.grad(y.square().sum(), [scores, v, f, *[x] * euclidean], allow_unused=True)])
    for one, other in zip(*found):
        assert (one is None and other is None) or torch.allclose(one, other, atol=1e-12)
    assert found[0][1].abs().sum() > 0


def test_edges_ride_on_the_permutation_alone() -> None:
    g = sampled(random(B, K, N), random(B, K, 3, 3), random(B, N, 3), None, True)
    edges = random(B, N, N, 2)
    assert torch.equal(g.transform_input(edges, (2, 0)), g.permutation.transform_input(edges, 2))


@pytest.mark.parametrize("order", [(1, "point"), (2, "point"), (1, "vector"), (0, "point"), (0, 2)])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("way", ["as drawn", "inverse", "product"])
def test_padding_is_zero_and_what_has_no_nodes_has_none(order, whole: bool, way: str) -> None:
    nodes, x = torch.tensor([N, 4]), random(B, N, 3)
    motion = lk.Euclidean.from_vectors(random(B, K, 3, 3, seed=1), x, num_nodes=None if whole else nodes)
    g = lk.Product(lk.Permutation.from_scores(random(B, K, N).requires_grad_(), nodes), motion)
    g = {"as drawn": g, "inverse": g.inverse(), "product": g @ g}[way]
    features = random(B, *[N] * order[0], *[3] * (2 if order[1] == 2 else 1), seed=2)
    want = features.clone()
    for axis in range(order[0]):
        want.movedim(axis + 1, 1)[1, 4:] = 0
    y = g.transform_input(features, order)
    for reduce in ("mean", None):
        back = g.transform_output(y, order, reduce=reduce)
        assert torch.allclose(back, want if reduce else want[:, None].expand_as(back), atol=1e-12)


def test_composes_and_indexes_and_moves() -> None:
    x = random(B, N, 3)
    g = sampled(random(B, K, N), random(B, K, 3, 3), x, None, True)
    h = lk.Product(lk.Permutation.uniform(B, K, N), lk.Euclidean.uniform(x, K))
    both = (g @ h).transform_input(x, (1, "point"))
    assert torch.allclose(both, h._each_input(g.transform_input(x, (1, "point")), (1, "point")))
    assert len(g[1:]) == K - 1 and torch.equal(g[0].motion.q, g.motion.q[:, :1])
    assert g.to(torch.float32).motion.q.dtype == torch.float32
    assert torch.allclose(g.motion.center[:, 0], centroid(x, None)[:, 0])
    assert "Product(Permutation(b=2, k=3, n=7" in repr(g)
    permutations, motions = g.matrix()
    assert permutations.shape == (B, K, N, N) and motions.shape == (B, K, 4, 4)


@pytest.mark.parametrize("order", [1, (1,), (3, 0), (1, 3), (1, "spin"), "point", (True, 0), (1.0, 1)])
def test_bad_orders_raise(order) -> None:
    g = sampled(random(B, K, N), random(B, K, 3, 3), random(B, N, 3), None, False)
    with pytest.raises((ValueError, TypeError), match="order: expected"):
        g.transform_input(random(B, N, 3), order)


def test_bad_arguments_raise() -> None:
    g = sampled(random(B, K, N), random(B, K, 3, 3), random(B, N, 3), None, False)
    with pytest.raises(ValueError, match="x: expected shape"):
        g.transform_input(random(B, N + 1, 3), (1, 1))
    with pytest.raises(ValueError, match="y: expected shape"):
        g.transform_output(random(B, K, N, 4), (1, 1))
    for order in ((0, 1), (2, "vector"), (2, 2)):
        with pytest.raises(ValueError, match=r"x: expected shape .* got \(2, 4, 7\)"):
            g.transform_input(random(B, 4, N), order)
        with pytest.raises(ValueError, match=r"y: expected shape .* got \(2, 7\)"):
            g.transform_output(random(B, N), order)
        with pytest.raises(TypeError, match="x: expected a tensor"):
            g.transform_input(None, order)
    with pytest.raises(TypeError, match="permutation: expected a Permutation"):
        lk.Product(g.motion, g.permutation)
    with pytest.raises(ValueError, match="motion: expected as many"):
        lk.Product(g.permutation, g.motion[:1])
