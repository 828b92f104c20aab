"""torch.compile without graph breaks, torch.export, autocast, activation checkpointing."""

import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import lps_kernels as lk
from lps_kernels import testing

FORWARD = testing.forward_ops()
HOST = [b for b in testing.backends() if testing.device_of(b) == "cpu"]
each_backend = pytest.mark.parametrize("backend", HOST)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@each_backend
@pytest.mark.parametrize("name", FORWARD)
def test_op_compiles_whole(name, backend):
    op = FORWARD[name]
    testing.skip_without(op, backend)
    args = testing.arguments(op, testing.Case(n=6, n_iter=2))

    class Compiled:  # looks like the op to testing.gradients
        parameters, differentiable = op.parameters, op.differentiable
        function = staticmethod(torch.compile(lambda *a: op(*a, backend=backend), fullgraph=True, backend="aot_eager"))

        def __call__(self, *a, backend):
            return self.function(*a)

    compiled = Compiled()
    got, want = (testing._outputs(f(*args, backend=backend)) for f in (compiled, op))
    assert all(testing.same(g, w) for g, w in zip(got, want, strict=True))
    if op.differentiable:
        got, want = (testing.gradients(f, backend, args) for f in (compiled, op))
        for name in want:
            torch.testing.assert_close(got[name], want[name], equal_nan=True)


class Scores(torch.nn.Module):
    """An equivariant distribution: scores of nodes from their features and those of their neighbours."""

    def __init__(self, c=3):
        super().__init__()
        self.first, self.second = torch.nn.Linear(c, 8), torch.nn.Linear(9, 1)

    def forward(self, x, k, num_nodes=None):
        x, a = x if isinstance(x, tuple) else (x, None)
        h = self.first(x).relu()
        h = h if a is None else torch.einsum("bij,bjc->bic", a, h)
        noise = torch.rand(x.shape[0], k, x.shape[1], 1, device=x.device, dtype=h.dtype)
        scores = self.second(torch.cat([h[:, None].expand(-1, k, -1, -1), noise], -1))[..., 0]
        return lk.Permutation.from_scores(scores, num_nodes, tau=0.1, n_iter=3)


class Mixer(torch.nn.Module):
    """Not equivariant."""

    def __init__(self, c=3, out=2):
        super().__init__()
        self.layer = torch.nn.Linear(c, out)

    def forward(self, x):
        return self.layer(x).cumsum(1).tanh()


def model(**options):
    torch.manual_seed(0)
    return lk.Symmetrized(Mixer(), Scores(), order_in=1, order_out=1, n_samples=3, **options)


def run(net, x, seed=1, **given):
    torch.manual_seed(seed)
    for p in net.parameters():
        p.grad = None
    out = net(x, **given)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in net.parameters())]


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_symmetrized_model_compiles_whole(compiler):
    if compiler == "inductor":
        testing.skip_without_compiler()
    net, x = model(), torch.randn(4, 7, 3)
    torch._inductor.config.fallback_random = True  # so that both draw the same noise
    got = run(torch.compile(net, fullgraph=True, backend=compiler), x)
    for g, w in zip(got, run(net, x)):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


def test_compiles_with_ragged_sizes_and_entropy():
    scores, x, nodes = torch.randn(3, 2, 6), torch.randn(3, 6, 4), torch.tensor([6, 0, 3])

    def function(scores, x, nodes):
        g = lk.Permutation.from_scores(scores, nodes, tau=0.1)
        x_k = g.transform_input(x)
        return g.transform_output(x_k.cumsum(2)).square().sum() + g.entropy()

    got, want = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    torch.compile(function, fullgraph=True, backend="aot_eager")(got, x, nodes).backward()
    function(want, x, nodes).backward()
    torch.testing.assert_close(got.grad, want.grad)


def test_batch_sizes_share_one_compilation():
    counter = CompileCounterWithBackend("aot_eager")
    net = torch.compile(model(), fullgraph=True, backend=counter)
    for b in (2, 3, 5, 8, 4, 17):
        run(net, torch.randn(b, 7, 3))
    assert counter.frame_count <= 2, "one for the first size, one for all others"


def test_sizes_share_one_compilation():
    counter = CompileCounterWithBackend("aot_eager")
    net = torch.compile(model(), fullgraph=True, backend=counter)
    for n in (5, 7, 9, 12):
        run(net, torch.randn(2, n, 3))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("strict", [False, True])
def test_exports(strict):
    net, x = model().eval(), torch.randn(4, 7, 3)
    b = torch.export.Dim("b", min=2, max=64)
    program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: b}}, strict=strict)
    for size in (4, 6):
        x = torch.randn(size, 7, 3)
        torch.manual_seed(1)
        want = net(x)
        torch.manual_seed(1)
        torch.testing.assert_close(program.module()(x), want)


class Scored(torch.nn.Module):
    """Samples of a group whose sizes and padding a program may leave open."""

    def __init__(self, group):
        super().__init__()
        self.score, self.group = torch.nn.Linear(3, 1), group

    def forward(self, x, num_nodes):
        b, n, d = x.shape
        if self.group == "uniform":
            g, order = lk.Permutation.uniform(b, 4, n, num_nodes), 1
        else:
            noisy = x[:, None] + torch.rand(b, 4, n, d)
            g = lk.Permutation.from_scores(self.score(noisy).squeeze(-1), num_nodes)
            motion = lk.Euclidean.from_vectors(torch.randn(b, 4, d, d), x, num_nodes=num_nodes)
            g, order = lk.Product(g, motion), (1, "point")
        return lk.symmetrize(lambda y: y.cumsum(1), x, g, order, order)


@pytest.mark.parametrize("group", ["uniform", "product"])
def test_exports_with_any_number_of_graphs_and_nodes(group):
    net, sizes = Scored(group).eval(), {"b": torch.export.Dim("b", min=2), "n": torch.export.Dim("n", min=2)}
    shapes = ({0: sizes["b"], 1: sizes["n"]}, {0: sizes["b"]})
    program = torch.export.export(net, (torch.randn(3, 7, 3), torch.tensor([7, 4, 1])), dynamic_shapes=shapes)
    for given in (
        (torch.randn(5, 32, 3), torch.tensor([32, 1, 0, 5, 6])),
        (torch.randn(2, 3, 3), torch.tensor([3, 2])),
    ):
        torch.manual_seed(1)
        want = net(*given)
        torch.manual_seed(1)
        torch.testing.assert_close(program.module()(*given), want)


def test_numbers_may_be_dynamic():
    def run(scores, x, tau):
        return lk.symmetrize(lambda y: y.cumsum(1), x, lk.Permutation.from_scores(scores, tau=tau), 1, 1)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    scores, x = torch.randn(2, 3, 6, requires_grad=True), torch.randn(2, 6, 3)
    for tau in (0.1, 0.3):
        want = torch.autograd.grad(run(scores, x, tau).square().sum(), scores)
        torch.testing.assert_close(torch.autograd.grad(compiled(scores, x, tau).square().sum(), scores), want)


def test_exported_program_survives_saving(tmp_path):
    net, x = model().eval(), torch.randn(4, 7, 3)
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    torch.manual_seed(1)
    want = net(x)
    torch.manual_seed(1)
    torch.testing.assert_close(loaded(x), want)


def test_autocast_keeps_scores_in_float32_and_follows_features():
    net, x = model(), torch.randn(4, 7, 3)
    with torch.autocast("cpu", torch.bfloat16):
        g = net.sample(x)
        low = g.transform_input(net.f(x))
        out = net(x)
    assert low.dtype == torch.bfloat16 and g.matrix().dtype == torch.float32
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert any(p.grad.abs().max() > 0 for p in net.distribution.parameters())


def test_autocast_errs_like_bfloat16():
    net, x = model(), torch.randn(4, 7, 3)
    torch.manual_seed(1)
    g = net.sample(x).detach()
    want = lk.symmetrize(net.f, x, g, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        got = lk.symmetrize(net.f, x, g, 1, 1)
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)


def everything(scores, v, x):
    """What the library makes of its inputs wherever it multiplies matrices."""
    torch.manual_seed(1)
    g, h = lk.Permutation.from_scores(scores, tau=0.1, hard=False), lk.Orthogonal.from_vectors(v)
    e, y = lk.Euclidean.from_vectors(v, x), torch.randn(*scores.shape, 3)
    moved = [p.transform_input(x) for p in (g, h, e, h @ h, e @ e, h @ e, e.inverse())]
    means = [p.transform_output(y, o, scores.exp().mean(2)) for p, o in ((g, 1), (g, 0), (h, 1), (h, 0), (e, 1))]
    frames = lk.Orthogonal.from_frames(x)
    assert lk.Orthogonal.from_matrix(h.q) is not None
    return [*moved, *means, (g @ g).matrix(), g.entropy(), frames.q, lk.Unitary.uniform(2, 3, 4).q]


@each_backend
def test_autocast_spares_what_the_library_computes(backend):
    testing.skip_without(FORWARD["soft_sort"], backend)
    leaves = [torch.randn(*s).requires_grad_() for s in ((2, 3, 9), (2, 3, 3, 3), (2, 9, 3))]
    with lk.backend(backend):
        want = everything(*leaves)
        with torch.autocast("cpu", torch.bfloat16):
            got = everything(*leaves)
    for a, b in zip(got, want):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_repeats_the_draw(reentrant):
    net, x = model(), torch.randn(4, 7, 3)

    class Checkpointed(torch.nn.Module):
        def forward(self, x):
            return checkpoint(net, x.clone().requires_grad_(), use_reentrant=reentrant)

    outer = Checkpointed()
    outer.net = net
    for got, want in zip(run(outer, x), run(net, x), strict=True):
        assert torch.equal(got, want)


def test_values_are_checked_where_there_are_some():
    s = torch.randn(4, 2, 3, 5)
    lk.check_finite(True)
    try:
        torch.vmap(lambda s: lk.softsort(s).row, randomness="same")(s)
        torch.compile(lambda s: lk.softsort(s).row, backend="eager", fullgraph=True)(s[0])
        lk.softsort(s[0].to("meta"))
        with pytest.raises(ValueError, match="row"):
            lk.softsort(s[0] / 0)
    finally:
        lk.check_finite(False)


def test_dtypes_change_in_a_whole_graph():
    g = lk.Orthogonal.uniform(2, 3, 3)
    cast = torch.compile(lambda q: lk.Orthogonal.from_matrix(q).to(torch.float64).q, backend="eager", fullgraph=True)
    assert torch.equal(cast(g.q), g.q.double())


def test_named_backend_compiles():
    x, perm = torch.randn(2, 5, 3), torch.stack([torch.randperm(5) for _ in range(4)]).view(2, 2, 5)

    def function(x, perm):
        with lk.backend("reference"):
            return lk.permute(x, perm)

    assert torch.equal(torch.compile(function, fullgraph=True, backend="aot_eager")(x, perm), function(x, perm))


def test_naming_a_backend_compiles_anew():
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(lambda x, perm: lk.permute(x, perm), fullgraph=True, backend=counter)
    x, perm = torch.randn(1, 5, 3), torch.randperm(5).view(1, 1, 5)
    function(x, perm)
    with lk.backend("reference"):
        function(x, perm)
    function(x, perm)
    assert counter.frame_count == 2


@pytest.mark.parametrize("kind", ["permutation", "product"])
def test_exports_a_function_of_elements(kind, tmp_path):
    class Act(torch.nn.Module):
        def forward(self, g, x):
            return g.transform_output(2 * g.transform_input(x, order), order), g

    x = torch.randn(2, 5, 3)
    g, order = lk.Permutation.uniform(2, 3, 5, num_nodes=torch.tensor([5, 3])), 1
    if kind == "product":
        g, order = lk.Product(g, lk.Euclidean.uniform(x, 3, num_nodes=g.num_nodes)), (1, "point")
    torch.export.save(torch.export.export(Act(), (g, x)), tmp_path / "act.pt2")
    y, same = torch.export.load(tmp_path / "act.pt2").module()(g, x)
    assert torch.allclose(y, Act()(g, x)[0], atol=1e-6) and repr(same) == repr(g)
    paths = [torch.utils._pytree.keystr(path) for path, _ in torch.utils._pytree.tree_leaves_with_path(g)]
    assert paths[-1].endswith("_num_nodes")


TRANSFORMED = {
    "scores": lambda x: lk.Permutation.from_scores(x, tau=0.3, n_iter=3).transform_input(x.mT),
    "softsort": lambda x: lk.softsort(x, tau=0.3, n_iter=3).row,
    "entropy": lambda x: lk.Permutation.from_scores(x, tau=0.3, n_iter=3).entropy(),
    "permute": lambda x: lk.permute(x, torch.tensor([[[2, 0, 1]]]).expand(2, 1, 3)),
    "gram_schmidt": lambda x: lk.gram_schmidt(x),
    "points": lambda x: lk.Euclidean.from_vectors(x[:, None], x).transform_input(x, "point"),
}


@each_backend
@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("transform", ["vmap", "grad", "vmap of grad"])
def test_compiled_transforms_keep_gradients(name, transform, backend):
    """Under a transform no requires_grad tells Dynamo of the gradient; a parameter outside of it wants one too."""
    shift, x = torch.linspace(1, 2, 3).requires_grad_(), torch.randn(4, 2, 3, 3)
    inner = lambda x: TRANSFORMED[name](x + shift).sin().sum()  # noqa: E731
    vmap = functools.partial(torch.vmap, randomness="same")
    outer = {"vmap": vmap(inner), "grad": torch.func.grad(inner), "vmap of grad": vmap(torch.func.grad(inner))}
    eager, x = outer[transform], x[0] if transform == "grad" else x
    with lk.backend(backend):
        got, want = torch.compile(eager, fullgraph=True, backend="aot_eager")(x), eager(x)
        torch.testing.assert_close(got, want)
        if transform == "vmap":
            got, want = (torch.autograd.grad(y.sum(), shift)[0] for y in (got, want))
            torch.testing.assert_close(got, want)
        assert want.abs().max() > 1e-3
