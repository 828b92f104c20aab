"""Batches that models take, and the data sets of the paper."""

from lps.data.batch import Graphs, Particles

__all__ = ["Graphs", "Particles"]
