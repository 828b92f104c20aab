"""Group elements: light, immutable holders of tensors that know how to act on inputs and outputs."""

from lps_kernels.elements.base import Composition, GroupElement
from lps_kernels.elements.permutation import Permutation

__all__ = ["Composition", "GroupElement", "Permutation"]
