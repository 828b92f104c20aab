"""Safe after fork, from several Python threads at once and with any number of threads: the same bits everywhere."""

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import lps_kernels as lk
from lps_kernels import native, testing

ROOT = Path(__file__).parents[1]


def work(number, b=100, n=64):
    """Draws, transforms and gradients of one seed.

    Large enough for the kernels to share between threads; no tensor has 32,768 elements, from where on PyTorch's own
    operators do so too, which hangs in a forked child.
    """
    g = torch.Generator().manual_seed(number)
    scores = torch.randn(b, 2, n, generator=g).requires_grad_()
    x = torch.randn(b, n, 2, generator=g).requires_grad_()
    edges = torch.randn(3, n, n, 1, generator=g)
    made = lk.Permutation.from_scores(scores, n_iter=4, generator=g)
    few = lk.Permutation.from_scores(scores[:3], n_iter=4, generator=g)
    y = made.transform_output(made.transform_input(x).cumsum(2))
    a = few.transform_output(few.transform_input(edges, 2).cumsum(2), 2)
    uniform = lk.Permutation.uniform(b, 2, n, generator=g).perm
    grads = torch.autograd.grad(y.square().mean() + a.square().mean() + made.entropy(), (scores, x))
    return [made.perm, y.detach(), a.detach(), uniform, *grads]


def assert_same(got, want):
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_number_of_threads_changes_nothing(threads):
    want = work(0)
    torch.set_num_threads(threads)
    assert_same(work(0), want)


def test_runs_repeat_bit_for_bit():
    torch.set_num_threads(2)
    want = work(1)
    for _ in range(5):
        assert_same(work(1), want)


def test_python_threads_at_once():
    want = [work(i) for i in range(8)]
    torch.set_num_threads(2)
    with ThreadPoolExecutor(8) as pool:
        for got, w in zip(pool.map(work, range(8)), want):
            assert_same(got, w)


def test_named_backend_is_that_of_its_thread():
    started, done, seen = threading.Event(), threading.Event(), []
    op = testing.forward_ops()["permute"]

    def other():
        started.wait(10)
        seen.append(op.choose("cpu"))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with lk.backend("reference"):
        assert op.choose("cpu") == "reference"
        started.set()
        done.wait(10)
    thread.join()
    assert seen == ["cpu" if op.has_kernel("cpu") else "reference"]


def python(script, *args, timeout=600, **environment):
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | environment
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        env=env,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(not native.loaded, reason="PyTorch's own operators on n x n matrices wait for threads after a fork")
def test_works_after_fork():
    """Torch's threads do not survive a fork: a child that waited for them would hang, so an alarm ends it."""
    out = python(
        """
        import os, signal, torch
        from test_processes import assert_same, work
        torch.set_num_threads(2)
        want = work(0)  # starts the threads
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            assert_same(work(0), want)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert_same(work(0), want)  # the parent is as before
        print("done")
        """
    )
    assert "done" in out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_works_in_workers_of_a_data_loader():
    out = python(
        """
        import torch
        from torch.utils.data import DataLoader, Dataset
        from test_processes import assert_same, work

        class Data(Dataset):
            def __len__(self):
                return 6
            def __getitem__(self, i):
                return i, [x.detach() for x in work(i)]

        torch.set_num_threads(2)
        want = [work(i) for i in range(6)]
        loader = DataLoader(Data(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
        for i, got in loader:
            assert_same(got, want[i])
        print("done")
        """
    )
    assert "done" in out


def test_processes_agree():
    """Nothing depends on addresses, hashes or the order in which modules load."""
    script = """
        import hashlib, torch
        from test_processes import work
        print(hashlib.sha256(b"".join(x.detach().numpy().tobytes() for x in work(5))).hexdigest())
        """
    assert python(script, PYTHONHASHSEED="1") == python(script, PYTHONHASHSEED="2")


def test_levels_of_the_processor_agree(tmp_path):
    """Each build of the kernels that runs here draws and sorts alike, and is the same elsewhere to rounding."""
    levels = [level for level in native.supported() if native.library(level).exists()]
    if len(levels) < 2:
        pytest.skip(f"builds of the kernels that run here: {levels}")
    script = """
        import sys, torch
        from lps_kernels import native
        from test_processes import work
        torch.save([native.loaded, *(x.detach() for x in work(7))], sys.argv[1])
        """
    want = work(7)
    for level in levels:
        python(script, tmp_path / level, LPS_KERNELS_CPU_LEVEL=level)
        loaded, *got = torch.load(tmp_path / level)
        assert loaded == level
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert a.is_floating_point() or torch.equal(a, b)


def test_backends_named_by_threads_in_turn_leave_none_behind():
    first, second, left = threading.Event(), threading.Event(), threading.Event()

    def enter(name, wait, entered, leave):
        wait.wait(10)
        with lk.backend(name):
            entered.set()
            leave.wait(10)
        left.set()

    ready = threading.Event()
    ready.set()
    threads = [
        threading.Thread(target=enter, args=("reference", ready, first, second)),
        threading.Thread(target=enter, args=("cpu", first, second, left)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lk.op._traced_backend is None
