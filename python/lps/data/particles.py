"""The charged n-body problem: five particles that attract and repel one another, simulated many systems at once."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lps.data.batch import Particles
from lps.data.files import alone, read, write

SPLITS = {"train": 3000, "valid": 2000, "test": 2000}  # as published
STEP = 0.001
FRAME = 100  # steps between frames
FIRST, LAST = 30, 40  # the frames that are input and target
STRONGEST = 0.1 / STEP  # what a component of a force is clipped to, where two particles all but meet
BOX, SPEED = 5.0, 0.5  # the initial positions are reflected into this box; the initial speed


def sample(count: int, rng: np.random.Generator, n: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and velocities (count, n, 3) at the start, and charges (count, n) of -1 and 1.

    Positions are normal, with a variance that keeps the density of five particles; directions of velocities uniform.
    """
    charges = rng.choice([-1.0, 1.0], (count, n))
    positions = rng.standard_normal((count, n, 3)) * (n / 5) ** (1 / 3)
    velocities = rng.standard_normal((count, n, 3))
    velocities *= SPEED / np.linalg.norm(velocities, axis=-1, keepdims=True)
    outside = np.abs(positions) > BOX
    velocities = np.where(outside, -np.sign(positions) * np.abs(velocities), velocities)
    return np.where(outside, np.sign(positions) * 2 * BOX - positions, positions), velocities, charges


def simulate(
    positions: np.ndarray, velocities: np.ndarray, charges: np.ndarray, steps: int, step: float = STEP
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities (count, n, 3) after that many steps of velocity Verlet.

    The force of j on i is q_i q_j (x_i - x_j) / |x_i - x_j|^3, each component of a particle's force clipped.
    """
    n = positions.shape[1]
    i, j = np.triu_indices(n, 1)
    difference = np.zeros((i.size, n))  # x -> x_i - x_j of each pair; transposed it adds up a particle's forces
    difference[np.arange(i.size), i], difference[np.arange(i.size), j] = 1.0, -1.0
    strength = (charges[:, i] * charges[:, j])[:, :, None]

    def force(x: np.ndarray) -> np.ndarray:
        d = difference @ x
        square = np.einsum("bpd,bpd->bp", d, d)[:, :, None]
        return np.clip(difference.T @ (strength * d / (square * np.sqrt(square))), -STRONGEST, STRONGEST)

    x, v = positions.copy(), velocities.copy()
    f = force(x)
    for _ in range(steps):
        v += 0.5 * step * f
        x += step * v
        f = force(x)
        v += 0.5 * step * f
    return x, v


def energy(positions: np.ndarray, velocities: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """(count,): kinetic energy and the potential q_i q_j / |x_i - x_j| of every pair."""
    i, j = np.triu_indices(positions.shape[1], 1)
    distance = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)
    return 0.5 * (velocities**2).sum((1, 2)) + (charges[:, i] * charges[:, j] / distance).sum(1)


def trajectories(count: int, seed: int, n: int = 5, chunk: int = 500) -> tuple[Particles, Tensor]:
    """Systems at frame 30, and their positions (count, n, 3) at frame 40.

    Frame i is step 100 i; in the published simulator, whose frame 0 is step 100, it is 100 steps later.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for size in [chunk] * (count // chunk) + [count % chunk] * (count % chunk > 0):  # a chunk's arrays stay in cache
        x, v, q = sample(size, rng, n)
        x, v = simulate(x, v, q, FIRST * FRAME)
        parts.append((x, v, q, simulate(x, v, q, (LAST - FIRST) * FRAME)[0]))
    x, v, q, target = (torch.from_numpy(np.concatenate(p)).float() for p in zip(*parts))
    return Particles(x, v, q, torch.arange(count)), target


def nbody(split: str, seed: int = 0, count: int | None = None) -> tuple[Particles, Tensor]:
    """A split of 3,000, 2,000 or 2,000 systems, or some other number; simulated once and kept in $LPS_CACHE."""
    count = SPLITS[split] if count is None else count
    cache = Path(os.environ.get("LPS_CACHE", Path.home() / ".cache" / "lps"))
    path = cache / f"nbody-{split}-{count}-{seed}.pt"
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache):  # torchrun's processes simulate once
        if path.exists():
            try:
                held = read(path)
                if held.get("name") != path.name:
                    raise ValueError(f"{path}: expected systems of this name")
                return Particles(*held["particles"], torch.arange(count)), held["target"]
            except ValueError as error:
                warnings.warn(f"{error}; the systems are simulated anew", stacklevel=2)
        particles, target = trajectories(count, seed=[seed, list(SPLITS).index(split)])
        parts = [particles.positions, particles.velocities, particles.charges]
        write(path, {"name": path.name, "particles": parts, "target": target})
    return particles, target
