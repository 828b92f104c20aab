"""CUDA graphs of every Triton op: captured once, replayed on new inputs, forward and backward."""

import pytest
import torch

from lps_kernels import testing
from lps_kernels.op import OPS
from lps_kernels.testing import Case

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
FORWARD = [name for name, op in testing.forward_ops().items() if op.has_kernel("triton")]


def tensors(values):
    return [v for v in values if isinstance(v, torch.Tensor)]


def captured(step):
    """A graph of step, after a run that compiles, and what it writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    return graph, found


@pytest.mark.parametrize("name", FORWARD)
def test_replays_on_new_inputs(name):
    op, case = OPS[name], Case(n=12, c=4)
    args, others = (testing.arguments(op, case, device="cuda", seed=seed) for seed in (0, 1))
    graph, outs = captured(lambda: testing._outputs(op(*args, backend="triton")))
    for mine, other in zip(tensors(args), tensors(others), strict=True):
        mine.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    assert all(testing.same(a, b) for a, b in zip(outs, testing._outputs(op(*others, backend="triton")), strict=True))


@pytest.mark.parametrize("name", [name for name in FORWARD if OPS[name].backward is not None])
def test_backward_replays_on_new_gradients(name):
    op, case = OPS[name], Case(n=12, c=4)
    args = testing.arguments(op, case, device="cuda")
    outs = testing._outputs(op(*args, backend="triton"))
    grads, others = ([factor * o.abs() if o.is_floating_point() else None for o in outs] for factor in (1, -2))
    needs = sum(1 << i for i, at in enumerate(op.differentiable) if args[at] is not None)

    def step(grads):
        return testing._outputs(op.backward(*grads, *args, *(outs[i] for i in op.saves), needs, backend="triton"))

    graph, found = captured(lambda: step(grads))
    for mine, other in zip(tensors(grads), tensors(others), strict=True):
        mine.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    assert all(testing.same(a, b) for a, b in zip(found, step(others), strict=True))
