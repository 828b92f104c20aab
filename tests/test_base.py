"""benchmarks.base, which times this tree against another commit."""

import pytest

from benchmarks import base, permute_rotate


def test_a_worker_uses_the_named_device_and_backend():
    label = permute_rotate.CASES[0].label
    with base._folder_of(base.ROOT) as folder:
        for device, backend in (("cpu", "reference"), ("cpu", "triton"), ("meta", None)):
            worker = base.Worker(folder, 1, device, backend)
            if backend == "reference":
                assert worker.ask("prepare", "permute_rotate", label) > 0
            else:
                with pytest.raises(SystemExit):
                    worker.ask("prepare", "permute_rotate", label)
            worker.close()


def test_nothing_is_built_that_is_not_timed(monkeypatch):
    monkeypatch.setenv("CMAKE_ARGS", "-DCMAKE_CXX_COMPILER=clang++")
    assert base.cmake_args("cpu").endswith(" -DLPS_CUDA=OFF -DCMAKE_CXX_COMPILER=clang++")
    assert "LPS_CUDA" not in base.cmake_args("cuda")


def test_an_unknown_commit_is_named_by_git():
    with pytest.raises(SystemExit, match="invalid reference: nosuch"), base.checkout("nosuch", "cpu"):
        pass
