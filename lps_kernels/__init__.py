"""Probabilistic symmetrization, fast: group elements, their action on data, and the average over samples."""

from lps_kernels import native  # noqa: F401  (loads the compiled kernels before any op looks for them)
from lps_kernels.checks import check_finite
from lps_kernels.elements import Euclidean, GroupElement, Orthogonal, Permutation, Product, Unitary
from lps_kernels.op import backend
from lps_kernels.ops.gram_schmidt import gram_schmidt
from lps_kernels.ops.inverse_permute_mean import inverse_permute
from lps_kernels.ops.inverse_rotate_mean import inverse_rotate
from lps_kernels.ops.permute import permute
from lps_kernels.ops.rotate import rotate
from lps_kernels.ops.sample_permute import sample_permute
from lps_kernels.ops.sample_rotate import sample_rotate
from lps_kernels.ops.soft_sort import SoftSort, softsort
from lps_kernels.symmetrize import Symmetrized, symmetrize
from lps_kernels.version import __version__

__all__ = [
    "Euclidean",
    "GroupElement",
    "Orthogonal",
    "Permutation",
    "Product",
    "SoftSort",
    "Symmetrized",
    "Unitary",
    "__version__",
    "backend",
    "check_finite",
    "gram_schmidt",
    "inverse_permute",
    "inverse_rotate",
    "permute",
    "rotate",
    "sample_permute",
    "sample_rotate",
    "softsort",
    "symmetrize",
]
