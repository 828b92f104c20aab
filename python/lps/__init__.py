"""Probabilistic symmetrization: the system of the paper, on top of lps_kernels."""
