"""Triton's launchers on a device: long rows, streams, graphs, devices, and how often they compile."""

import functools
import os

import pytest
import torch

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.op import OPS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
pytest.importorskip("triton")

SORT = functools.partial(OPS["soft_sort"], backend="triton")
PERMUTE = functools.partial(OPS["permute"], backend="triton")


def scores_of(b, k, n, seed=0, **kwargs):
    return torch.randn(b, k, n, generator=torch.Generator().manual_seed(seed)).to("cuda", **kwargs)


def sort(scores, seed=5, n_iter=5, tau=0.01, num_nodes=None):
    return SORT(scores, torch.tensor([seed], device=scores.device), num_nodes, tau, n_iter, True, True)


# The largest block of each number of warps, and lengths just below.
@pytest.mark.parametrize(("rows", "n"), [(64, 188), (8, 444), (2, 1000), (1, 2048), (1, 4000), (1, 4096)])
@pytest.mark.parametrize("name", ["soft_sort", "permutation_entropy"])
def test_long_rows(name, rows, n):
    case = testing.Case(b=1, k=rows, n=n, n_iter=3, tau=0.01, ragged=False)
    args = testing.arguments(OPS[name], case, device="cuda")
    testing.assert_matches(OPS[name], "triton", args)
    testing.assert_gradients_match(OPS[name], "triton", args)


# Lines that a program holds, and longer ones.
@pytest.mark.parametrize(
    ("name", "b", "n", "c", "order"),
    [
        ("permute", 2, 700, 5, 1),
        ("permute", 2, 20, 412, 1),
        ("permute", 1, 600, 18, 1),
        ("permute", 1, 2000, 9, 1),
        ("permute", 1, 20, 412, 2),
        ("inverse_permute_mean", 1, 150, 5, 2),
        ("inverse_permute_mean", 2, 20, 411, 1),
        ("inverse_permute_mean", 1, 20, 411, 2),
    ],
)
def test_long_features(name, b, n, c, order):
    op = OPS[name]
    args = testing.arguments(op, testing.Case(b=b, k=2, n=n, c=c, order=order, tau=0.01), device="cuda")
    testing.assert_matches(op, "triton", args)
    testing.assert_gradients_match(op, "triton", args)


def test_a_seed_gives_the_permutation_of_the_cpu():
    scores = scores_of(3, 4, 90).mul(2).round().div(2)  # with many ties
    for seed in (0, -1, 2**40 + 3):
        want = OPS["soft_sort"].reference(scores.cpu(), torch.tensor([seed]), None, 0.1, 1, True, True)[0]
        assert torch.equal(sort(scores, seed)[0].cpu(), want)
        draw = OPS["random_permutation"]
        want = draw.reference(torch.tensor([seed]), None, 3, 4, 90)
        assert torch.equal(draw(torch.tensor([seed], device="cuda"), None, 3, 4, 90, backend="triton").cpu(), want)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38, 1e-42])
def test_bad_scores_are_sorted_and_have_no_gradient(bad):
    scores = scores_of(2, 2, 40)
    scores[0, 0, 7] = scores[0, 0, 20] = bad
    op = OPS["soft_sort"]
    args = [scores, torch.tensor([3], device="cuda"), torch.tensor([40, 21], device="cuda"), 0.05, 4, True, True]
    testing.assert_matches(op, "triton", args)
    testing.assert_gradients_match(op, "triton", args)


def kernels_of(function):
    """How many versions of a kernel were compiled, or fetched from Triton's cache, in this process."""
    return sum(len(caches[0]) for caches in function.device_caches.values())


def test_compiles_once_a_block_and_alignment():
    from lps_kernels.triton import lines, soft_sort

    kernels = soft_sort.soft_sort_kernel, lines.gather_graph_kernel
    before = [kernels_of(k) for k in kernels]
    for i in range(20):
        b, n = 1 + i % 5, 33 + i
        perm = sort(scores_of(b, 1 + i % 3, n), n_iter=i % 4)[0]
        PERMUTE(torch.randn(b, n, 4, device="cuda"), perm, None, None, None, None, 0.1, 1, True)
    # n a multiple of 16 and not; lines of 4 n numbers a multiple of 8, of 16, and neither.
    assert all(kernels_of(k) - c <= most for k, c, most in zip(kernels, before, (2, 3), strict=True))


def test_launches_what_it_compiled_without_triton(monkeypatch):
    from triton.runtime.jit import JITFunction

    def compiles(*args, **kwargs):
        raise AssertionError("Triton's own launch")

    scores = scores_of(2, 3, 50)
    aligned, shifted = scores.flatten()[:120].view(1, 2, 60), scores.flatten()[1:121].view(1, 2, 60)
    want = [sort(x) for x in (aligned, shifted)]
    monkeypatch.setattr(JITFunction, "run", compiles)
    for x, outs in zip((aligned, shifted), want, strict=True):
        assert all(torch.equal(g, w) for g, w in zip(sort(x), outs, strict=True))
    with pytest.raises(AssertionError, match="Triton's own"):
        sort(scores_of(1, 1, 600, dtype=torch.float16))  # a class that no other test here compiles


def test_hooks_see_launches():
    from triton import knobs

    scores, seen = scores_of(1, 2, 60), []
    sort(scores)
    knobs.runtime.launch_enter_hook.add(seen.append)
    try:
        sort(scores)
    finally:
        knobs.runtime.launch_enter_hook.remove(seen.append)
    sort(scores)
    assert [metadata.get()["name"] for metadata in seen] == ["soft_sort_kernel"]


@pytest.mark.parametrize("looks", ["profiler", "dispatch mode", "subclass"])
def test_who_wants_to_see_the_operator_does(looks):
    """Calls that nobody looks at go to the launcher past the dispatcher."""
    from torch.utils._python_dispatch import TorchDispatchMode

    scores, name = scores_of(1, 2, 60), "lps_kernels_triton::soft_sort"
    names = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    class Named(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            names.append(getattr(func, "name", lambda: "")())
            return super().__torch_function__(func, types, args, kwargs)

    def call(scores):
        return OPS["soft_sort"](scores, torch.tensor([5], device="cuda"), None, 0.1, 2, True, True, backend="triton")

    if looks == "profiler":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call(scores)
        names = [event.name for event in profile.events()]
    elif looks == "dispatch mode":
        with Mode():
            call(scores)
    else:
        call(scores.as_subclass(Named))
    assert name in names


def test_runs_on_the_current_stream():
    scores, x = scores_of(4, 2, 60), torch.randn(4, 60, 3, device="cuda")
    want = PERMUTE(x, sort(scores)[0], None, None, None, None, 0.1, 1, True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = PERMUTE(x, sort(scores)[0], None, None, None, None, 0.1, 1, True)
    stream.synchronize()
    assert torch.equal(got, want)


def test_a_graph_replays_on_new_scores():
    scores, x, seed = scores_of(4, 2, 60), torch.randn(4, 60, 3, device="cuda"), torch.tensor([5], device="cuda")

    def step():
        perm, _, row, _ = SORT(scores, seed, None, 0.01, 5, True, True)
        return PERMUTE(x, perm, None, None, None, None, 0.1, 1, True), row

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    scores.copy_(scores_of(4, 2, 60, seed=1))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(g, w) for g, w in zip(got, step()))


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="one device")
def test_runs_where_its_tensors_are():
    scores = scores_of(4, 2, 60)
    want = sort(scores)
    for device in ("cuda:1", "cuda:0", "cuda:1"):  # what one device compiled is not launched on the other
        elsewhere = sort(scores.to(device))
        assert torch.cuda.current_device() == 0
        assert all(a.device == torch.device(device) and torch.equal(a.cpu(), b.cpu()) for a, b in zip(elsewhere, want))


def test_a_forked_process_is_told_so():
    """CUDA does not survive a fork: what was compiled before is not launched after it."""
    scores = scores_of(1, 2, 30)
    sort(scores)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sort(scores)
            os.write(write, b"no error")
        except RuntimeError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert "forked subprocess" in os.read(read, 4096).decode()
    sort(scores)


def test_a_row_that_is_too_long_says_so():
    scores = torch.zeros(1, 1, 4097, device="cuda")
    with pytest.raises(ValueError, match=r"'triton'.*at most 4096.*n = 4097.*reference"):
        sort(scores)
    with pytest.raises(ValueError, match=r"at most 4096"), lk.backend("triton"):
        lk.Permutation.uniform(1, 1, 4097, device="cuda")


def test_tensors_elsewhere_are_refused():
    with pytest.raises(RuntimeError, match=r"backend 'triton'.*tensors on cpu"):
        lk.softsort(torch.randn(1, 1, 4), backend="triton")


def test_chosen_where_there_is_no_faster_kernel():
    op = OPS["permute"]
    assert op.choose("cuda") == ("cuda" if op.has_kernel("cuda") else "triton")


def test_compiled_training_step():
    torch._dynamo.reset()
    scores = scores_of(2, 2, 9).requires_grad_()
    x = torch.randn(2, 9, 3, device="cuda", requires_grad=True)
    seed = torch.tensor([5], device="cuda")

    def step(scores, x):
        perm, *soft = OPS["soft_sort"](scores, seed, None, 0.1, 3, True, True)
        y = OPS["permute"](x, perm, *soft, None, 0.1, 1, True)
        mean = OPS["inverse_permute_mean"](y.tanh(), perm, *soft, None, None, 0.1, 1, True, True)
        return mean.square().sum() + OPS["permutation_entropy"](*soft, None, 0.1).sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(step(scores, x), (scores, x))
    got = torch.autograd.grad(compiled(scores, x), (scores, x))
    torch.testing.assert_close(got, want)
