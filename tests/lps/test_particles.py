"""The n-body simulator: what physics says of it, and that its data sets are kept."""

import numpy as np
import pytest
import torch
from lps import data
from lps.data import particles


def test_nbody_conserves_energy_and_momentum():
    x, v, q = particles.sample(200, np.random.default_rng(0))
    assert np.allclose(np.linalg.norm(v, axis=-1), 0.5) and set(np.unique(q)) == {-1.0, 1.0}
    before = particles.energy(x, v, q)
    drifts = []
    for step in (2e-3, 1e-3):
        end = particles.simulate(x, v, q, round(0.5 / step), step)
        calm = np.abs(end[0]).max((1, 2)) < 20  # nothing was flung away by a meeting that a step jumps over
        drifts.append(np.quantile(np.abs(particles.energy(*end, q) - before)[calm], 0.5))
    assert drifts[1] < 1e-6 and 3 < drifts[0] / drifts[1] < 5, "velocity Verlet is of second order"
    momentum = np.abs(end[1].sum(1) - v.sum(1)).max(-1)
    assert np.quantile(momentum, 0.8) < 1e-12  # but where a force was clipped


def test_nbody_runs_backwards_to_where_it_began():
    x, v, q = particles.sample(20, np.random.default_rng(1))
    x1, v1 = particles.simulate(x, v, q, 200)
    x2, v2 = particles.simulate(x1, -v1, q, 200)
    assert np.quantile(np.abs(x2 - x), 0.9) < 1e-9 and np.quantile(np.abs(v2 + v), 0.9) < 1e-9


def test_nbody_forces_are_those_of_coulomb():
    x = np.array([[[0.0, 0, 0], [2.0, 0, 0]]])
    for sign in (1.0, -1.0):
        _, v = particles.simulate(x, np.zeros((1, 2, 3)), np.array([[1.0, sign]]), 1, step=1e-6)
        assert np.allclose(v[0, :, 0] * 1e6, [-sign / 4, sign / 4], rtol=1e-5)


def test_nbody_splits_are_kept_whole_and_differ(tmp_path, monkeypatch):
    monkeypatch.setenv("LPS_CACHE", str(tmp_path))
    monkeypatch.setattr(particles, "FRAME", 2)
    first, target = data.nbody("train", count=6)
    again, same = data.nbody("train", count=6)
    assert torch.equal(first.positions, again.positions) and torch.equal(target, same)
    assert len(list(tmp_path.iterdir())) == 1
    assert not torch.equal(data.nbody("valid", count=6)[0].positions, first.positions)
    file = next(tmp_path.glob("nbody-train-*"))
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = next(tmp_path.glob("nbody-valid-*")).read_bytes()
    for kept in (b"", whole[:100], bytes(flipped), other):
        file.write_bytes(kept)
        with pytest.warns(UserWarning, match=rf"{file}: expected .*; the systems are simulated anew"):
            again, same = data.nbody("train", count=6)
        assert torch.equal(first.positions, again.positions) and torch.equal(target, same)
        assert file.read_bytes() == whole
    assert target.shape == (6, 5, 3) and (target - first.positions).abs().max() > 0
