"""torch.compile(mode="reduce-overhead"): every op and a whole model in CUDA graphs, forward and backward.

A run that warms up, one that is captured, and replays on new inputs, each equal to the eager one.
"""

import os

import pytest
import torch
from torch._inductor import cudagraph_trees

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.op import OPS

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif("PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ, reason="graphs live in the caching allocator"),
]
BACKENDS = [name for name in ("cuda", "triton") if any(op.has_kernel(name) for op in OPS.values())]
FORWARD = testing.forward_ops()
RUNS = 4


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    # Memory that is filled as it is allocated would be captured too.
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    cudagraph_trees.reset_cudagraph_trees()


def assert_replayed():
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    manager = cudagraph_trees.get_manager(torch.cuda.current_device(), create_if_none_exists=False)
    assert manager is not None and manager.path_state == cudagraph_trees.ExecutionState.EXECUTION


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FORWARD)
def test_op(name, backend):
    op, case = FORWARD[name], testing.Case(n=12, n_iter=2)
    testing.skip_without(op, backend)

    class Compiled:  # looks like the op to testing.gradients
        parameters, differentiable = op.parameters, op.differentiable
        function = staticmethod(
            torch.compile(lambda *a: op(*a, backend=backend), fullgraph=True, mode="reduce-overhead")
        )

        def __call__(self, *a, backend):
            torch.compiler.cudagraph_mark_step_begin()
            return self.function(*a)

    def run(function, args):
        if op.differentiable:
            return {key: g.clone() for key, g in testing.gradients(function, backend, args).items()}
        return {i: out.clone() for i, out in enumerate(testing._outputs(function(*args, backend=backend)))}

    compiled = Compiled()
    for seed in range(RUNS):
        args = testing.arguments(op, case, device="cuda", seed=seed)
        with torch.no_grad():
            values = [out.clone() for out in testing._outputs(compiled(*args, backend=backend))]
        want = testing._outputs(op(*args, backend=backend))
        assert all(testing.same(g, w) for g, w in zip(values, want, strict=True))
        got, want = run(compiled, args), run(op, args)
        for key in want:
            torch.testing.assert_close(got[key], want[key], equal_nan=True)
    assert_replayed()


class Layer(torch.nn.Module):
    """A linear layer, written out: a simulated device keeps what a captured matrix product has read."""

    def __init__(self, c, out):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(c, out) / c)

    def forward(self, x):
        return (x[..., None] * self.weight).sum(-2)


class Model(torch.nn.Module):
    """Scores of nodes, many of them tied, a permutation, a network that knows the order, the mean; and the entropy."""

    def __init__(self, c=3, k=2):
        super().__init__()
        self.scores, self.first, self.second = Layer(1, k), Layer(c, 8), Layer(8, 2)

    def forward(self, x, seed):
        # The seed is an input: a simulated device captures no draw from PyTorch's generator.
        perm, t, row, col = OPS["soft_sort"](self.scores(x[..., :1]).mT, seed, None, 0.1, 2, True, True)
        g = lk.Permutation(perm, t, row, col, None, tau=0.1, n_iter=2)

        def f(x):
            return self.second(self.first(x).relu().cumsum(1)).tanh()

        return lk.symmetrize(f, x, g, order_in=1, order_out=1), g.entropy()


@pytest.mark.parametrize("backend", BACKENDS)
def test_symmetrized_model(backend):
    net = Model().cuda()
    compiled = torch.compile(net, fullgraph=True, mode="reduce-overhead")

    def run(function, seed):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(3, 9, 3, generator=draw).cuda()
        x[..., 0] = x[..., 0].sign()
        torch.compiler.cudagraph_mark_step_begin()
        net.zero_grad(set_to_none=True)
        out, entropy = function(x, torch.tensor([seed], device="cuda"))
        (out.square().sum() + entropy).backward()
        return [out.detach().clone(), entropy.detach().clone(), *(p.grad.clone() for p in net.parameters())]

    with lk.backend(backend):
        for seed in range(RUNS):
            for got, want in zip(run(compiled, seed), run(net, seed), strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert_replayed()
