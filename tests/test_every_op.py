"""What holds for every op on every backend: values, gradients, layouts, dtypes, schemas, compilation."""

import dataclasses

import pytest
import torch

from lps_kernels import testing
from lps_kernels.op import OPS

FORWARD = testing.forward_ops()
BACKENDS = testing.backends()
CASES = [(name, case) for name in FORWARD for case in testing.cases(name)]
EMPTY = [(name, case) for name in FORWARD for case in testing.EMPTY]
DIFFERENTIABLE = [name for name, op in FORWARD.items() if op.differentiable]
DTYPES = [torch.float32, torch.float64]
HALVES = [torch.float16, torch.bfloat16]

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_case = pytest.mark.parametrize(("name", "case"), CASES, ids=str)
each_op = pytest.mark.parametrize("name", FORWARD)


def prepared(name, case, backend, dtype=torch.float32):
    op = FORWARD[name]
    testing.skip_without(op, backend)
    return op, testing.arguments(op, case, dtype, testing.device_of(backend))


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_case
def test_value(name, case, dtype, backend):
    op, args = prepared(name, case, backend, dtype)
    testing.assert_matches(op, backend, args)


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_case
def test_gradient(name, case, dtype, backend):
    op, args = prepared(name, case, backend, dtype)
    testing.assert_gradients_match(op, backend, args)


@each_backend
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@each_op
def test_half_precision(name, dtype, backend):
    for case in testing.cases(name)[:4]:
        op, args = prepared(name, case, backend, dtype)
        testing.assert_matches(op, backend, args)
        testing.assert_gradients_match(op, backend, args)


@each_backend
@pytest.mark.parametrize("layout", ["strided", "expanded"])
@each_op
def test_layout(name, layout, backend):
    for case in testing.cases(name):
        op, args = prepared(name, dataclasses.replace(case, layout=layout), backend)
        testing.assert_matches(op, backend, args)
        testing.assert_gradients_match(op, backend, args, layout=layout)


@each_backend
@pytest.mark.parametrize(("name", "case"), EMPTY, ids=str)
def test_empty(name, case, backend):
    op, args = prepared(name, case, backend)
    testing.assert_matches(op, backend, args)
    testing.assert_gradients_match(op, backend, args)


@each_backend
@pytest.mark.parametrize("weighted", [False, True])
@each_op
def test_no_samples(name, weighted, backend):
    op, args = prepared(name, testing.Case(k=0, weighted=weighted), backend)
    got, want = op(*args, backend=backend), op.reference(*args)
    for g, w in zip(*(o if isinstance(o, tuple) else (o,) for o in (got, want)), strict=True):
        torch.testing.assert_close(g, w, equal_nan=True)  # a mean of nothing is 0 / 0, a weighted sum of it 0
    testing.assert_gradients_match(op, backend, args)


@each_backend
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_of_each_argument_alone(name, backend):
    for case in testing.cases(name)[:3]:
        op, args = prepared(name, case, backend)
        for i in op.differentiable:
            testing.assert_gradients_match(op, backend, args, [i])


@each_backend
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_of_each_output_alone(name, backend):
    op, args = prepared(name, testing.cases(name)[0], backend)
    wide = testing.widen(args)
    for i in range(len(op.outputs)):
        got, want, base = (
            _one_output(op, b, a, i) for b, a in ((backend, args), ("reference", wide), ("reference", args))
        )
        for g, w, r in zip(got, want, base, strict=True):
            testing.assert_close(f"{op.name} gradient of {op.outputs[i]}", g, w, r)


def _one_output(op, backend, args, index):
    leaves = [
        a.detach().requires_grad_() if i in op.differentiable and a is not None else a for i, a in enumerate(args)
    ]
    wanted = [leaves[i] for i in op.differentiable if leaves[i] is not None]
    out = testing._outputs(op(*leaves, backend=backend))[index]
    if not out.requires_grad:
        return [torch.zeros_like(leaf) for leaf in wanted]
    found = torch.autograd.grad(out.square().sum(), wanted, allow_unused=True)
    return [torch.zeros_like(leaf) if f is None else f for leaf, f in zip(wanted, found)]


ON_GPU = pytest.mark.parametrize("backend", [b for b in BACKENDS if testing.device_of(b) == "cuda"])


@pytest.mark.long
@ON_GPU
@each_op
def test_more_rows_than_65535(name, backend):
    """The second and third axes of a grid end there."""
    case = testing.Case(b=70000, k=1, n=2, c=1, d=2, m=2, n_iter=1, edges=False)
    op, args = prepared(name, case, backend)
    testing.assert_matches(op, backend, args)
    testing.assert_gradients_match(op, backend, args)


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="one device")
@ON_GPU
@each_op
def test_runs_where_its_tensors_are(name, backend):
    op, here = prepared(name, testing.cases(name)[0], backend)
    there = [a.to("cuda:1") if isinstance(a, torch.Tensor) else a for a in here]
    got, want = (testing._outputs(op(*args, backend=backend)) for args in (there, here))
    if op.differentiable:
        got, want = ((*o, *testing.gradients(op, backend, a).values()) for o, a in ((got, there), (want, here)))
    assert torch.cuda.current_device() == 0 and all(g.device.index == 1 for g in got)
    assert all(testing.same(g.cpu(), w.cpu()) for g, w in zip(got, want, strict=True))


@each_backend
@each_op
def test_is_deterministic(name, backend):
    op, args = prepared(name, dataclasses.replace(testing.cases(name)[0], n=65, b=5), backend)
    first, second = (testing._outputs(op(*args, backend=backend)) for _ in range(2))
    assert all(testing.same(a, b) for a, b in zip(first, second))
    if op.differentiable:
        first, second = (testing.gradients(op, backend, args) for _ in range(2))
        assert all(testing.same(first[i], second[i]) for i in first)


FEW = testing.Case(n=5, n_iter=1)  # tracing a reference with symbolic sizes takes a second an iteration
LIGHT = ("test_schema", "test_faketensor")


@each_op
def test_opcheck(name):
    op = FORWARD[name]
    torch.library.opcheck(op.kernel, tuple(testing.arguments(op, FEW)))
    for case in testing.cases(name)[:4]:
        torch.library.opcheck(op.kernel, tuple(testing.arguments(op, case)), test_utils=LIGHT)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_opcheck_backward(name):
    op = FORWARD[name]
    args = testing.arguments(op, FEW)
    outs = testing._outputs(op.reference(*args))
    grads = [torch.ones_like(o) if o.is_floating_point() else None for o in outs]
    for needs in ((1 << len(op.differentiable)) - 1, 1, 0):
        sample = (*grads, *args, *(outs[i] for i in op.saves), needs)
        if op.backward.has_kernel("cpu"):  # opcheck can't look into the torch.func.vjp that a reference is
            torch.library.opcheck(op.backward.kernel, sample, test_utils=LIGHT if needs == 1 else "ALL")
        real = testing._outputs(op.backward(*sample))
        fake = testing._outputs(
            op.backward._fake(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in sample))
        )
        assert [(r.shape, r.dtype) for r in real] == [(f.shape, f.dtype) for f in fake]
        if op.backward.has_kernel("cpu"):
            assert [r.stride() for r in real] == [f.stride() for f in fake]


def test_every_op_has_cases():
    assert set(FORWARD) <= set(testing.CASES), "an op without cases is tested at default sizes only"
    assert all(name.removesuffix("_backward") in FORWARD for name in OPS)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_gradient_that_is_not_one_of_the_output_raises(name, backend):
    op, args = prepared(name, testing.cases(name)[0], backend)
    outs = op.run(backend, args)
    outs = outs if isinstance(outs, tuple) else (outs,)
    saved, needs = [outs[i] for i in op.saves], 2 ** len(op.differentiable) - 1
    grads = [torch.zeros_like(o) if o.is_floating_point() else None for o in outs]
    op.backward.run(backend, (*grads, *args, *saved, needs))
    for i, grad in enumerate(grads):
        for bad in () if grad is None else (grad.narrow(-1, 0, grad.shape[-1] - 1), grad.half()):
            with pytest.raises((RuntimeError, ValueError), match="expected"):
                op.backward.run(backend, (*grads[:i], bad, *grads[i + 1 :], *args, *saved, needs))


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("name", [name for name, op in FORWARD.items() if "num_nodes" in op.parameters])
def test_counts_of_nodes_in_int32_raise(name, backend):
    op, args = prepared(name, testing.cases(name)[0], backend)
    nodes = op.parameters.index("num_nodes")
    outs = testing._outputs(op.run(backend, args))
    args[nodes] = torch.ones(2, dtype=torch.int32, device=testing.device_of(backend))
    with pytest.raises((RuntimeError, ValueError), match=r"expected num_nodes \(b,\) int64"):
        op.run(backend, args)
    if op.differentiable:
        grads, saved = (
            [torch.zeros_like(o) if o.is_floating_point() else None for o in outs],
            [outs[i] for i in op.saves],
        )
        with pytest.raises((RuntimeError, ValueError), match=r"expected num_nodes \(b,\) int64"):
            op.backward.run(backend, (*grads, *args, *saved, 2 ** len(op.differentiable) - 1))


@pytest.mark.parametrize("name", [n for n in FORWARD if FORWARD[n].has_kernel("cpu")])
def test_what_a_kernel_would_read_beyond_its_end_raises(name):
    op, args = prepared(name, dataclasses.replace(testing.cases(name)[0], ragged=True, weighted=True), "cpu")
    if "num_nodes" in op.parameters:
        args[op.parameters.index("num_nodes")] = torch.ones(2, dtype=torch.int64)
    bad = {"seed": lambda x: x.int(), "num_nodes": lambda x: x.int(), "weights": lambda x: x[:, 1:]}
    if name == "sample_rotate":
        del bad["seed"]  # which is not read where there are vectors
    broken = [(i, bad[p](args[i])) for i, p in enumerate(op.parameters) if p in bad]
    for i, wrong in broken:
        with pytest.raises(RuntimeError, match="expected"):
            op.kernel(*args[:i], wrong, *args[i + 1 :])
    if not op.differentiable:
        return
    outs = op.kernel(*args)
    outs = outs if isinstance(outs, tuple) else (outs,)
    grads = [torch.zeros_like(o) if o.is_floating_point() else None for o in outs]
    rest = [*args, *[outs[i] for i in op.saves], 2 ** len(op.differentiable) - 1]
    broken = [(i, wrong) for i, wrong in broken if op.parameters[i] != "seed"]
    for i, o in enumerate((outs[i] for i in op.saves), len(args)):
        broken.append((i, o.narrow(-1, 0, o.shape[-1] - 1)))
        if o.dtype == torch.int64:
            broken.append((i, o + o.shape[-1]))
    op.backward.kernel(*grads, *rest)
    for i, wrong in broken:
        with pytest.raises(RuntimeError):
            op.backward.kernel(*grads, *rest[:i], wrong, *rest[i + 1 :])
