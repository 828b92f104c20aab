"""What every distribution of group elements is, and the names of groups."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

import lps_kernels as lk
from lps.data.batch import Graphs, Particles


class Sample(NamedTuple):
    """What a distribution returns: a group element with k samples, and a penalty to be added to the loss."""

    g: lk.GroupElement
    entropy: Tensor


class Distribution(nn.Module):
    """p(g|x): distribution(x, k) -> Sample, for graphs or particles x. The samples must follow x: p(hg|hx) = p(g|x)."""

    def forward(self, x: Graphs | Particles, k: int) -> Sample:
        raise NotImplementedError


class Symmetry(NamedTuple):
    """A group by its name: "S_n", a motion "O(3)", "SO(3)", "E(3)" or "SE(3)", or "S_n x " one of these.

    >>> assert Symmetry.parse("S_n x SE(3)") == Symmetry(permutes=True, moves=True, centers=True, special=True)
    """

    permutes: bool
    moves: bool
    centers: bool
    special: bool

    @classmethod
    def parse(cls, name: str) -> Symmetry:
        found = re.fullmatch(r"(S_n)?( x )?((S?)([OE])\(3\))?", name) if isinstance(name, str) else None
        if not found or not name or bool(found[2]) != bool(found[1] and found[3]):
            raise ValueError(
                f"symmetry: expected 'S_n', 'O(3)', 'SO(3)', 'E(3)', 'SE(3)' or 'S_n x ' one of these, got {name!r}"
            )
        return cls(bool(found[1]), bool(found[3]), found[5] == "E", bool(found[4]))

    def element(self, permutation: lk.GroupElement | None, motion: lk.GroupElement | None) -> lk.GroupElement:
        """The group element of the factors that this group has."""
        if self.permutes and self.moves:
            return lk.Product(permutation, motion)
        return permutation if self.permutes else motion

    def check(self, x: Graphs | Particles) -> None:
        """Graphs have no positions: only their nodes can be permuted."""
        if self.moves and not isinstance(x, Particles):
            raise ValueError(f"symmetry: expected 'S_n' for {type(x).__name__}, which have no positions")


def nothing(x: Tensor) -> Tensor:
    """The penalty of a distribution that has none: a scalar zero."""
    return x.new_zeros(())


def full_precision(device: torch.device) -> torch.autocast:
    """Without autocast: bfloat16 scores of 188 nodes hold a dozen ties, which would be sorted at random."""
    return torch.autocast(device.type, enabled=False)
