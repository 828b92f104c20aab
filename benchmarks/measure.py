"""Times of functions in interleaved rounds, and ratios of them in pairs."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

OURS = "lps_kernels"
COPY = "copy"
TARGET = 0.01  # seconds a timed stretch lasts at least, so that the clock and the loop cost nothing

_device = torch.device("cpu")


def device() -> torch.device:
    """Where everything is measured."""
    return _device


def use(name: str) -> None:
    """Measure on this device from now on: "cpu" or "cuda"."""
    global _device
    _device = torch.device(name)


def wait() -> None:
    """Until the device has done what it was given."""
    if _device.type == "cuda":
        torch.cuda.synchronize()


class Draw:
    """Random inputs on the device that is measured, the same for every run."""

    def __init__(self) -> None:
        self.generator = torch.Generator(_device).manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=_device)


@dataclass(frozen=True)
class Case:
    """One row of a case table: sizes for the module's `build`, and the ratios that are aimed at."""

    label: str
    sizes: dict[str, Any]
    goals: dict[str, float] = field(default_factory=dict)  # rival -> ratio
    quick: bool = False  # small enough for --quick
    sweep: bool = False  # a point of the plot of ratio against n
    compiled: bool = True  # torch.compile the rivals too
    devices: tuple[str, ...] = ("cpu", "cuda")  # where this row tells something


@dataclass
class Work:
    """What a case runs: this library under the name OURS, its rivals, and the bytes that any of them has to move."""

    runs: dict[str, Callable[[], Any]]
    moved: int
    compilable: dict[str, Callable[[], Callable[[], Any]]] = field(default_factory=dict)  # makes the compiled run
    threads: dict[str, int] = field(default_factory=dict)  # runs that want another number of threads
    factors: dict[str, float] = field(default_factory=dict)  # run -> its size over ours: the growth is reported
    unlike: tuple[str, ...] = ()  # runs that are there for scale, and compute something else
    tolerance: float | None = 1e-3  # of the largest entry; None where results are random or of another shape


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios rival / ours, with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


def paired_ratio(rival: list[float], ours: list[float]) -> Ratio:
    ratios = np.array(rival) / np.array(ours)
    draws = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def copy_of(count: int) -> Callable[[], Any]:
    """A plain copy that moves `count` bytes, half of them read and half written."""
    source = torch.ones(max(count // 8, 1), device=_device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def verify(name: str, found: Any, expected: Any, tolerance: float) -> None:
    """No speed-up of something else: results have to agree before they are timed. A rival may leave out first ones."""
    found, expected = _tensors(found), _tensors(expected)
    for i, (a, b) in enumerate(zip(found, expected[-len(found) :], strict=True)):
        error = (a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30)
        if not error < tolerance:
            raise AssertionError(f"{name}: result {i} is off by {float(error):.1e} of its largest entry")


def _tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in _tensors(part)]


@contextlib.contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stretch(run: Callable[[], Any], inner: int) -> float:
    """Mean seconds of `inner` calls in a row, until the device has done the last of them."""
    wait()
    start = time.perf_counter()
    for _ in range(inner):
        run()
    wait()
    return (time.perf_counter() - start) / inner


def interleaved(work: Work, rounds: int, budget: float) -> dict[str, list[float]]:
    """Seconds a call of every run, in rounds that take each in turn, fewer than `rounds` where `budget` seconds end.

    Warm: an untimed call precedes every stretch, so that no run pays for the caches that the one before it filled nor
    for the memory that it gave back to the system. The order turns by one each round.
    """
    names = list(work.runs)
    inner, times = {}, {name: [] for name in names}
    for name in names:
        with using_threads(work.threads.get(name)):
            work.runs[name]()
            once = stretch(work.runs[name], 1)
            if once < TARGET:
                once = stretch(work.runs[name], max(1, min(100, int(TARGET / 4 / once))))
            inner[name] = max(1, int(TARGET / once))
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for i in range(rounds):
            if i >= 3 and time.perf_counter() - start > budget:
                break
            for name in names[i % len(names) :] + names[: i % len(names)]:
                with using_threads(work.threads.get(name)):
                    work.runs[name]()
                    times[name].append(stretch(work.runs[name], inner[name]))
    finally:
        gc.enable()
    return times
