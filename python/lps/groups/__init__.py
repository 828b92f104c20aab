"""Equivariant distributions p(g|x): learned, uniform, frames and canonical."""

from lps.groups.base import Distribution, Sample, Symmetry
from lps.groups.build import build
from lps.groups.given import GraphFrames, ParticleFrames, Uniform
from lps.groups.learned import Canonical, GraphDistribution, ParticleDistribution

__all__ = [
    "Canonical",
    "Distribution",
    "GraphDistribution",
    "GraphFrames",
    "ParticleDistribution",
    "ParticleFrames",
    "Sample",
    "Symmetry",
    "Uniform",
    "build",
]
