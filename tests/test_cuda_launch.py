"""CUDA kernels on a device: long rows, streams, graphs, devices, and what is refused."""

import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import lps_kernels as lk
from lps_kernels import native, testing
from lps_kernels.op import OPS, Op

pytestmark = pytest.mark.skipif(not native.cuda_loaded, reason=f"no CUDA kernels: {native.cuda_reason}")
NAMES = ("soft_sort", "permutation_entropy", "permute", "inverse_permute_mean", "sample_permute")


def scores_of(b, k, n, seed=0, **kwargs):
    return torch.randn(b, k, n, generator=torch.Generator().manual_seed(seed)).to("cuda", **kwargs)


def sort(scores, seed=5, n_iter=5, tau=0.01, num_nodes=None):
    seed = torch.tensor([seed], device=scores.device)
    return OPS["soft_sort"](scores, seed, num_nodes, tau, n_iter, True, True, backend="cuda")


def gather(x, perm, *soft, order=1):
    return OPS["permute"](x, perm, *(soft or (None,) * 3), None, 0.01, order, True, backend="cuda")


def check(name, dtype=torch.float32, **sizes):
    op = OPS[name]
    args = testing.arguments(op, testing.Case(tau=0.01, **sizes), dtype, "cuda")
    testing.assert_matches(op, "cuda", args)
    testing.assert_gradients_match(op, "cuda", args)


# Each number of lanes and each block, at the longest row that it takes or one beyond the one before.
LENGTHS = (3, 32, 33, 64, 65, 128, 129, 188, 192, 193, 256, 257, 444, 448, 449, 512, 513, 1000)


@pytest.mark.long
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("name", ["soft_sort", "permutation_entropy"])
def test_rows_of_any_length(name, n):
    for dtype in (torch.float32, torch.float64):
        check(name, dtype, b=3 if n < 100 else 1, k=2, n=n, n_iter=3, ragged=n < 100)


@pytest.mark.long
@pytest.mark.parametrize("n", [2048, 2049, 4096])
@pytest.mark.parametrize("name", ["soft_sort", "permutation_entropy", "permute"])
def test_long_rows(name, n):
    check(name, b=1, k=1, n=n, n_iter=2, c=1, ragged=False)


@pytest.mark.long
@pytest.mark.parametrize("name", ["soft_sort", "permutation_entropy", "permute"])
def test_long_rows_of_float64(name):
    check(name, torch.float64, b=1, k=1, n=2048, n_iter=2, c=1, ragged=False, scores="tied")


@pytest.mark.long
@pytest.mark.parametrize(("b", "n"), [(8, 188), (2, 444)])
def test_sizes_of_the_paper(b, n):
    check("sample_permute", b=b, k=2, n=n, c=8, n_iter=20, edges=False)


@pytest.mark.parametrize("scores", ["tied", "equal", "clustered", "heavy"])
def test_ties_and_clusters(scores):
    for name in ("soft_sort", "permutation_entropy", "permute"):
        check(name, b=2, k=2, n=150, n_iter=4, scores=scores, c=3)
    check("soft_sort", b=1, k=1, n=700, n_iter=2, scores=scores)


SHAPES = ((31, 5, 1), (70, 8, 1), (130, 3, 1), (300, 2, 1), (600, 1, 1), (33, 2, 2), (70, 4, 2), (140, 1, 2))


@pytest.mark.long
@pytest.mark.parametrize(("n", "c", "order"), SHAPES)
@pytest.mark.parametrize("name", ["permute", "inverse_permute_mean"])
def test_features_of_any_shape(name, n, c, order):
    for dtype in (torch.float32, torch.bfloat16):
        for options in ({}, {"hard": False}, {"soft": False}):
            check(name, dtype, b=2, k=3, n=n, c=c, order=order, **options)


@pytest.mark.parametrize(
    ("b", "n", "c", "dtype"),
    [(2, 33, 2, torch.float64), (64, 100, 2, torch.float64), (2, 33, 3, torch.float16), (2, 70, 1, torch.bfloat16)],
    ids=["all lines at once", "by strips", "half", "bfloat16"],
)
def test_the_score_gradient_of_edges(b, n, c, dtype):
    op = OPS["permute"]
    args = testing.arguments(op, testing.Case(b=b, k=1, n=n, c=c, order=2, scores="tied"), dtype, "cuda")
    testing.assert_gradients_match(op, "cuda", args, [op.parameters.index(name) for name in ("t", "row", "col")])


@pytest.mark.parametrize(("n", "c"), [(188, 1), (140, 4)], ids=["by strips", "by parts"])
def test_nodes_beside_edges(n, c):
    check("sample_permute", b=1, k=1, n=n, c=c, n_iter=2, scores="tied", ragged=False)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int16, torch.int64, torch.complex64], ids=str)
def test_features_that_only_move(dtype):
    x = torch.randint(0, 2, (2, 9, 9, 3)).to("cuda", dtype)
    perm = sort(scores_of(2, 3, 9))[0]
    for order, part in ((1, x[:, 0]), (2, x)):
        want = lk.permute(part.cpu(), perm.cpu(), order)
        got = lk.permute(part, perm, order, backend="cuda")
        assert torch.equal(got.cpu(), want)
        back = lk.inverse_permute(got, perm, order, reduce=None, backend="cuda")
        assert torch.equal(back.cpu(), part.cpu()[:, None].expand(back.shape))


def test_rows_that_begin_anywhere_in_a_sector():
    buffer = torch.randn(2 * 12 * 4 + 1, device="cuda")
    perm = sort(scores_of(2, 3, 12))[0]
    for skew in (0, 1):
        x = buffer[skew : skew + 2 * 12 * 4].view(2, 12, 4)
        assert torch.equal(gather(x, perm).cpu(), lk.permute(x.cpu(), perm.cpu()))


def test_a_seed_gives_the_permutation_of_the_cpu():
    for n in (90, 600):
        scores = scores_of(3, 2, n).mul(2).round().div(2)  # with many ties
        for seed in (0, -1, 2**40 + 3):
            want = OPS["soft_sort"].reference(scores.cpu(), torch.tensor([seed]), None, 0.1, 1, True, True)[0]
            assert torch.equal(sort(scores, seed)[0].cpu(), want)
            draw, number = OPS["random_permutation"], torch.tensor([seed])
            want = draw.reference(number, None, 3, 2, n)
            assert torch.equal(draw(number.cuda(), None, 3, 2, n, backend="cuda").cpu(), want)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38, 1e-42])
def test_bad_scores_are_sorted_and_have_no_gradient(bad):
    scores = scores_of(2, 2, 40)
    scores[0, 0, 7] = scores[0, 0, 20] = bad
    op = OPS["soft_sort"]
    args = [scores, torch.tensor([3], device="cuda"), torch.tensor([40, 21], device="cuda"), 0.05, 4, True, True]
    testing.assert_matches(op, "cuda", args)
    testing.assert_gradients_match(op, "cuda", args)
    args[-1] = False  # t of a row with such a score is NaN then
    (perm, t, *_), (want_perm, want_t, *_) = op(*args, backend="cuda"), op.reference(*args)
    assert torch.equal(perm, want_perm)
    assert torch.equal(t.isnan(), want_t.isnan())


def test_a_permutation_that_is_none_reads_no_memory_of_others():
    perm = torch.tensor([[[-5, 2**40, 3, 1]]], device="cuda")
    x = torch.randn(1, 4, 3, device="cuda")
    assert gather(x, perm).isfinite().all()
    y = OPS["inverse_permute_mean"](x[:, None], perm, *(None,) * 5, 0.1, 1, True, True, backend="cuda")
    assert y.shape == x.shape


def test_many_iterations_lie_in_global_memory():
    check("soft_sort", b=1, k=3, n=60, n_iter=450)


def training_step(scores, x, seed):
    perm, *soft = OPS["soft_sort"](scores, seed, None, 0.1, 3, True, True)
    y = OPS["permute"](x, perm, *soft, None, 0.1, 1, True)
    mean = OPS["inverse_permute_mean"](y.tanh(), perm, *soft, None, None, 0.1, 1, True, True)
    return mean.square().sum() + OPS["permutation_entropy"](*soft, None, 0.1).sum()


def test_runs_on_the_current_stream():
    scores, x = scores_of(4, 2, 60).requires_grad_(), torch.randn(4, 60, 3, device="cuda", requires_grad=True)
    seed = torch.tensor([5], device="cuda")
    want = torch.autograd.grad(training_step(scores, x, seed), (scores, x))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = torch.autograd.grad(training_step(scores, x, seed), (scores, x))
    stream.synchronize()
    assert all(torch.equal(g, w) for g, w in zip(got, want))


def test_a_graph_replays_on_new_scores_and_seeds():
    scores, x, seed = scores_of(4, 2, 60), torch.randn(4, 60, 3, device="cuda"), torch.tensor([5], device="cuda")
    scores = scores.mul(2).round().div(2)

    def step():
        perm, _, row, _ = OPS["soft_sort"](scores, seed, None, 0.01, 5, True, True)
        drawn = OPS["random_permutation"](seed, None, 4, 2, 60)
        y = gather(x, perm)
        return y, row, gather(x, drawn), OPS["inverse_permute_mean"](y, perm, *(None,) * 5, 0.1, 1, True, True)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    torch.cuda.synchronize()
    before = [g.clone() for g in got]
    seed.fill_(6)
    scores.copy_(scores_of(4, 2, 60, seed=1).mul(2).round().div(2))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(g, w) for g, w in zip(got, step()))
    assert not any(torch.equal(g, b) for g, b in zip(got[:3], before))


@pytest.mark.parametrize("backend", ["cuda", "reference"])
def test_what_backward_runs_again_keeps_the_named_backend(backend):
    """Autograd's thread of a device has no ContextVar of the thread that called it."""
    chosen, choose = [], Op.choose

    def record(self, *args):
        chosen.append(choose(self, *args))
        return chosen[-1]

    s, x = scores_of(2, 2, 9).requires_grad_(), torch.randn(2, 9, 3, device="cuda")
    with mock.patch.object(Op, "choose", record), lk.backend(backend):
        checkpoint(
            lambda s: lk.Permutation.from_scores(s).transform_input(x).sin().sum(), s, use_reentrant=False
        ).backward()
    assert len(chosen) >= 4 and set(chosen) == {backend} and s.grad.isfinite().all()


def test_an_entropy_of_more_nodes_than_there_are_is_that_of_all():
    s, nodes = scores_of(1, 1, 5), torch.tensor([[99], [5]], device="cuda")
    for backend in ("cuda", "reference"):
        with lk.backend(backend):
            many, all_ = (lk.Permutation.from_scores(s, n, tau=1.0).entropy() for n in nodes)
        assert all_ > 0.1 and torch.equal(many, all_)


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="one device")
def test_runs_where_its_tensors_are():
    scores, x = scores_of(4, 2, 60), torch.randn(4, 60, 3)
    there = scores.to("cuda:1").requires_grad_()
    loss = training_step(there, x.to("cuda:1"), torch.tensor([5], device="cuda:1"))
    assert torch.cuda.current_device() == 0
    here = scores.requires_grad_()
    same = training_step(here, x.cuda(), torch.tensor([5], device="cuda"))
    (got,), (want,) = torch.autograd.grad(loss, there), torch.autograd.grad(same, here)
    assert torch.equal(got.cpu(), want.cpu())
    with pytest.raises(RuntimeError, match="one CUDA device"):
        gather(x.cuda(), sort(there.detach())[0])


def test_a_row_that_is_too_long_says_so():
    scores = torch.zeros(1, 1, 4097, device="cuda")
    with pytest.raises(RuntimeError, match=r"'cuda'.*at most 4096.*n = 4097.*reference"):
        sort(scores)
    with pytest.raises(RuntimeError, match=r"at most 4096"), lk.backend("cuda"):
        lk.Permutation.uniform(1, 1, 4097, device="cuda")
    args = testing.arguments(OPS["permute"], testing.Case(b=1, k=1, n=2049, c=1), torch.float64, "cuda")
    with pytest.raises(RuntimeError, match=r"'cuda'.*at most 2048.*n = 2049.*reference"):
        testing.gradients(OPS["permute"], "cuda", args)
    perm = torch.arange(5000, device="cuda").flip(0).view(1, 1, -1)
    x = torch.randn(1, 5000, 2, device="cuda")
    assert torch.equal(gather(x, perm), x.flip(1)[:, None])  # what only moves has no limit


def test_tensors_elsewhere_are_refused():
    with pytest.raises(RuntimeError, match=r"backend 'cuda'.*tensors on cpu"):
        lk.softsort(torch.randn(1, 1, 4), backend="cuda")
    with pytest.raises(RuntimeError, match="one CUDA device"):
        OPS["soft_sort"](scores_of(1, 1, 4), torch.tensor([1]), None, 0.1, 1, True, True, backend="cuda")


def test_chosen_before_triton():
    assert all(OPS[name].choose("cuda") == "cuda" for name in NAMES)


@pytest.mark.parametrize("broken", [False, True])
def test_a_backend_that_is_not_built_names_the_reason(tmp_path, broken):
    if broken:
        (tmp_path / "_cuda.so").write_bytes(b"no library")
    script = "import lps_kernels as lk, torch; lk.permute(torch.ones(1, 2, 1).cuda(), torch.tensor([[[1, 0]]]).cuda()"
    run = subprocess.run(
        [sys.executable, "-c", script + ", backend='cuda')"],
        env={**os.environ, "LPS_KERNELS_LIBRARY_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    reason = "_cuda.so does not load with this torch" if broken else "no compiled CUDA kernels were installed"
    assert f"backend 'cuda': permute is not available: {reason}" in run.stderr


def test_compiled_training_step():
    torch._dynamo.reset()
    scores = scores_of(2, 2, 9).requires_grad_()
    x = torch.randn(2, 9, 3, device="cuda", requires_grad=True)
    seed = torch.tensor([5], device="cuda")
    compiled = torch.compile(training_step, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(training_step(scores, x, seed), (scores, x))
    got = torch.autograd.grad(compiled(scores, x, seed), (scores, x))
    torch.testing.assert_close(got, want)
