"""Batches that models take, and the data sets of the paper."""

from lps.data.batch import Graphs, Particles
from lps.data.benchmarks import benchmark
from lps.data.files import DataError
from lps.data.particles import SPLITS, nbody
from lps.data.ragged import IGNORED, UNLABELLED, RaggedGraphs
from lps.data.separation import automorphic, exp, exp_like, exp_splits, graph8c
from lps.data.synthetic import contact_like, pattern_like, peptides_like

__all__ = [
    "IGNORED",
    "SPLITS",
    "UNLABELLED",
    "DataError",
    "Graphs",
    "Particles",
    "RaggedGraphs",
    "automorphic",
    "benchmark",
    "contact_like",
    "exp",
    "exp_like",
    "exp_splits",
    "graph8c",
    "nbody",
    "pattern_like",
    "peptides_like",
]
