"""Gradients of every order and every transform: right, or a clear error, and never silently zero."""

import pytest
import torch
from torch.autograd import forward_ad

import lps_kernels as lk
from lps_kernels import testing

FORWARD = {name: op for name, op in testing.forward_ops().items() if op.differentiable}
BACKENDS = testing.backends()
HOST = [b for b in BACKENDS if testing.device_of(b) == "cpu"]
CASES = {
    "soft_sort": [
        testing.Case(n=4, n_iter=2),
        testing.Case(n=5, n_iter=1, normalize=False),
        testing.Case(n=3, n_iter=0),
    ],
    "permutation_entropy": [testing.Case(n=4, n_iter=2)],
    "permute": [testing.Case(n=3, c=2, hard=h, order=o) for h in (True, False) for o in (1, 2)],
    "inverse_permute_mean": [
        testing.Case(n=3, c=2, hard=h, order=o, weighted=m and o == 1, mean=m)
        for h, m in ((True, True), (False, False))
        for o in (1, 2)
    ],
    "sample_permute": [testing.Case(n=3, c=2, n_iter=2, hard=False)],
}
TABLE = [(name, case) for name in FORWARD for case in CASES.get(name, testing.cases(name)[:1])]
each_case = pytest.mark.parametrize(("name", "case"), TABLE, ids=str)
each_backend = pytest.mark.parametrize("backend", HOST)


def differentiable(name, case, backend):
    """The op as a function of its differentiable arguments alone, and these."""
    op = FORWARD[name]
    testing.skip_without(op, backend)
    args = [a.nan_to_num() if isinstance(a, torch.Tensor) else a for a in testing.arguments(op, case, torch.float64)]
    chosen = [i for i in op.differentiable if args[i] is not None]

    def function(*values):
        full = list(args)
        for i, v in zip(chosen, values):
            full[i] = v
        outs = op(*full, backend=backend)
        return tuple(o for o in (outs if isinstance(outs, tuple) else (outs,)) if o.is_floating_point())

    return function, [args[i].detach().requires_grad_() for i in chosen]


STRAIGHT_THROUGH = ("permute", "inverse_permute_mean", "permute_rotate", "inverse_permute_rotate_mean")


@each_backend
@each_case
def test_gradcheck(name, case, backend):
    if case.hard and name in STRAIGHT_THROUGH:
        pytest.skip("a straight-through gradient is not that of the value; test_against_dense.py has it")
    torch.autograd.gradcheck(*differentiable(name, case, backend), atol=1e-6)


@each_backend
@each_case
def test_gradgradcheck(name, case, backend):
    if case.hard and name in STRAIGHT_THROUGH:
        pytest.skip("the gradient of a straight-through gradient is not its derivative")
    torch.autograd.gradgradcheck(*differentiable(name, case, backend), atol=1e-5, rtol=1e-3)


@each_backend
@each_case
def test_double_backward_equals_that_of_the_reference(name, case, backend):
    def second(which):
        function, leaves = differentiable(name, case, which)
        loss = sum(o.sin().sum() for o in function(*leaves))
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(sum(f.cos().sum() for f in first), leaves)

    for got, want in zip(second(backend), second("reference")):
        testing.assert_close(name, got, want, want)


def loss(backend):
    """A scalar of scores and features that goes through every public op of the scores."""

    def function(scores, x):
        perm, t, row, col = lk.softsort(scores, tau=0.3, n_iter=3, backend=backend)
        soft = lk.SoftSort(perm, t, row, col)
        x_k = lk.permute(x, perm, soft=soft, tau=0.3, backend=backend)
        y = lk.inverse_permute(x_k.cumsum(2).sin(), perm, soft=soft, tau=0.3, backend=backend)
        return (y * x).sum() + (row - col).square().sum() + t.cos().sum()

    return function


def sample(*lead, dtype=torch.float64):
    return torch.randn(*lead, 2, 3, 5, dtype=dtype), torch.randn(*lead, 2, 5, 2, dtype=dtype)


def ready(backend):
    for name in ("soft_sort", "permute", "inverse_permute_mean"):
        testing.skip_without(FORWARD[name], backend)
    return loss(backend)


def plain_gradient(function, *inputs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*leaves), leaves)


def assert_same(got, want):
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)
        assert w.abs().max() > 1e-3, "the test would pass with zeros"


@each_backend
def test_func_grad(backend):
    function, inputs = ready(backend), sample()
    assert_same(torch.func.grad(function, argnums=(0, 1))(*inputs), plain_gradient(loss("reference"), *inputs))


@each_backend
def test_vmap(backend):
    function, inputs = ready(backend), sample(4)
    got = torch.vmap(function, randomness="same")(*inputs)
    assert_same([got], [torch.stack([loss("reference")(*one) for one in zip(*inputs)])])


@each_backend
def test_vmap_of_grad(backend):
    function, inputs = ready(backend), sample(4)
    got = torch.vmap(torch.func.grad(function, argnums=(0, 1)), randomness="same")(*inputs)
    want = [plain_gradient(loss("reference"), *one) for one in zip(*inputs)]
    assert_same(got, [torch.stack(w) for w in zip(*want)])


@each_backend
def test_grad_through_vmap(backend):
    function, inputs = ready(backend), sample(4)
    got = plain_gradient(lambda *a: torch.vmap(function, randomness="same")(*a).sum(), *inputs)
    want = [plain_gradient(loss("reference"), *one) for one in zip(*inputs)]
    assert_same(got, [torch.stack(w) for w in zip(*want)])


@each_backend
def test_vmap_over_one_argument(backend):
    function, (scores, x) = ready(backend), sample()
    many = torch.stack([x, 2 * x])
    got = torch.vmap(function, in_dims=(None, 0), randomness="same")(scores, many)
    assert_same([got], [torch.stack([loss("reference")(scores, one) for one in many])])


@each_backend
def test_jacrev(backend):
    ready(backend)
    scores, _ = sample()

    def row(which):
        return lambda z: lk.softsort(z, tau=0.3, n_iter=3, backend=which).row

    want = torch.autograd.functional.jacobian(row("reference"), scores)
    assert_same([torch.func.jacrev(row(backend))(scores)], [want])


def directional(function, inputs, tangents):
    return sum((g * t).sum() for g, t in zip(plain_gradient(function, *inputs), tangents))


@each_backend
@pytest.mark.parametrize("way", ["func.jvp", "forward_ad"])
def test_forward_mode_is_right_or_an_error(way, backend):
    function, inputs, tangents = ready(backend), sample(), sample()
    try:
        if way == "func.jvp":
            _, got = torch.func.jvp(function, inputs, tangents)
        else:
            with forward_ad.dual_level():
                out = function(*(forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents)))
                got = forward_ad.unpack_dual(out).tangent
    except (RuntimeError, NotImplementedError) as error:
        assert backend != "reference" and "jvp" in str(error)
    else:
        assert_same([got], [directional(loss("reference"), inputs, tangents)])


@each_backend
def test_inputs_need_not_be_leaves_and_some_need_none(backend):
    function, (scores, x) = ready(backend), sample()
    held = scores.requires_grad_() * 1
    (got,) = torch.autograd.grad(function(held, x), scores)
    (want, _) = plain_gradient(loss("reference"), scores, x)
    assert_same([got], [want])
    with torch.no_grad():
        assert not function(held, x).requires_grad
    with torch.inference_mode():
        function(scores.detach(), x)


@each_backend
def test_straight_through_values_are_exact(backend):
    ready(backend)
    scores, x = sample(dtype=torch.float32)
    g = lk.Permutation.from_scores(scores.requires_grad_())
    with lk.backend(backend):
        got = g.transform_input(x)
    assert torch.equal(got, x[:, None].expand(-1, 3, -1, -1).gather(2, g.perm[..., None].expand(-1, -1, -1, 2)))
    assert got.requires_grad
